"""Find images of different splits that look the same: copies that were encoded again, resized or made brighter.

Two images are copies if the correlation of their grey 32x32 thumbnails is at least 0.9992. On CamVid it is at least
0.9996 for copies by JPEG (quality 15 to 95), by WebP, and at half and double size; it is at most 0.9978 for frames of a
drive that are 1/15 second apart. Source of these figures: ``benchmarks/copies.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.frames import Array

SIDE = 32
ALIKE = 0.9992
BLOCK = 1024  # number of thumbnails that are compared at once
FLAT = 1.0  # minimum standard deviation of a thumbnail, in grey levels; below it the thumbnail counts as flat


def thumbnail(frame: Array) -> Array:
    """Grey thumbnail (1024,) uint8 of a frame (H, W, 3) BGR."""
    small = cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), np.uint8).ravel()


def normalised(thumbnails: Sequence[Array]) -> npt.NDArray[np.float32]:
    """Thumbnails (n, 1024) with mean 0 and norm 1: the dot product of two is their correlation. A flat thumbnail is all
    zeros, so it matches no image.
    """
    grey = np.stack(thumbnails).astype(np.float32)
    centred = grey - grey.mean(1, dtype=np.float64, keepdims=True).astype(np.float32)
    centred[centred.std(1) < FLAT] = 0
    return np.asarray(centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1), np.float32)


def copies(thumbnails: Mapping[str, Sequence[tuple[str, Array]]]) -> Iterator[tuple[str, str]]:
    """Pairs (copy, original) of images in different splits that look the same, each as ``split/name``.

    Args:
        thumbnails: split -> name and thumbnail of each image. Each image is compared with the images of earlier splits.
    """
    earlier: list[tuple[str, Array]] = []
    for split, images in thumbnails.items():
        for start in range(0, len(images) if earlier else 0, BLOCK):
            block = images[start : start + BLOCK]
            best = np.full(len(block), ALIKE, np.float32)
            nearest = np.full(len(block), -1)
            ours = normalised([each for _, each in block])
            for first in range(0, len(earlier), BLOCK):
                similarity = ours @ normalised([each for _, each in earlier[first : first + BLOCK]]).T
                higher = similarity.max(1) > best
                nearest[higher] = first + similarity.argmax(1)[higher]
                best[higher] = similarity.max(1)[higher]
            for (name, _), original in zip(block, nearest.tolist(), strict=True):
                if original >= 0:
                    yield f"{split}/{name}", earlier[original][0]
        earlier += [(f"{split}/{name}", each) for name, each in images]
