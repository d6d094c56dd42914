"""HDR as SDR, compared with the formulas of the standards, which are written here again, in the inverse direction."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.frames import Array
from pipeline.video.drawing.picture import Picture, Yuv
from pipeline.video.sources import StreamOptions, open_source
from pipeline.video.sources._decoded import picture_of
from pipeline.video.sources._hdr import HLG, PQ

av = pytest.importorskip("av", reason="PyAV makes the test videos")

Floats = Any
#: Linear RGB of BT.709 as that of BT.2020 (ITU-R BT.2087, table 1).
WIDER = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
BT2020 = Yuv(matrix=9, primaries=9)


def light_of(bgr: Floats) -> Floats:
    """Linear RGB (..., 3) of BT.709, 1 is white, as a display shows it."""
    return (np.asarray(bgr, float)[..., ::-1] / 255) ** 2.4


def pq(light: Floats) -> Floats:
    """Signal of light where 1 is 203 cd/m2 (SMPTE ST 2084)."""
    power = (light * 203 / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def hlg(light: Floats) -> Floats:
    """Signal of light where 1 is the diffuse white, three quarters of the signal (ARIB STD-B67)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = light * (np.exp((0.75 - c) / a) + b) / 12
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(12 * scene - b) + c)


CURVES = {PQ: pq, HLG: hlg}


def hdr_frame(light: Floats, transfer: int, *, form: str = "yuv420p10le", full: bool = False) -> Any:
    """A frame of linear RGB (H, W, 3) of BT.709."""
    signal = CURVES[transfer](np.clip(light @ WIDER.T, 0, None))
    image = np.rint(np.clip(signal, 0, 1) * 65535).astype(np.uint16)
    frame = av.VideoFrame.from_ndarray(image, format="rgb48le")
    if form != "rgb48le":
        frame = frame.reformat(
            format=form, dst_colorspace=9, src_color_range=2, dst_color_range=2 if full else 1, interpolation="BICUBIC"
        )
    frame.colorspace, frame.color_primaries, frame.color_trc = 9, 9, transfer
    frame.color_range = 2 if full else 1
    return frame


def patches(colours: Floats, side: int = 16) -> Floats:
    """(side, N side, 3): a square of each colour (N, 3)."""
    return np.repeat(np.repeat(np.asarray(colours, float)[None], side, axis=0), side, axis=1)


