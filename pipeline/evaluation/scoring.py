"""Scores of an engine on a split: IoU of the classes, the counts of each frame, the objects found."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.accuracy import predicted
from pipeline.evaluation.confusion import ConfusionMatrix
from pipeline.evaluation.drops import FrameCounts
from pipeline.evaluation.objects import ObjectCounts
from pipeline.frames import Array
from pipeline.labels import LabelSpec
from pipeline.prepared import Split
from pipeline.runtimes import Engine


@dataclass(frozen=True)
class Score:
    """Scores of one engine on one split.

    Attributes:
        summary: ``ConfusionMatrix.summary()``.
        frames: the counts of each frame.
        objects: all objects, and those found.
        kept: predictions (H, W) by the frame's name.
    """

    summary: dict[str, Any]
    frames: FrameCounts
    objects: ObjectCounts
    kept: dict[str, Array]


def evaluate(
    engine: Engine,
    split: Split,
    *,
    labels: LabelSpec,
    keep: Collection[str] = (),
    progress: Callable[[], object] = lambda: None,
) -> Score:
    """Run a split through an engine and compute all scores that a check reports.

    Args:
        keep: names of frames whose predictions are returned.
        progress: called after every frame.

    Raises:
        UserError: a frame or label cannot be read, or an id is neither a class nor ignored.
    """
    matrix = ConfusionMatrix(num_classes=labels.num_classes, ignore_index=labels.ignore_index)
    objects = ObjectCounts(num_classes=labels.num_classes)
    kept: dict[str, Array] = {}

    def counts() -> Iterator[npt.NDArray[np.int64]]:
        for index, label, prediction in predicted(engine, split, range(len(split))):
            yield matrix.add(label, prediction)
            objects.add(label, prediction)
            if split.names[index] in keep:
                kept[split.names[index]] = prediction
            progress()

    frames = FrameCounts.of(counts())
    return Score(matrix.summary(), frames, objects, kept)
