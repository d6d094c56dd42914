"""Similarity of thumbnails: of an image and its copies, and of successive images of a data set.

The threshold of ``pipeline/preparation/copies.py`` is between the two. The data set is that of params.yaml; its names
are sorted, so that the frames of a drive follow each other.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from pipeline import datasets
from pipeline.errors import command
from pipeline.frames import Array
from pipeline.preparation.copies import ALIKE, normalised, thumbnail
from pipeline.settings import params

EVERY = 15  # every 15th image is copied


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    settings = params.load(args.params)
    dataset = datasets.build(settings.dataset, settings.datasets.get(settings.dataset, {}))
    least: dict[str, float] = {}
    for split, listed in dataset.splits().items():
        frames = [dataset.read(split, name)[0] for name in sorted(listed)]
        thumbnails = normalised([thumbnail(frame) for frame in frames])
        following = (thumbnails[1:] * thumbnails[:-1]).sum(1)
        print(f"{split}: images that follow each other correlate by {following.max():.4f} at most, threshold {ALIKE}")
        for frame, own in zip(frames[::EVERY], thumbnails[::EVERY], strict=True):
            for kind, copy in copied(frame):
                least[kind] = min(least.get(kind, 1.0), float(normalised([thumbnail(copy)])[0] @ own))
    for kind, correlation in least.items():
        print(f"{kind}: {correlation:.4f} at least")


def copied(frame: Array) -> Iterator[tuple[str, Array]]:
    """Name and pixels of typical copies in data sets."""
    height, width = frame.shape[:2]
    for quality in (95, 75, 40, 15):
        yield f"JPEG of quality {quality}", _again(frame, ".jpg", cv2.IMWRITE_JPEG_QUALITY, quality)
    yield "WebP of quality 50", _again(frame, ".webp", cv2.IMWRITE_WEBP_QUALITY, 50)
    for name, size, method in (
        ("half the size", (width // 2, height // 2), cv2.INTER_AREA),
        ("double the size", (width * 2, height * 2), cv2.INTER_CUBIC),
    ):
        yield name, np.asarray(cv2.resize(frame, size, interpolation=method), np.uint8)
    yield "8 levels brighter", np.asarray(cv2.add(frame, np.full_like(frame, 8)), np.uint8)


def _again(frame: Array, suffix: str, option: int, value: int) -> Array:
    return np.asarray(cv2.imdecode(cv2.imencode(suffix, frame, [option, value])[1], cv2.IMREAD_COLOR), np.uint8)


if __name__ == "__main__":
    sys.exit(main())
