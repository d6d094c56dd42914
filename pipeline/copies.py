"""Images of different splits that look the same: copies that were encoded again, resized or made brighter.

Two images are copies when their grey thumbnails of 32x32 correlate by 0.9992 or more. On CamVid, copies by JPEG of
quality 15 to 95, WebP, half and double size have 0.9996 or more; frames of a drive, 1/15 second apart, 0.9978 or less.
Source of these figures: ``benchmarks/copies.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.frames import Array

SIDE = 32
ALIKE = 0.9992
BLOCK = 1024  # thumbnails that are compared at once
FLAT = 1.0  # grey levels of standard deviation below which a thumbnail shows nothing
Thumbnail = npt.NDArray[np.float32]


def thumbnail(frame: Array) -> Thumbnail:
    """Grey thumbnail (1024,) of a BGR frame with mean 0 and length 1, so that a dot product is the correlation; zeros
    when it is flat, which no image matches."""
    grey = cv2.cvtColor(cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY)
    centred = grey.astype(np.float32).ravel() - np.float32(grey.mean())
    if centred.std() < FLAT:
        return np.zeros_like(centred)
    return np.asarray(centred / np.linalg.norm(centred), np.float32)


def copies(thumbnails: Mapping[str, Sequence[tuple[str, Thumbnail]]]) -> Iterator[tuple[str, str]]:
    """Pairs (copy, original) of images in different splits that look the same, as ``split/name``.

    Args:
        thumbnails: split -> name and thumbnail of each image; an image is compared with those of earlier splits.
    """
    earlier: list[tuple[str, Thumbnail]] = []
    for split, images in thumbnails.items():
        for start in range(0, len(images) if earlier else 0, BLOCK):
            block = images[start : start + BLOCK]
            best = np.full(len(block), ALIKE, np.float32)
            nearest = np.full(len(block), -1)
            for first in range(0, len(earlier), BLOCK):
                others = np.stack([each for _, each in earlier[first : first + BLOCK]])
                similarity = np.stack([each for _, each in block]) @ others.T
                higher = similarity.max(1) > best
                nearest[higher] = first + similarity.argmax(1)[higher]
                best[higher] = similarity.max(1)[higher]
            for (name, _), original in zip(block, nearest.tolist(), strict=True):
                if original >= 0:
                    yield f"{split}/{name}", earlier[original][0]
        earlier += [(f"{split}/{name}", each) for name, each in images]
