"""Reading and resizing of frames and label maps: the one path that training, calibration, checks and video share.

Frames are BGR uint8 as OpenCV delivers them, label maps uint8 train ids; sizes are (height, width).
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.errors import UserError

Array = npt.NDArray[np.uint8]


def read_frame(path: Path) -> Array:
    """An image file as (H, W, 3) BGR uint8. Raises UserError when it is missing or not an image."""
    data = _bytes(path)
    frame = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if frame is None:
        raise UserError(f"{path}: not a readable image; restore the file or remove it from its list")
    return np.asarray(frame, np.uint8)


def read_label_map(path: Path) -> Array:
    """A label file as (H, W) uint8. Raises UserError when it is missing, no image, or not single-channel 8-bit."""
    data = _bytes(path)
    label = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if label is None:
        raise UserError(f"{path}: not a readable image; restore the file or remove it from its list")
    if label.ndim != 2 or label.dtype != np.uint8:
        raise UserError(f"{path}: a label map is one 8-bit channel; got shape {label.shape}, {label.dtype}")
    return np.asarray(label, np.uint8)


def _bytes(path: Path) -> Array:
    try:
        return np.fromfile(path, np.uint8)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def write_png(path: Path, image: Array) -> None:
    """Write a frame (H, W, 3) or a label map (H, W) as PNG, losslessly and with the same bytes every time."""
    done, data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    assert done, f"OpenCV refused to encode a {image.shape} {image.dtype} array"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.tobytes())


def resize_frame(frame: Array, size: tuple[int, int]) -> Array:
    """Bilinear resize of a frame to ``size`` (height, width); area average when it shrinks by more than 2."""
    if frame.shape[:2] == size:
        return frame
    shrink = max(frame.shape[0] / size[0], frame.shape[1] / size[1])
    method = cv2.INTER_AREA if shrink > 2 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(frame, (size[1], size[0]), interpolation=method), np.uint8)


def resize_label_map(label: Array, size: tuple[int, int]) -> Array:
    """Nearest resize of a label map to ``size`` (height, width): ids are never mixed."""
    if label.shape == size:
        return label
    return np.asarray(cv2.resize(label, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
