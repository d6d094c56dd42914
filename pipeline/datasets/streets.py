"""``streets``: procedurally rendered driving scenes with exact labels. They need no download.

Use them to try segpress from end to end, and to test it. The scenes have perspective, weather, night, occlusion and a
long-tailed class histogram. But they are drawings: results on them do not predict results on real streets.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from random import Random
from typing import Annotated

import numpy as np
from annotated_types import Ge

from pipeline.datasets._base import Dataset
from pipeline.datasets._streets.classes import LABELS
from pipeline.datasets._streets.light import Light, sample_light
from pipeline.datasets._streets.population import make_world
from pipeline.datasets._streets.render import render
from pipeline.datasets._streets.world import World
from pipeline.errors import Problems, UserError
from pipeline.frames import Array
from pipeline.licence import Licence

FPS = 15
_SPLITS = ("train", "val", "sequence")
_SMALLEST = (64, 96)
_STEP = 16


class Streets(Dataset):
    """Driving scenes that are rendered on demand.

    Args:
        train, val: number of single frames; each shows a different scene.
        sequence: number of consecutive frames of one drive (15 frames per second), a labelled video; 0: no sequence.
        size: (height, width) in pixels, multiples of 16, at least 64x96.
        seed: seed of the scenes; equal arguments give bit-identical frames, in any order of reading.

    Raises:
        UserError: ``size`` is too small or not a multiple of 16.

    Example:
        >>> streets = Streets(train=2, val=1, sequence=0, size=(64, 96), seed=1)
        >>> frame, label = streets.read("train", "train_0001")
        >>> frame.shape, label.shape
        ((64, 96, 3), (64, 96))
    """

    labels = LABELS
    licence = Licence(
        name="Apache-2.0",
        url="https://www.apache.org/licenses/LICENSE-2.0",
        commercial=True,
        note="segpress renders these scenes itself, so they have its licence",
    )

    def __init__(
        self,
        *,
        train: Annotated[int, Ge(1)],
        val: Annotated[int, Ge(1)],
        sequence: Annotated[int, Ge(0)],
        size: tuple[int, int],
        seed: Annotated[int, Ge(0)],
    ) -> None:
        _check_size(size)
        self._counts = dict(zip(_SPLITS, (train, val, sequence), strict=True))
        self._size = (int(size[0]), int(size[1]))
        self._seed = seed

    def splits(self) -> dict[str, Sequence[str]]:
        return {split: [f"{split}_{index:04d}" for index in range(count)] for split, count in self._counts.items()}

    def read(self, split: str, name: str) -> tuple[Array, Array]:
        index = self._index(split, name)
        moving = split == "sequence"
        seeds = (self._seed, _SPLITS.index(split), 0 if moving else index)
        duration = self._counts[split] / FPS if moving else 0.0
        world, light = _scene(seeds, duration) if moving else _scene.__wrapped__(seeds, duration)
        grain = np.random.Generator(np.random.PCG64(np.random.SeedSequence((*seeds[:2], index, 1))))
        return render(world, light, index / FPS if moving else 0.0, self._size, grain)

    def _index(self, split: str, name: str) -> int:
        if split not in _SPLITS:
            raise UserError(f"streets has no split {split!r}; allowed: {', '.join(_SPLITS)}")
        stem, _, digits = name.rpartition("_")
        index = int(digits) if digits.isdecimal() else -1
        if stem != split or not 0 <= index < self._counts[split] or name != f"{split}_{index:04d}":
            raise UserError(
                f"streets has no sample {name!r} in {split!r}; it has {self._counts[split]} samples, from {split}_0000"
            )
        return index


def _check_size(size: Sequence[int]) -> None:
    problems = Problems("datasets.streets")
    for side, pixels, least in zip(("height", "width"), size, _SMALLEST, strict=True):
        if pixels < least or pixels % _STEP:
            near = max(round(pixels / _STEP) * _STEP, least)
            problems.add(f"size: {side} {pixels} must be a multiple of {_STEP} and at least {least}; nearest is {near}")
    problems.raise_if_any()


@functools.lru_cache(maxsize=2)
def _scene(seeds: tuple[int, int, int], duration: float) -> tuple[World, Light]:
    """World and light of a scene. They are cached for a drive, because all its frames share them."""
    first, second = np.random.SeedSequence(seeds).generate_state(2, np.uint64)
    return make_world(int(first), duration), sample_light(Random(int(second)))  # noqa: S311
