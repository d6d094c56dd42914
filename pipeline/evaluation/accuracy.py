"""Accuracy of an engine on a split, at the labels' original size."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from pipeline.evaluation.confusion import ConfusionMatrix
from pipeline.frames import Array, resize_frame, resize_label_map
from pipeline.labels import LabelSpec
from pipeline.prepared import Split
from pipeline.runtimes import Engine


def evaluate(
    engine: Engine,
    split: Split,
    *,
    labels: LabelSpec,
    keep: Collection[str] = (),
    progress: Callable[[], object] = lambda: None,
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Run a split through an engine as the device would: resize, run, resize the label map back.

    Args:
        keep: names of frames whose predictions are returned.
        progress: called after every frame.

    Returns:
        ``ConfusionMatrix.summary()``, and the kept predictions (H, W) by name.
    """
    matrix = ConfusionMatrix(num_classes=labels.num_classes, ignore_index=labels.ignore_index)
    kept: dict[str, Array] = {}
    for name, (frame, label) in zip(split.names, split, strict=True):
        prediction = engine.run(resize_frame(frame, engine.input_size)[np.newaxis])[0]
        prediction = resize_label_map(prediction, (label.shape[0], label.shape[1]))
        matrix.add(label, prediction)
        if name in keep:
            kept[name] = prediction
        progress()
    return matrix.summary(), kept
