"""Tone mapping of HDR video (PQ and HLG) to SDR of BT.709, which networks are trained on and overlay videos use.

Values come from two tables. The first one maps luma of 10 bits as if every pixel were grey. The second one is used at
the resolution of chroma: from all three components it gives the chroma, and the difference between the luma of the
colour and the luma of the grey. This takes a few milliseconds per frame of 1920x1080 (docs/video.md). FFmpeg's filters
compute in float32 and need a library that PyAV's wheels lack.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.frames import Array
from pipeline.video.drawing.picture import BT709, Picture, Yuv

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.uint16]

PQ, HLG = 16, 18  # ITU-T H.273, table 3
NAMES = {PQ: "PQ", HLG: "HLG"}
_ODD = {8: "linear", 9: "logarithmic", 10: "logarithmic", 17: "SMPTE 428"}
#: Colours of the tone-mapped pictures.
SDR = Yuv(matrix=BT709, primaries=BT709, transfer=BT709)
#: Pixel format that :func:`tone_mapped` takes.
FORMAT = "yuv420p10le"

_WHITE_NITS = 203.0  # cd/m2 of diffuse white in HDR; it becomes the white of SDR (ITU-R BT.2408, table 1)
_PEAK_NITS = 1000.0  # cd/m2 for which most PQ video is mastered; brighter light becomes white
#: Signal of the diffuse white (BT.2408, table 1). On a display that shows it as dim as SDR's white (89 cd/m2, a peak of
#: 334), the system gamma of HLG is 1 (BT.2100, note 5f): light on the display is light of the scene.
_HLG_WHITE = 0.75
_SDR_GAMMA = 2.4  # of displays (ITU-R BT.1886)
_KNEE = 0.7  # light relative to white: darker light is unchanged, brighter light up to the peak is compressed

#: Red, green, blue and white in CIE xy by the number of the primaries (H.273, table 2); all have the white D65.
_D65 = (0.3127, 0.3290)
_PRIMARIES = {
    1: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
BT2020 = 9

_LUMA_BITS, _CHROMA_BITS = 3, 4  # low bits of 10, between two steps of the second table
_LUMA_STEPS, _CHROMA_STEPS = (1024 >> _LUMA_BITS) + 1, (1024 >> _CHROMA_BITS) + 1
_FRACTION = 5  # bits that OpenCV uses for positions between two pixels
_GREY = np.array([0.0, 512, 512])  # offsets of Y, U, V in 10 bits
_GREY_8 = np.array([0.0, 128, 128])
_SLICE = 8  # rows of the table that are computed together; all of them would need much memory


def remark(transfer: int, *, mapped: bool) -> str:
    """The warning about a transfer curve; empty for curves of SDR.

    Args:
        transfer: H.273's number.
        mapped: whether HDR is tone-mapped.
    """
    if transfer in _ODD:
        return f"its transfer curve ({_ODD[transfer]}) is not converted: colours are not those that networks know"
    if transfer not in NAMES:
        return ""
    name = NAMES[transfer]
    if mapped:
        return f"is HDR ({name}): tone-mapped to SDR of BT.709; --no-tone-map keeps it"
    return (
        f"is HDR ({name}) and kept so: networks that know SDR find less in it, and the overlay video has 8 bits of it"
    )


def tone_mapped(frame: Any, yuv: Yuv) -> Picture:
    """A frame of :data:`FORMAT` as SDR of BT.709.

    Args:
        frame: av.VideoFrame.
        yuv: matrix, range, primaries and transfer curve of its planes; the curve is PQ or HLG.

    Returns:
        A picture of 8 bits: YUV 4:2:0, or BGR if a side is odd. Light up to 70 % of the diffuse white (203 cd/m2,
        BT.2408) is unchanged, brighter light is compressed, and colours outside of BT.709 are clipped.
    """
    greys, colours = _tables(yuv)
    luma, u, v = (_plane(frame, index) for index in range(3))
    size = (luma.shape[1], luma.shape[0])  # (width, height), as OpenCV has it
    half = np.asarray(cv2.resize(luma, (u.shape[1], u.shape[0]), interpolation=cv2.INTER_AREA), np.uint16)
    looked_up = cv2.remap(colours, *_places(half, u, v), cv2.INTER_LINEAR)  # (h, w, 3): difference of luma + 128, U, V
    difference, *chroma = cv2.split(np.asarray(looked_up, np.uint8))
    grey = np.take(greys, luma, mode="clip")
    difference = cv2.resize(difference, size, interpolation=cv2.INTER_LINEAR)
    planes = (cv2.addWeighted(grey, 1, difference, 1, -128), *chroma)
    picture = Picture(tuple(np.asarray(plane, np.uint8) for plane in planes), SDR)
    if size[0] % 2 == 0 and size[1] % 2 == 0:
        return picture
    return Picture.of_bgr(_odd_bgr(picture))


def _odd_bgr(picture: Picture) -> Array:
    """(H, W, 3) BGR of planes with an odd height or width."""
    luma, u, v = picture.planes
    height, width = luma.shape
    below, right = 2 * u.shape[0] - height, 2 * u.shape[1] - width
    whole = np.asarray(cv2.copyMakeBorder(luma, 0, below, 0, right, cv2.BORDER_REPLICATE), np.uint8)
    return np.ascontiguousarray(Picture((whole, u, v), SDR).bgr()[:height, :width])


def _plane(frame: Any, index: int) -> Codes:
    """(height, width) of one plane, as a view; lines are padded in memory."""
    plane = frame.planes[index]
    return np.frombuffer(plane, "<u2").reshape(-1, plane.line_size // 2)[: plane.height, : plane.width]


def _places(luma: Codes, u: Codes, v: Codes) -> tuple[npt.NDArray[np.int16], Codes]:
    """Positions of (h, w) colours in the second table: columns and rows (h, w, 2), and fractions in OpenCV's format.

    Chroma is interpolated. Luma is rounded to the nearest step, because the first table gives it exactly.
    """
    step = (luma + np.uint16(1 << (_LUMA_BITS - 1))) >> np.uint16(_LUMA_BITS)
    columns = step * np.uint16(_CHROMA_STEPS) + (u >> np.uint16(_CHROMA_BITS))
    whole = cv2.merge([columns.view(np.int16), (v >> np.uint16(_CHROMA_BITS)).view(np.int16)])
    below = np.uint16((1 << _CHROMA_BITS) - 1)
    finer = np.uint16(_FRACTION - _CHROMA_BITS)
    fractions = ((u & below) << finer) + ((v & below) << (finer + np.uint16(_FRACTION)))
    return np.asarray(whole, np.int16), fractions


@lru_cache(maxsize=4)
def _tables(yuv: Yuv) -> tuple[Array, Array]:
    """The first table, luma (1024,) of greys; the second, (V, luma x U, 3): luma minus that of the grey + 128, U, V."""
    codes = np.arange(1024.0)
    greys = _mapped(codes[:, None] * [1, 0, 0] + _GREY, yuv)[:, 0]
    luma = np.minimum(np.arange(_LUMA_STEPS) << _LUMA_BITS, 1023)
    chroma = (np.arange(_CHROMA_STEPS) << _CHROMA_BITS).astype(np.float64)
    columns = np.stack(np.broadcast_arrays(luma[:, None], chroma[None, :]), axis=-1).reshape(-1, 2)
    colours = np.empty((_CHROMA_STEPS, len(columns), 3), np.uint8)
    base = np.repeat(greys[luma], _CHROMA_STEPS)
    for top in range(0, _CHROMA_STEPS, _SLICE):
        rows = chroma[top : top + _SLICE]
        codes = np.empty((len(rows), len(columns), 3))
        codes[..., :2], codes[..., 2] = columns, rows[:, None]
        mapped = _mapped(codes, yuv)
        mapped[..., 0] += 128 - base
        colours[top : top + _SLICE] = np.clip(np.rint(mapped), 0, 255)
    return np.clip(np.rint(greys), 0, 255).astype(np.uint8), colours


def _mapped(codes: Floats, yuv: Yuv) -> Floats:
    """Y, U, V in 0..1023 of HDR (..., 3) as Y, U, V in 0..255 of SDR, not rounded."""
    short = (codes - _GREY) * (255 / 1023 if yuv.full_range else 1 / 4) + _GREY_8  # as values of 8 bits
    matrix = yuv.matrix if yuv.matrix in (1, 4, 5, 6, 7, 9, 10) else BT2020
    to_bgr = yuv._replace(matrix=matrix).to_bgr()
    signal = np.clip(short @ to_bgr[:, :3].T + to_bgr[:, 3], 0, 255)[..., ::-1] / 255  # RGB
    wide, peak = _light(signal, yuv.transfer)
    light = np.maximum(wide @ _to_bt709(yuv.primaries).T, 0)
    brightest = light.max(axis=-1, keepdims=True)
    over = np.maximum(brightest - _KNEE, 0)
    slope = (peak - _KNEE) / (1 - _KNEE)  # of the curve at its start, against that of a line to the peak
    share = over / (peak - _KNEE)
    rolled = _KNEE + (1 - _KNEE) * share * slope / (1 + share * (slope - 1))
    light *= np.where(over > 0, rolled / np.maximum(brightest, _KNEE), 1)
    bgr = 255 * np.minimum(light, 1)[..., ::-1] ** (1 / _SDR_GAMMA)
    from_bgr = SDR.from_bgr()
    return np.asarray(bgr @ from_bgr[:, :3].T + from_bgr[:, 3], np.float64)


def _light(signal: Floats, transfer: int) -> tuple[Floats, float]:
    """Light of R, G, B (..., 3), and of the brightest white, relative to the diffuse white."""
    if transfer == PQ:  # SMPTE ST 2084
        root = signal ** (32 / 2523)
        light = np.maximum(root - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * root)
        return 10_000 / _WHITE_NITS * light ** (16384 / 2610), _PEAK_NITS / _WHITE_NITS
    white = float(_hlg_scene(np.array(_HLG_WHITE)))
    return _hlg_scene(signal) / white, 1 / white


def _hlg_scene(signal: Floats) -> Floats:
    """Light of the scene, 0..1 (ARIB STD-B67)."""
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)


def _to_bt709(primaries: int) -> Floats:
    """(3, 3): linear RGB of other primaries to linear RGB of BT.709. Unknown primaries are taken as BT.2020."""
    there = _to_xyz(_PRIMARIES.get(primaries, _PRIMARIES[BT2020]))
    return np.asarray(np.linalg.inv(_to_xyz(_PRIMARIES[BT709])) @ there, np.float64)


def _to_xyz(corners: tuple[tuple[float, float], ...]) -> Floats:
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in corners]).T
    x, y = _D65
    return np.asarray(columns * np.linalg.solve(columns, [x / y, 1, (1 - x - y) / y]), np.float64)
