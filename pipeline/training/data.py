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


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """Augmented crops; an item is addressed by (index, draw) and seeds its own augmentation.

    Items: image (3, H, W) float32 normalised RGB, target (H, W) int64 train ids.
    """

    def __init__(self, split: Split, transform: v2.Transform, *, seed: int) -> None:
        self.split = split
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, Tensor]:
        index, draw = item
        frame, label = self.split[index]
        image = tv_tensors.Image(torch.from_numpy(frame[:, :, ::-1].transpose(2, 0, 1).copy()))
        entropy = np.random.SeedSequence([self.seed, index, draw]).generate_state(1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(entropy[0]))
            image, mask = self.transform(image, tv_tensors.Mask(torch.from_numpy(label)))
        return image.as_subclass(Tensor), mask.as_subclass(Tensor)


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