def centres(image: Array, side: int = 16) -> Floats:
    return image[side // 2, side // 2 :: side].astype(int)


COLOURS = [  # BGR
    *([level] * 3 for level in (16, 40, 80, 120, 160, 200, 215)),
    *([30, 30, 200], [30, 180, 30], [200, 40, 40], [40, 170, 190], [90, 120, 160]),
]


@pytest.mark.parametrize("transfer", [PQ, HLG])
@pytest.mark.parametrize(
    ("form", "full"),
    [*product(["yuv420p10le", "p010le", "yuv422p10le", "yuv444p12le"], [False, True]), ("rgb48le", False)],
)
def test_what_is_not_brighter_than_sdr_is_as_in_sdr(transfer: int, full: bool, form: str) -> None:
    picture = picture_of(hdr_frame(patches(light_of(COLOURS)), transfer, form=form, full=full))
    assert picture.yuv == Yuv(matrix=1, full_range=False, primaries=1, transfer=1)
    got = centres(picture.bgr())
    assert abs(got[:7] - COLOURS[:7]).max() <= 5, "greys"
    assert abs(got - COLOURS).max() <= 14, "of pure colours the darkest part is the least exact in HDR, too"
    assert abs(got - COLOURS).mean() <= 2


def test_8_bits_of_hlg() -> None:
    got = centres(picture_of(hdr_frame(patches(light_of(COLOURS)), HLG, form="yuv420p")).bgr())
    assert abs(got - COLOURS).mean() <= 3, "8 bits of HLG are coarser"


@pytest.mark.parametrize(("transfer", "peak"), [(PQ, 1000 / 203), (HLG, 3.77)])
def test_highlights_are_compressed_up_to_white(transfer: int, peak: float) -> None:
    levels = np.array([0.5, 0.7, 1, 1.5, 2, 3, peak])
    got = centres(picture_of(hdr_frame(patches(np.repeat(levels[:, None], 3, axis=1)), transfer)).bgr())[:, 1]
    assert (np.diff(got) >= 1).all(), got
    assert got[0] == pytest.approx(255 * 0.5 ** (1 / 2.4), abs=2)
    assert 225 <= got[2] <= 245, "a diffuse white is near the top, and leaves room"
    assert got[-1] >= 253


def test_highlights_keep_their_hue() -> None:
    light = light_of([60, 90, 200]) * 2.5
    blue, green, red = centres(picture_of(hdr_frame(patches([light]), PQ)).bgr())[0]
    there = light_of([blue, green, red])
    assert red > 220
    assert there / there[0] == pytest.approx(light / light[0], abs=0.04)


@pytest.mark.parametrize("size", [(47, 64), (48, 63), (1, 1), (1, 2)])
def test_odd_sizes(size: tuple[int, int]) -> None:
    light = np.broadcast_to(light_of([90, 120, 160]), (*size, 3))
    picture = picture_of(hdr_frame(light, PQ))
    assert picture.size == size
    assert abs(picture.bgr().astype(int) - [90, 120, 160]).max() <= 5


def test_switch() -> None:
    frame = hdr_frame(patches(light_of(COLOURS)), PQ)
    picture = picture_of(frame, tone_map=False)
    assert picture.yuv == Yuv(matrix=9, full_range=False, primaries=9, transfer=PQ)
    assert abs(centres(picture.bgr()) - COLOURS).mean() > 20, "flat, as it was stored"


def clip(path: Path, transfer: int, *, rotation: int = 0) -> Path:
    """Three frames of H.264 of 10 bits: the colours of :data:`COLOURS`, in HDR."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "4"})
        stream.width, stream.height, stream.pix_fmt = 16 * len(COLOURS), 16, "yuv420p10le"
        codec = stream.codec_context
        codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range = 9, 9, transfer, 1
        if rotation:
            stream.set_display_rotation(rotation)
        for _ in range(3):
            frame = hdr_frame(patches(light_of(COLOURS)), transfer if transfer in CURVES else PQ)
            frame.color_trc = transfer
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("transfer", "name"), [(PQ, "PQ"), (HLG, "HLG")])
def test_file(tmp_path: Path, transfer: int, name: str, caplog: pytest.LogCaptureFixture) -> None:
    path = clip(tmp_path / "phone.mp4", transfer)
    for _ in range(2):
        source = open_source(str(path))
        pictures = [frame.picture for frame in source.frames()]
        assert len(pictures) == 3
        for picture in pictures:
            assert abs(centres(picture.bgr()) - COLOURS).mean() <= 3
        assert caplog.messages == [f"{path}: is HDR ({name}): tone-mapped to SDR of BT.709; --no-tone-map keeps it"]
        caplog.clear()


def test_file_that_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = clip(tmp_path / "phone.mp4", PQ)
    (picture, *_) = [f.picture for f in open_source(str(path), reading=StreamOptions(tone_map=False)).frames()]
    assert picture.yuv is not None
    assert picture.yuv.transfer == PQ
    assert len(caplog.messages) == 1
    assert "is HDR (PQ) and kept so: " in caplog.messages[0]


def test_rotated_file(tmp_path: Path) -> None:
    picture = next(open_source(str(clip(tmp_path / "phone.mp4", HLG, rotation=90))).frames()).picture
    upright: Picture = picture
    assert upright.size == (16 * len(COLOURS), 16)
    got = upright.bgr()[8::16, 8].astype(int)[::-1]
    assert abs(got - COLOURS).mean() <= 3


def test_curves_that_are_not_converted_have_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    list(open_source(str(clip(tmp_path / "raw.mp4", 8))).frames())
    assert len(caplog.messages) == 1
    assert "its transfer curve (linear) is not converted" in caplog.messages[0]


def test_sdr_has_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for transfer in (1, 6, 14):
        picture = next(open_source(str(clip(tmp_path / f"{transfer}.mp4", transfer))).frames()).picture
        assert picture.yuv is not None
        assert picture.yuv.transfer == transfer
    assert not caplog.messages


@pytest.mark.parametrize(("transfer", "warns"), [(2, True), (PQ, False)])
def test_dolby_vision_alone_has_a_warning(
    tmp_path: Path, transfer: int, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Profile 5 has its own tag, and colours that are neither RGB nor YUV; others can be read as HDR10 or HLG."""
    path = tmp_path / "dolby.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx265", rate=25, options={"x265-params": "log-level=none:bframes=0"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p10le"
        codec = stream.codec_context
        codec.codec_tag = "hvc1"
        codec.color_trc = transfer
        for index in range(2):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 90, np.uint8), format="bgr24")
            frame = frame.reformat(format="yuv420p10le")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    data = path.read_bytes()
    assert data.count(b"hvc1") >= 1
    path.write_bytes(data.replace(b"hvc1", b"dvh1"))  # FFmpeg does not always write this tag
    open_source(str(path))
    assert any("is Dolby Vision without a layer" in text for text in caplog.messages) == warns
