"""The data of a run: augmented crops of a prepared split, the same for every number of workers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.labels import LabelSpec
from pipeline.prepared import Prepared, Split
from pipeline.training.augment import Augmentation
from pipeline.training.frame_outputs import FrameOutputs


def augmentation(
    *, crop: tuple[int, int], input_size: tuple[int, int], scale: tuple[float, float], colour: float,
    labels: LabelSpec,
) -> Augmentation:  # fmt: skip
    """The augmentation of a training's crops; padding has the data set's id for it.

    Args:
        crop, input_size, scale, colour: see :class:`Augmentation`.
    """
    return Augmentation(crop=crop, input_size=input_size, scale=scale, colour=colour, padding=labels.padding)


class Crops(Dataset[Any]):
    """Augmented crops; an item is addressed by (index, draw) and seeds its own augmentation.

    Items: image (3, H, W) uint8 RGB, target (H, W) uint8, index of the sample; if there are frames without labels,
    whether it is one; with ``outputs`` the teacher's output for the crop, in float16. Bytes travel to the device, where
    the task normalises them for each network. A target has train ids, the ignored id where a pixel of the frame has no
    label, and the id ``augment.padding`` where the crop has no frame.

    Args:
        split: frames with labels.
        unlabelled: frames whose label maps have the ignored id everywhere; their indices follow those of ``split``.

    Attributes:
        outputs: the teacher's output for every frame, or None; a run sets it.
    """

    def __init__(self, split: Split, augment: Augmentation, *, seed: int, unlabelled: Split | None = None) -> None:
        self.split = split
        self.augment = augment
        self.seed = seed
        self.unlabelled = unlabelled
        self.outputs: FrameOutputs | None = None

    def __len__(self) -> int:
        return len(self.split) + (0 if self.unlabelled is None else len(self.unlabelled))

    def __getitem__(self, item: tuple[int, int]) -> tuple[Any, ...]:
        split, index = self._place(item[0])
        generator = np.random.default_rng([self.seed, *item])
        frame, label = split[index]
        window = self.augment.window(label.shape, generator)
        image, target = self.augment.cut(frame, label, window, generator)
        crop: tuple[Any, ...] = torch.from_numpy(image), torch.from_numpy(target), item[0]
        if self.unlabelled is not None:
            crop += (split is self.unlabelled,)
        if self.outputs is not None:
            crop += self.outputs.crop(item[0], torch.from_numpy(window.to_frame()))
        return crop

    def frame(self, index: int) -> Array:
        """The whole frame (H, W, 3) BGR of a sample."""
        split, at = self._place(index)
        return split.frame(at)

    def name(self, index: int) -> str:
        """Name of a sample, for messages."""
        split, at = self._place(index)
        return split.names[at]

    def _place(self, index: int) -> tuple[Split, int]:
        if self.unlabelled is None or index < len(self.split):
            return self.split, index
        return self.unlabelled, index - len(self.split)


class Draws(Sampler[list[tuple[int, int]]]):
    """The draws of one process: for each update, ``accumulate`` lists of ``images`` pairs (index, turn).

    All processes together walk through endless shuffles of ``length`` items; ``turn`` counts how often an item was
    drawn before. The item at a position depends only on the seed and the position, so a run can start at any step.

    Frames without labels are drawn from shuffles of their own. They are spread evenly over the images of an update
    (:func:`lacks_labels`), so that its parts have equally many, as far as possible; which frames an update has does not
    depend on its parts.

    Args:
        length: items to draw from.
        steps: updates; drawing ends after them.
        images: images per process and list.
        accumulate: lists per update.
        process, processes: index of this process, and their number.
        first: 0-based update to start at.
        unlabelled: number of frames without labels to draw from; they have the indices from ``length`` on.
        per_update: how many images of an update are without labels.
    """

    def __init__(
        self, *, length: int, steps: int, images: int, seed: int,
        accumulate: int = 1, process: int = 0, processes: int = 1, first: int = 0,
        unlabelled: int = 0, per_update: int = 0,
    ) -> None:  # fmt: skip
        self.length, self.steps, self.images = length, steps, images
        self.accumulate, self.process, self.processes, self.first = accumulate, process, processes, first
        self.per_update = per_update
        self._labelled = _Shuffles(length, seed=seed)
        self._unlabelled = _Shuffles(unlabelled, seed=seed, stream=1)

    def __len__(self) -> int:
        return (self.steps - self.first) * self.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for part in range(self.first * self.accumulate, self.steps * self.accumulate):
            start = (part * self.processes + self.process) * self.images
            yield [self._draw(number) for number in range(start, start + self.images)]

    def _draw(self, number: int) -> tuple[int, int]:
        batch = self.images * self.processes * self.accumulate
        update, position = divmod(number, batch)
        before = position * self.per_update // batch  # frames without labels at earlier positions of the update
        if lacks_labels(position, batch=batch, unlabelled=self.per_update):
            index, turn = self._unlabelled.draw(update * self.per_update + before)
            return self.length + index, turn
        return self._labelled.draw(update * (batch - self.per_update) + position - before)


class _Shuffles:
    """Endless shuffles of the numbers 0 .. length - 1, each computed from the seed, its turn and the stream."""

    def __init__(self, length: int, *, seed: int, stream: int = 0) -> None:
        self._length, self._seed, self._stream = length, seed, [stream] if stream else []
        self._turn, self._order = -1, [0]

    def draw(self, number: int) -> tuple[int, int]:
        """The element at a position, and how often it was drawn before."""
        turn, position = divmod(number, self._length)
        if turn != self._turn:
            shuffle = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self._seed, turn, *self._stream])))
            self._turn, self._order = turn, shuffle.permutation(self._length).tolist()
        return self._order[position], turn


def lacks_labels(position: int, *, batch: int, unlabelled: int) -> bool:
    """Whether the image at a position of a batch is one of its ``unlabelled`` frames without labels.

    Example:
        >>> [lacks_labels(position, batch=8, unlabelled=3) for position in range(8)]
        [False, False, True, False, False, True, False, True]
    """
    return (position + 1) * unlabelled // batch > position * unlabelled // batch


def batches(crops: Crops, draws: Draws, *, workers: int) -> Iterator[list[Tensor]]:
    """Images (n, 3, H, W), targets (n, H, W) and indices (n,) of every drawn list, the same for any number of worker
    processes.

    Args:
        workers: processes that load crops; 0: this process loads them.

    Raises:
        UserError: a sample cannot be read, or a worker process was ended.
    """
    if workers:  # workers share the cores; and a forked process has no OpenCV thread pool, so it must not use one
        cv2.setNumThreads(1)
    loader: DataLoader[Any] = DataLoader(
        crops,
        batch_sampler=draws,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # of its own: making an iterator draws from it
    )
    try:
        yield from loader
    except UserError as error:  # of a worker: torch puts the traceback before the message
        raise UserError(str(error).rpartition(f"{UserError.__name__}: ")[2].strip()) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        reason = str(error).partition("\n")[0]
        raise UserError(f"a process that loads crops was ended ({reason}); lower workers, or free memory") from error


def class_weights(prepared: Prepared, *, balance: float) -> Tensor | None:
    """Weights (K,) ~ share ** -balance with mean 1 over labelled pixels of the train split, as `prepare` counted them.

    None for balance 0. Classes without train pixels get weight 0.
    """
    if balance == 0:
        return None
    prepared.require_classes()
    counts: npt.NDArray[np.float64] = np.array(prepared.class_pixels("train"), np.float64)
    share = counts / counts.sum()
    weights = np.where(share > 0, np.power(np.maximum(share, 1e-12), -balance), 0.0)
    return torch.from_numpy(weights / (weights * share).sum()).float()
