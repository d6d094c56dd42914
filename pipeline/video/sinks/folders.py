"""Folders of PNG files: overlays, confidence, or label maps in train or original ids; and one image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline.artifact import dump_json
from pipeline.frames import Array, write_png
from pipeline.labels import LabelSpec
from pipeline.video.confidence import FULL
from pipeline.video.sinks._base import Result
from pipeline.video.staged import StagedFile, StagedFolder

#: File in a folder of images: the meaning of ids and colours, and the mark that segpress wrote the folder.
CLASSES = "classes.json"
#: The same for a folder of confidence.
MEANING = "confidence.json"


class _FolderSink(StagedFolder):
    patient = True
    waits = False

    def __init__(self, path: Path, *, mark: str, meaning: Mapping[str, Any]) -> None:
        super().__init__(path, mark=mark, content=dump_json(meaning))
        self.written = path

    def put(self, name: str, image: Array) -> None:
        assert self.place is not None
        try:
            write_png(self.place / f"{name}.png", image)
        except OSError as error:
            raise self.unwritable(error) from error
        self.of_use = True


class MaskSink(_FolderSink):
    """A folder of label maps: ``<name>.png`` at frame size, and classes.json with the meaning of train ids.

    Args:
        path: the folder.
        labels: meaning of the train ids; pixels outside the segmented part get its ignored id.
        original: write the data set's own ids, as test servers need them.

    Raises:
        UserError: ``original`` ids are wanted and ``labels`` has none.
    """

    wants_picture = False

    def __init__(self, path: Path, *, labels: LabelSpec, original: bool = False) -> None:
        super().__init__(path, mark=CLASSES, meaning=labels.to_meta())
        self._outside = labels.ignore_index
        self._table = labels.to_original() if original else None

    def write(self, result: Result) -> None:
        label_map = result.full_label_map(self._outside)
        self.put(
            result.name, label_map if self._table is None else np.asarray(cv2.LUT(label_map, self._table), np.uint8)
        )


class ConfidenceSink(_FolderSink):
    """A folder of confidence: ``<name>.png`` at frame size, one channel of 8 bits, and confidence.json with the meaning
    of the values. Needs an engine that gives confidence."""

    wants_picture = False
    reads_confidence = True

    def __init__(self, path: Path) -> None:
        meaning = {
            "confidence": "probability of the label that the network gave to the pixel",
            "values": {"0": 0.0, str(FULL): 1.0},
            "not_seen": 0,
        }
        super().__init__(path, mark=MEANING, meaning=meaning)

    def write(self, result: Result) -> None:
        self.put(result.name, result.full_confidence())


class ImageFolderSink(_FolderSink):
    """A folder of overlays: ``<name>.png``, and classes.json with the colours."""

    wants_picture = True

    def __init__(self, path: Path, *, labels: LabelSpec) -> None:
        super().__init__(path, mark=CLASSES, meaning=labels.to_meta())

    def write(self, result: Result) -> None:
        assert result.picture is not None, "an overlay sink needs a loop that draws"
        self.put(result.name, result.picture.bgr())


class ImageSink(StagedFile):
    """One overlay image, PNG or JPEG by the suffix of ``path``."""

    wants_picture = patient = True
    waits = False

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.written = path

    def write(self, result: Result) -> None:
        assert result.picture is not None, "an overlay sink needs a loop that draws"
        done, data = cv2.imencode(self.path.suffix.lower(), result.picture.bgr())
        assert done, f"OpenCV refused to encode {self.path.suffix}"
        assert self.place is not None
        try:
            self.place.write_bytes(data.tobytes())
        except OSError as error:
            raise self.unwritable(error) from error
