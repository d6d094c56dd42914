"""Random scale, crop, flip and colours of a frame and its label map, with the filters of the deployed path.

The crop is cut before it is resized, so the cost is that of the crop, not of the frame, and a frame that is
memory-mapped is read only where it is needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.frames import Array, resize_frame, resize_label_map

FLIP = 0.5  # probability
Floats = npt.NDArray[np.float32]
#: Half widths of the ranges around 1 (hue: around 0, in turns), as SSD's photometric distortion has them.
BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.125, 0.5, 0.5, 0.05
#: NTSC: RGB to luma and two chroma axes (Y, I, Q). Rows I and Q sum to 0, so a grey has no chroma.
YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


@dataclass(frozen=True)
class Window:
    """Which part of a frame a crop shows, and where: source pixels and their place in the crop along each axis.

    Attributes:
        frame, crop: (height, width) of both.
        mirrored: whether the part is mirrored in its place.
    """

    frame: tuple[int, int]
    crop: tuple[int, int]
    rows: slice
    columns: slice
    to_rows: slice
    to_columns: slice
    mirrored: bool

    def to_frame(self) -> Floats:
        """The affine map (2, 3) from places in the crop to places in the frame, as ``F.affine_grid`` takes it: x and y
        from -1 to 1 between the outer edges of the first and the last pixel (align_corners False)."""
        y = _line(self.rows, self.to_rows, frame=self.frame[0], crop=self.crop[0])
        x = _line(self.columns, self.to_columns, frame=self.frame[1], crop=self.crop[1], mirrored=self.mirrored)
        return np.array([[x[0], 0.0, x[1]], [0.0, *y]], np.float32)


@dataclass(frozen=True)
class Augmentation:
    """``augment(frame, label, generator)`` gives an image (3, h, w) uint8 RGB and a target (h, w) uint8 train ids.

    Factor 1 makes the frame as large as ``input_size`` (aspect kept, both sides cover). Along each axis, a window of
    ``round(crop / factor)`` whole source pixels is cut at a random position and resized to ``crop``. Compared with
    resizing the whole frame by ``crop / window`` and cutting at that position, only pixels whose filter would reach
    over the window's edge differ: there the edge is repeated. The window is whole pixels, so the factor of an axis is
    off by ``0.5 / window`` at most. A frame that is smaller than the window is placed at a random position in the crop;
    the rest of the crop is black and has the id ``padding``.

    Args:
        crop: (height, width) of the result.
        input_size: (height, width) that the frame covers at factor 1.
        scale: lowest and highest factor.
        padding: id of pixels outside the frame.
        colour: probability, in 0..1, that the colours change.
    """

    crop: tuple[int, int]
    input_size: tuple[int, int]
    scale: tuple[float, float]
    padding: int
    colour: float

    @property
    def pads(self) -> bool:
        """Whether a frame may be smaller than its crop."""
        return any(crop > side * self.scale[0] for crop, side in zip(self.crop, self.input_size, strict=True))

    def __call__(self, frame: Array, label: Array, generator: np.random.Generator) -> tuple[Array, Array]:
        """Cut, resize, flip and colour one frame (H, W, 3) BGR and its label map (H, W), all random by ``generator``.

        Neither is written to: both may be memory-mapped read-only.
        """
        return self.cut(frame, label, self.window(label.shape, generator), generator)

    def window(self, size: tuple[int, ...], generator: np.random.Generator) -> Window:
        """A random window of a frame of (height, width) ``size``."""
        height, width = size
        fit = max(self.input_size[0] / height, self.input_size[1] / width)
        factor = fit * generator.uniform(*self.scale)
        rows, to_rows = _axis(height, self.crop[0], factor, generator)
        columns, to_columns = _axis(width, self.crop[1], factor, generator)
        mirrored = generator.random() < FLIP
        return Window((height, width), self.crop, rows, columns, to_rows, to_columns, mirrored)

    def cut(self, frame: Array, label: Array, window: Window, generator: np.random.Generator) -> tuple[Array, Array]:
        """The crop that a window shows, with random colours."""
        rows, columns = window.to_rows, window.to_columns
        visible = (rows.stop - rows.start, columns.stop - columns.start)
        image = resize_frame(frame[window.rows, window.columns], visible)
        target = resize_label_map(label[window.rows, window.columns], visible)
        if window.mirrored:
            image, target = np.asarray(cv2.flip(image, 1), np.uint8), np.asarray(cv2.flip(target, 1), np.uint8)
        if generator.random() < self.colour:
            image = recolour(
                image,
                brightness=1 + BRIGHTNESS * generator.uniform(-1, 1),
                contrast=1 + CONTRAST * generator.uniform(-1, 1),
                saturation=1 + SATURATION * generator.uniform(-1, 1),
                hue=HUE * generator.uniform(-1, 1),
            )
        pixels = np.empty((3, *self.crop), np.uint8)
        ids = np.full(self.crop, self.padding, np.uint8)
        if visible != self.crop:
            pixels[:] = 0
        pixels[:, rows, columns] = np.stack(cv2.split(image)[::-1])
        ids[rows, columns] = target
        return pixels, ids


def _line(source: slice, place: slice, *, frame: int, crop: int, mirrored: bool = False) -> tuple[float, float]:
    """Slope and offset of one axis of :meth:`Window.to_frame`."""
    share = (source.stop - source.start) / (place.stop - place.start) / frame  # of the frame, per pixel of the crop
    middle = (crop / 2 - place.start) * share
    if mirrored:
        return -share * crop, 2 * (source.stop / frame - middle) - 1
    return share * crop, 2 * (source.start / frame + middle) - 1


def _axis(length: int, crop: int, factor: float, generator: np.random.Generator) -> tuple[slice, slice]:
    """Which of ``length`` source pixels are cut, and their position in the crop."""
    window = max(1, round(crop / factor))
    if window <= length:
        start = int(generator.integers(length - window + 1))
        return slice(start, start + window), slice(0, crop)
    size = min(crop, max(1, round(length * factor)))
    start = int(generator.integers(crop - size + 1))
    return slice(0, length), slice(start, start + size)


def recolour(image: Array, *, brightness: float, contrast: float, saturation: float, hue: float) -> Array:
    """Change brightness, contrast, saturation and hue of an image (H, W, 3) BGR uint8 in one pass. Only ``brightness``
    changes the image's mean luma.

    Without rounding and clipping in between, the four are one affine map of RGB, in any order. Brightness multiplies;
    contrast scales the distance to the image's mean luma, saturation the distance to the pixel's luma, as in
    torchvision; hue rotates the chroma plane of YIQ by ``hue`` turns, which keeps luma (torchvision rotates HSV, which
    does not).

    Args:
        brightness, contrast, saturation: factors; 1 changes nothing.
        hue: in turns; 0 changes nothing.
    """
    cosine, sine = (saturation * f(2 * math.pi * hue) for f in (math.cos, math.sin))
    chroma = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    linear = brightness * contrast * np.linalg.inv(YIQ) @ chroma @ YIQ  # (RGB, RGB)
    luma = float(YIQ[0] @ np.array(cv2.mean(image)[2::-1]))
    offset = np.full((3, 1), brightness * (1 - contrast) * luma)
    matrix: npt.NDArray[np.float64] = np.hstack([linear[::-1, ::-1], offset])  # (BGR, BGR + 1)
    return np.asarray(cv2.transform(image, matrix), np.uint8)
