"""The confusion matrix of a network over a split, counted where the network runs.

Threads decode and resize frames while the network runs. On a CPU, NumPy counts frame by frame. On a GPU the host never
waits for a batch: frames and labels are copied from page-locked memory, predictions are resized to the size of the
labels and counted on the GPU, and the counts are transferred once, at the end. Frames are resized on the host, by
OpenCV as on a device.

Counts equal those of :func:`pipeline.evaluation.accuracy.predicted`, frame by frame, except that a convolution of
several images may round in another way than that of one image: where two classes are equal to the last bits, a label
may differ. Batches of one image have no such differences.

The tests run :class:`PairCounter` on a CPU; the copies from page-locked memory were not run on a GPU.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.evaluation.accuracy import read_ahead
from pipeline.evaluation.confusion import BYTE, ConfusionMatrix
from pipeline.export.torch_engine import TorchEngine
from pipeline.frames import Array, resize_label_map
from pipeline.labels import LabelSpec
from pipeline.prepared import Split

#: Most pixels of labels that are counted at once, unless one label map has more; each takes about 24 bytes meanwhile.
PIXELS = 2**22


def confusion(
    engine: TorchEngine, split: Split, *, labels: LabelSpec, indices: Sequence[int], batch: int = 1, threads: int = 1
) -> ConfusionMatrix:
    """The confusion matrix of some frames of a split, at the labels' original size.

    Args:
        indices: which frames.
        batch: most frames that run at once. All batches have the same size; unused places of the last one do not count.
        threads: number of threads that decode and resize.

    Raises:
        UserError: a frame or label cannot be read, or an id is neither a class nor ignored.
    """
    matrix = ConfusionMatrix(num_classes=labels.num_classes, ignore_index=labels.ignore_index)
    counter = PairCounter(engine.device, engine.output_size) if on_gpu(engine.device) else None
    reading = read_ahead(split, indices, engine.input_size, threads=threads)
    size = math.ceil(len(indices) / math.ceil(len(indices) / batch)) if indices else 1
    while group := list(itertools.islice(reading, size)):
        frames = torch.empty((size, *engine.input_size, 3), dtype=torch.uint8, pin_memory=counter is not None)
        for place, (_, frame, _) in zip(frames.numpy(), group, strict=False):
            place[:] = frame
        predictions = engine.predict(frames.to(engine.device, non_blocking=True))
        truth = [label for _, _, label in group]
        if counter is not None:
            counter.add(truth, predictions)
            continue
        for label, prediction in zip(truth, predictions.cpu().numpy(), strict=False):
            matrix.add(label, resize_label_map(prediction, label.shape))
    if counter is not None:
        matrix.add_pairs(counter.read())
    return matrix


def on_gpu(device: torch.device) -> bool:
    """Whether the device is a GPU: it counts pixels itself, and gains from batches and several readers."""
    return device.type == "cuda"


class PairCounter:
    """Counts pixels by label id and predicted id on one device, without a transfer to the host.

    Args:
        device: where pixels are counted.
        size: (height, width) of predictions.
    """

    def __init__(self, device: torch.device, size: tuple[int, int]) -> None:
        self._device, self._size = device, size
        self._pairs = torch.zeros(BYTE**2, dtype=torch.int64, device=device)
        self._sources: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}

    def read(self) -> npt.NDArray[np.int64]:
        """Number of pixels by [label id, predicted id], (256, 256)."""
        pairs: npt.NDArray[np.int64] = self._pairs.to("cpu", copy=True).numpy().reshape(BYTE, BYTE)
        return pairs

    def add(self, labels: Sequence[Array], predictions: Tensor) -> None:
        """Count some frames; those with labels of one size together.

        Args:
            labels: n label maps (H, W) uint8.
            predictions: (N, h, w) uint8; the first n belong to the labels, any others do not count.
        """
        by_size: dict[tuple[int, ...], list[int]] = {}
        for number, label in enumerate(labels):
            by_size.setdefault(label.shape, []).append(number)
        for size, numbers in by_size.items():
            count = max(1, PIXELS // math.prod(size))
            for start in range(0, len(numbers), count):
                chosen = numbers[start : start + count]
                truth = np.stack([labels[number] for number in chosen])
                self._add(truth, torch.stack([predictions[number] for number in chosen]))

    def _add(self, labels: Array, predictions: Tensor) -> None:
        """Labels (n, H, W) and predictions (n, h, w)."""
        truth = torch.from_numpy(labels)
        if on_gpu(self._device):
            truth = truth.pin_memory()
        truth = truth.to(self._device, non_blocking=True)
        predictions = predictions.to(self._device)
        if predictions.shape != truth.shape:
            rows, columns = self._sources_of(truth.shape[1:])
            predictions = predictions[:, rows[:, None], columns]  # (n, H, W)
        # One table per frame: fewer threads add to the same number, and 32 bits suffice, which a GPU adds fast.
        # scatter_add_ in one dimension also works with deterministic algorithms; bincount would wait for the GPU.
        tables = BYTE * torch.arange(len(truth), device=self._device)[:, None, None]  # (n, 1, 1)
        pairs = (BYTE * (tables + truth) + predictions).flatten()
        counts = torch.zeros(len(truth) * BYTE**2, dtype=torch.int32, device=self._device)
        counts.scatter_add_(0, pairs, torch.ones_like(pairs, dtype=torch.int32))
        self._pairs += counts.view(len(truth), -1).sum(dim=0)

    def _sources_of(self, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Rows (H,) and columns (W,) of a prediction from which a label map of ``size`` takes its pixels."""
        if size not in self._sources:
            rows, columns = (sources(old, new) for old, new in zip(self._size, size, strict=True))
            self._sources[size] = rows.to(self._device), columns.to(self._device)
        return self._sources[size]


def sources(old: int, new: int) -> Tensor:
    """Which of ``old`` rows each of ``new`` rows takes in ``frames.resize_label_map``, as OpenCV itself computes it.

    Example:
        >>> sources(4, 6).tolist()
        [0, 1, 1, 2, 2, 3]
    """
    row = np.arange(old, dtype=np.float32)[np.newaxis]  # exact up to 2 ** 24
    return torch.from_numpy(cv2.resize(row, (new, 1), interpolation=cv2.INTER_NEAREST_EXACT)[0].astype(np.int64))
