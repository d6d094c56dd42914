"""What a run sees: augmented crops of a prepared split, the same for every number of workers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pipeline.labels import LabelSpec
from pipeline.prepared import Split
from pipeline.training.augment import Augmentation


def recipe(
    *, crop: tuple[int, int], input_size: tuple[int, int], scale: tuple[float, float], labels: LabelSpec,
    mean: tuple[float, ...], std: tuple[float, ...],
) -> Augmentation:  # fmt: skip
    """The augmentation of a network's crops: padding has its mean colour and the ignored id.

    Args:
        crop, input_size, scale: see :class:`Augmentation`.
        mean: RGB in 0..1.
        std: not used: the task normalises, on its device.
    """
    red, green, blue = (round(255 * value) for value in mean)
    return Augmentation(
        crop=crop, input_size=input_size, scale=scale, fill=(red, green, blue), ignore_index=labels.ignore_index
    )


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """Augmented crops; an item is addressed by (index, draw) and seeds its own augmentation.

    Items: image (3, H, W) uint8 RGB, target (H, W) uint8 train ids. Bytes travel to the device; the task normalises.
    """

    def __init__(self, split: Split, augment: Augmentation, *, seed: int) -> None:
        self.split = split
        self.augment = augment
        self.seed = seed

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, Tensor]:
        image, target = self.augment(*self.split[item[0]], np.random.default_rng([self.seed, *item]))
        return torch.from_numpy(image), torch.from_numpy(target)


class Draws(Sampler[tuple[int, int]]):
    """An endless shuffle of ``length`` items, cut after ``count``: (index, how often it was drawn before)."""

    def __init__(self, *, length: int, count: int, seed: int) -> None:
        self.length, self.count, self.seed = length, count, seed

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(self.seed)
        for start in range(0, self.count, self.length):
            order = torch.randperm(self.length, generator=generator).tolist()
            for index in order[: self.count - start]:
                yield index, start // self.length


def batches(crops: Crops, *, steps: int, batch_size: int, workers: int, seed: int) -> DataLoader[tuple[Tensor, Tensor]]:
    """A loader of exactly ``steps`` batches."""
    draws = Draws(length=len(crops), count=steps * batch_size, seed=seed)
    return DataLoader(
        crops, batch_size=batch_size, sampler=draws, num_workers=workers, pin_memory=torch.cuda.is_available()
    )


def class_weights(split: Split, labels: LabelSpec, *, balance: float) -> Tensor | None:
    """Weights (K,) ~ share ** -balance with mean 1 over pixels; None for balance 0. Absent classes get weight 0."""
    if balance == 0:
        return None
    counts: npt.NDArray[np.float64] = np.zeros(256)
    for index in range(len(split)):
        counts += np.bincount(split.label(index).ravel(), minlength=256)
    share = counts[: labels.num_classes] / counts[: labels.num_classes].sum()
    weights = np.where(share > 0, np.power(np.maximum(share, 1e-12), -balance), 0.0)
    return torch.from_numpy(weights / (weights * share).sum()).float()
