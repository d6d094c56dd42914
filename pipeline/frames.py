"""Read and resize frames and label maps. Training, validation, calibration, checks and video all use this code, so that
a JPEG has the same pixels for all of them: two decoders may differ by a level.
Training cuts its crops before it resizes, and keeps the aspect ratio.

Frames are BGR uint8, as OpenCV returns them; label maps are uint8 train ids; sizes are (height, width).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.errors import UserError

Array = npt.NDArray[np.uint8]
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_DEPTH = 24  # offset of the byte with the bits per channel


def read_frame(path: Path) -> Array:
    """Read an image file as (H, W, 3) BGR uint8. Raises UserError: the file is missing or not an image."""
    return decode_frame(read_bytes(path), path)


def decode_frame(data: Array, path: Path) -> Array:
    """Decode the bytes (n,) of an image file as (H, W, 3) BGR uint8.

    Args:
        path: the file, for messages.

    Raises:
        UserError: the bytes are not an image.
    """
    return np.asarray(_decode(data, path, cv2.IMREAD_COLOR), np.uint8)


def digest(image: Array) -> bytes:
    """sha256 of the size and the pixels of a frame or a label map, 32 bytes."""
    state = hashlib.sha256(repr(image.shape).encode())
    state.update(np.ascontiguousarray(image).reshape(-1).data)
    return state.digest()


def read_label_map(path: Path) -> Array:
    """Read a label file as (H, W) uint8. Raises UserError: it is missing, not an image, or not one 8-bit channel."""
    label = _decode(read_bytes(path), path, cv2.IMREAD_UNCHANGED)
    if label.ndim != 2 or label.dtype != np.uint8:
        raise UserError(f"{path}: got shape {label.shape}, {label.dtype}; allowed: one 8-bit channel; save it as such")
    return np.asarray(label, np.uint8)


def read_bytes(path: Path) -> Array:
    """The bytes (n,) of a file. Raises UserError: the file is missing or cannot be read."""
    try:
        return np.fromfile(path, np.uint8)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; restore it or remove it from its list") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _decode(data: Array, path: Path, flags: int) -> npt.NDArray[Any]:
    try:
        image = cv2.imdecode(data, flags) if data.size else None
    except cv2.error as error:  # more pixels than OpenCV accepts
        raise UserError(f"{path}: OpenCV cannot decode it ({error.err}); restore the file or remove it") from error
    if image is None:
        raise UserError(f"{path}: not a readable image; restore the file or remove it from its list")
    if flags == cv2.IMREAD_UNCHANGED and data[:8].tobytes() == PNG_SIGNATURE and data[PNG_DEPTH] < 8:
        # OpenCV scales 1, 2 and 4 bits to 0..255: id 1 of a mask with two classes would become 255, the ignored id
        raise UserError(f"{path}: got {data[PNG_DEPTH]} bits; allowed: one 8-bit channel; save it with 8 bits")
    return image


def write_png(path: Path, image: Array) -> None:
    """Write a frame (H, W, 3) or a label map (H, W) as PNG. Equal arrays give equal bytes."""
    options = [cv2.IMWRITE_PNG_COMPRESSION, 3]
    if image.ndim == 3:  # for photographs this needs half the time; the files have 0.9 to 1.1 times the size
        options += [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    encoded, data = cv2.imencode(".png", image, options)
    assert encoded, f"OpenCV refused to encode a {image.shape} {image.dtype} array"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.tobytes())


def resize_frame(frame: Array, size: tuple[int, int]) -> Array:
    """Resize a frame to ``size`` (height, width): bilinear to enlarge, area average to reduce (without aliasing)."""
    if frame.shape[:2] == size:
        return frame
    shrinks = frame.shape[0] > size[0] or frame.shape[1] > size[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(frame, (size[1], size[0]), interpolation=method), np.uint8)


def resize_label_map(label: Array, size: tuple[int, int]) -> Array:
    """Resize a label map to ``size`` (height, width) by nearest neighbour: ids are never mixed."""
    if label.shape == size:
        return label
    return np.asarray(cv2.resize(label, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
