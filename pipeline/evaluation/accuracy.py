"""An engine over a split, at the labels' original size."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from pipeline.evaluation.confusion import ConfusionMatrix
from pipeline.frames import Array, resize_frame, resize_label_map
from pipeline.labels import LabelSpec
from pipeline.prepared import Split
from pipeline.runtimes import Engine

#: Frames that are decoded and wait while the engine runs.
AHEAD = 4


def confusion(
    engine: Engine,
    split: Split,
    *,
    labels: LabelSpec,
    indices: Sequence[int] | None = None,
    look: Callable[[int, Array], object] = lambda index, prediction: None,
) -> ConfusionMatrix:
    """The confusion matrix of a split. The counts of disjoint parts add up to those of the whole split:
    ``ConfusionMatrix.of(first.counts + second.counts, ignore_index=labels.ignore_index)``.

    Args:
        indices: which frames of the split; None for all.
        look: called after every frame with its index and its prediction (H, W) at the label's size.

    Raises:
        UserError: a frame or label cannot be read, or an id is neither a class nor ignored.
    """
    matrix = ConfusionMatrix(num_classes=labels.num_classes, ignore_index=labels.ignore_index)
    for index, label, prediction in predicted(engine, split, range(len(split)) if indices is None else indices):
        matrix.add(label, prediction)
        look(index, prediction)
    return matrix


def predicted(engine: Engine, split: Split, indices: Sequence[int]) -> Iterator[tuple[int, Array, Array]]:
    """Run frames of a split through an engine as on a device: resize, run, resize the label map back.

    Yields:
        index, label and prediction at the label's size, in order.
    """
    for index, frame, label in _read_ahead(split, indices, engine.input_size):
        prediction = engine.run(frame[np.newaxis])[0]
        yield index, label, resize_label_map(prediction, (label.shape[0], label.shape[1]))


def _read_ahead(
    split: Split, indices: Sequence[int], input_size: tuple[int, int]
) -> Iterator[tuple[int, Array, Array]]:
    """(index, frame at the engine's size, label) in order; the next frames are decoded meanwhile."""

    def read(index: int) -> tuple[int, Array, Array]:
        frame, label = split[index]
        return index, resize_frame(frame, input_size), label

    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting: deque[Future[tuple[int, Array, Array]]] = deque()
        try:
            for index in indices:
                waiting.append(pool.submit(read, index))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
