"""The picture of the README: frames, labels, float and INT8 predictions of a student side by side, from its artifacts.

python benchmarks/picture.py artifacts/dataset artifacts/predictions/kd --out docs/streets.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

from pipeline import artifact
from pipeline.errors import command
from pipeline.frames import Array, read_label_map, resize_frame, resize_label_map, write_png
from pipeline.labels import LabelSpec
from pipeline.prepared import Prepared

TILE = (192, 288)  # height, width
GAP = 6
FONT = cv2.FONT_HERSHEY_SIMPLEX


def painted(ids: Array, spec: LabelSpec) -> Array:
    return np.asarray(spec.lookup_bgr()[:, 0][resize_label_map(ids, TILE)], np.uint8)


def titled(tile: Array, title: str) -> Array:
    bar = np.full((26, tile.shape[1], 3), 255, np.uint8)
    cv2.putText(bar, title, (2, 18), FONT, 0.5, (60, 60, 60), 1, cv2.LINE_AA)
    return np.vstack([bar, tile])


def legend(spec: LabelSpec, width: int) -> Array:
    """One line of colour patches with class names."""
    bar = np.full((30, width, 3), 255, np.uint8)
    step = width // spec.num_classes
    for index, (name, (red, green, blue)) in enumerate(zip(spec.names, spec.palette, strict=True)):
        left = index * step
        cv2.rectangle(bar, (left, 9), (left + 12, 21), (blue, green, red), cv2.FILLED)
        cv2.rectangle(bar, (left, 9), (left + 12, 21), (190, 190, 190), 1)
        cv2.putText(bar, name, (left + 17, 20), FONT, 0.42, (60, 60, 60), 1, cv2.LINE_AA)
    return bar


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("predictions", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    prepared = Prepared(args.dataset)
    predictions = artifact.load(args.predictions, kind="predictions")
    split = prepared.split(predictions.meta["split"])
    rows = []
    for name in predictions.meta["names"]:
        frame, label = split[list(split.names).index(name)]
        before, after = (read_label_map(predictions.file(f"{variant}/{name}.png")) for variant in ("torch", "int8"))
        tiles = [resize_frame(frame, TILE), *(painted(ids, prepared.labels) for ids in (label, before, after))]
        titles = ("frame", "label", "float student", "INT8 student") if not rows else ()
        tiles = [titled(tile, title) for tile, title in zip(tiles, titles, strict=True)] if titles else tiles
        gap = np.full((tiles[0].shape[0], GAP, 3), 255, np.uint8)
        row = np.hstack([part for tile in tiles for part in (tile, gap)][:-1])
        rows += [row, np.full((GAP, row.shape[1], 3), 255, np.uint8)]
    write_png(args.out, np.vstack([*rows, legend(prepared.labels, rows[0].shape[1])]))


if __name__ == "__main__":
    sys.exit(main())
