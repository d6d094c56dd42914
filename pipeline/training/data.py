"""What a run sees: augmented crops of a prepared split, the same for every number of workers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import tv_tensors
from torchvision.transforms import v2

from pipeline.labels import LabelSpec
from pipeline.prepared import Split


def recipe(
    *, crop: tuple[int, int], input_size: tuple[int, int], scale: tuple[float, float], labels: LabelSpec,
    mean: tuple[float, ...], std: tuple[float, ...],
) -> v2.Transform:  # fmt: skip
    """Scale jitter, crop, flip and colour jitter of an (image, mask) pair; the image comes out normalised.

    Args:
        crop: (height, width) that comes out; padding has the mean colour and the ignored id.
        input_size: (height, width) that scale 1 means.
        scale: lowest and highest factor.
    """
    grey = {tv_tensors.Image: [round(255 * value) for value in mean], tv_tensors.Mask: labels.ignore_index}
    return v2.Compose(
        [
            RandomScale(input_size=input_size, scale=scale),
            v2.RandomCrop(crop, pad_if_needed=True, fill=grey),
            v2.RandomHorizontalFlip(),
            # torchvision's RandomPhotometricDistort also swaps colour channels: no camera does
            v2.RandomApply([v2.ColorJitter(brightness=0.125, contrast=0.5, saturation=0.5, hue=0.05)], p=0.5),
            v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64}, scale=True),
            v2.Normalize(mean=list(mean), std=list(std)),
        ]
    )


class RandomScale(v2.Transform):  # type: ignore[misc]
    """Resize by a random factor, where factor 1 makes the frame as large as ``input_size`` (aspect kept, both sides
    cover).

    torchvision's ScaleJitter pairs target height with image width, so it scales by another factor than it is told.
    """

    def __init__(self, *, input_size: tuple[int, int], scale: tuple[float, float]) -> None:
        super().__init__()
        self.input_size = input_size
        self.scale = scale

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.query_size(flat_inputs)
        fit = max(self.input_size[0] / height, self.input_size[1] / width)
        factor = fit * (self.scale[0] + (self.scale[1] - self.scale[0]) * float(torch.rand(())))
        return {"size": [round(height * factor), round(width * factor)]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if isinstance(inpt, tv_tensors.Mask):
            return v2.functional.resize(inpt, params["size"], interpolation=v2.InterpolationMode.NEAREST_EXACT)
        return v2.functional.resize(inpt, params["size"], antialias=True)


class Crops(Dataset[Any]):
    """Augmented crops; an item is addressed by (index, draw) and seeds its own augmentation.

    Items: image (3, H, W) float32 normalised RGB, target (H, W) int64 train ids, index of the sample.
    """

    def __init__(self, split: Split, transform: v2.Transform, *, seed: int) -> None:
        self.split = split
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, Tensor, int]:
        index, draw = item
        frame, label = self.split[index]
        image = tv_tensors.Image(torch.from_numpy(frame[:, :, ::-1].transpose(2, 0, 1).copy()))
        entropy = np.random.SeedSequence([self.seed, index, draw]).generate_state(1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(entropy[0]))
            image, mask = self.transform(image, tv_tensors.Mask(torch.from_numpy(label)))
        return image.as_subclass(Tensor), mask.as_subclass(Tensor), index


class Draws(Sampler[list[tuple[int, int]]]):
    """The draws of one process: for each update, ``accumulate`` lists of ``images`` pairs (index, turn).

    All processes together go through endless shuffles of ``length`` items; ``turn`` counts how often an item was drawn
    before. What is drawn at a place depends on the seed and the place alone, so a run can start at any step.

    Args:
        length: items to draw from.
        steps: updates; drawing ends after them.
        images: that a process takes at a time.
        accumulate: lists an update.
        process, processes: which of how many.
        first: 0-based update to start at.
    """

    def __init__(
        self, *, length: int, steps: int, images: int, seed: int,
        accumulate: int = 1, process: int = 0, processes: int = 1, first: int = 0,
    ) -> None:  # fmt: skip
        self.length, self.steps, self.images, self.seed = length, steps, images, seed
        self.accumulate, self.process, self.processes, self.first = accumulate, process, processes, first
        self._turn, self._order = -1, [0]

    def __len__(self) -> int:
        return (self.steps - self.first) * self.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for part in range(self.first * self.accumulate, self.steps * self.accumulate):
            start = (part * self.processes + self.process) * self.images
            yield [self._draw(place) for place in range(start, start + self.images)]

    def _draw(self, place: int) -> tuple[int, int]:
        turn, position = divmod(place, self.length)
        if turn != self._turn:
            shuffle = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, turn])))
            self._turn, self._order = turn, shuffle.permutation(self.length).tolist()
        return self._order[position], turn


def batches(crops: Crops, draws: Draws, *, workers: int) -> DataLoader[Any]:
    """Images (n, 3, H, W), targets (n, H, W) and indices (n,) of every list that is drawn, the same for any number of
    worker processes."""
    return DataLoader(
        crops,
        batch_sampler=draws,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # of its own: making an iterator draws from it
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
