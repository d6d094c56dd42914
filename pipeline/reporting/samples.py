"""Sample strips: frame, label, float prediction, INT8 prediction and where INT8 is wrong, as data URIs.

Frames are evenly spaced in the split, not chosen by result. Error shares are percent of the labelled pixels at the
original label size; the tiles are shrunk for the page, never enlarged.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from pipeline import artifact
from pipeline.artifact import META, Artifact
from pipeline.errors import UserError
from pipeline.frames import Array, read_label_map, resize_frame, resize_label_map
from pipeline.labels import LabelSpec
from pipeline.prepared import Prepared, Split
from pipeline.reporting import json_file
from pipeline.reporting.json_file import JsonObject

#: Frames that are shown of each student.
FRAMES = 4
#: Widest tile, in pixels.
TILE_WIDTH = 384
#: BGR of pixels that are wrong in INT8 only, and of pixels that are wrong in float, too.
NEW_ERROR = (40, 30, 225)
OLD_ERROR = (120, 130, 235)
AGAIN = "predict again with: dvc repro -f check"


class _Facts(JsonObject):
    """Facts about the frames in the meta.json of a ``predictions`` artifact."""

    split: str = "val"
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tile:
    """One image of a strip; ``uri`` is empty when not measured."""

    title: str
    uri: str = ""


@dataclass(frozen=True)
class Strip:
    """One frame of one student; shares are percent of labelled pixels, None when not measured."""

    name: str
    tiles: tuple[Tile, ...]
    wrong: float | None = None
    new: float | None = None


@dataclass(frozen=True)
class Kept:
    """The frames whose predictions a student's check kept: the artifact, their names, and their split."""

    predictions: Artifact
    names: tuple[str, ...]
    split: Split

    def sample(self, name: str) -> tuple[Array, Array]:
        """Frame (H, W, 3) BGR and label map (H, W) of a kept frame."""
        return self.split[self.split.names.index(name)]

    def prediction(self, variant: str, name: str, label: Array) -> Array | None:
        """Label map (H, W) of a variant; None if it was not kept.

        Raises:
            UserError: it has not the size of the label.
        """
        file = f"{variant}/{name}.png"
        if file not in self.predictions.meta["files"]:
            return None
        ids = read_label_map(self.predictions.file(file))
        if ids.shape != label.shape:
            raise UserError(
                f"{self.predictions.path / file}: has {ids.shape[0]}x{ids.shape[1]} pixels, its label "
                f"{label.shape[0]}x{label.shape[1]}; predictions must have the size of the label; {AGAIN}"
            )
        return ids


def kept(prepared: Prepared, folder: Path) -> Kept | None:
    """The kept frames of one student.

    Args:
        prepared: the data set that was predicted.
        folder: the student's ``predictions`` artifact; None is returned without one.

    Raises:
        UserError: the artifact is damaged, or its frames are not in this data set.
    """
    if not (folder / META).is_file():
        return None
    predictions = artifact.load(folder, kind="predictions")
    facts = json_file.read(_Facts, folder / META, advice=AGAIN)
    split = prepared.split(facts.split)
    if unknown := sorted(set(facts.names) - set(split.names)):
        raise UserError(
            f"{folder}: holds frame '{unknown[0]}', which split '{split.name}' of {prepared.artifact.path} does not "
            f"have; the predictions belong to another data set; {AGAIN}"
        )
    return Kept(predictions, facts.names, split)


def strips(frames: Kept | None, labels: LabelSpec) -> list[Strip]:
    """Strips of one student, of at most :data:`FRAMES` frames; none without kept frames."""
    if frames is None:
        return []
    return [_strip(name, frames, labels) for name in _spaced(frames.names, FRAMES)]


def _spaced(names: Sequence[str], count: int) -> list[str]:
    """``count`` names, evenly spaced and off the ends."""
    count = min(count, len(names))
    return [names[(2 * index + 1) * len(names) // (2 * count)] for index in range(count)]


def _strip(name: str, frames: Kept, spec: LabelSpec) -> Strip:
    frame, label = frames.sample(name)
    by_torch, by_fp32, after = (frames.prediction(variant, name, label) for variant in ("torch", "fp32", "int8"))
    before = by_torch if by_torch is not None else by_fp32
    tiles = [Tile("frame", picture(frame)), Tile("label", painted(label, spec))]
    for title, ids in (("float prediction", before), ("INT8 prediction", after)):
        tiles.append(Tile(title, painted(ids, spec) if ids is not None else ""))
    if after is None:
        return Strip(name, (*tiles, Tile("INT8 errors")))
    counted = label != spec.ignore_index
    wrong = counted & (after != label)
    new = wrong & (before == label) if before is not None else None
    tiles.append(Tile("INT8 errors", _uri(_error_map(frame, wrong, new))))
    return Strip(name, tuple(tiles), share(wrong, counted), share(new, counted) if new is not None else None)


def picture(frame: Array) -> str:
    """Frame (H, W, 3) BGR -> URI of a tile, as JPEG: photographs are several times smaller than as PNG."""
    tile = resize_frame(frame, _tile_size(frame))
    return _uri(tile, kind="jpeg", options=(cv2.IMWRITE_JPEG_QUALITY, 92))


def painted(ids: Array, spec: LabelSpec) -> str:
    """Label map (H, W) -> URI of a tile in colours; ids are resized before they become colours."""
    small = resize_label_map(ids, _tile_size(ids))
    return _uri(np.asarray(spec.lookup_bgr()[:, 0][small], np.uint8))


def _error_map(frame: Array, wrong: np.ndarray, new: np.ndarray | None) -> Array:
    """Pale grey frame with the wrong pixels in red: strong red where float is right (or unknown), else soft red."""
    codes = wrong.astype(np.uint8) + (wrong if new is None else new).astype(np.uint8)
    codes = resize_label_map(codes, _tile_size(codes))
    grey = cv2.cvtColor(resize_frame(frame, codes.shape[:2]), cv2.COLOR_BGR2GRAY)
    canvas = np.repeat((170 + grey // 4)[..., None], 3, axis=2).astype(np.uint8)  # (h, w, 3)
    canvas[codes == 1] = OLD_ERROR
    canvas[codes == 2] = NEW_ERROR
    return canvas


def _tile_size(image: Array) -> tuple[int, int]:
    height, width = image.shape[:2]
    scale = min(TILE_WIDTH / width, 1.0)
    return max(round(height * scale), 1), max(round(width * scale), 1)


def share(mask: np.ndarray, counted: np.ndarray) -> float:
    """Percent of the counted pixels that a mask has."""
    return 100.0 * int(mask.sum()) / max(int(counted.sum()), 1)


def _uri(image: Array, *, kind: str = "png", options: Sequence[int] = (cv2.IMWRITE_PNG_COMPRESSION, 9)) -> str:
    encoded, data = cv2.imencode(f".{kind}", image, list(options))
    assert encoded, f"OpenCV could not encode an image of shape {image.shape}"
    return f"data:image/{kind};base64," + base64.b64encode(data.tobytes()).decode("ascii")
