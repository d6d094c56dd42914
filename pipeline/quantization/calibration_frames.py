"""Which train frames calibrate: drawn with a seed, so that every class is among them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from pipeline.errors import UserError
from pipeline.frames import Array, resize_frame
from pipeline.labels import LabelSpec
from pipeline.prepared import Prepared, Split

#: A class shows in a frame when it has this share of its pixels; less is counted only where no frame has more.
SHOWS = 1e-3


class Frames:
    """Frames of a split at the networks' input size, read when they are asked for."""

    def __init__(self, split: Split, chosen: Sequence[int], size: tuple[int, int]) -> None:
        self.split = split
        self.chosen = chosen
        self.size = size

    @classmethod
    def for_calibration(
        cls, prepared: Prepared, size: tuple[int, int], *, count: int, seed: int, allow_missing: bool
    ) -> Frames:
        """Train frames drawn by :func:`choose`. Raises UserError when they do not show every class.

        Args:
            allow_missing: see :func:`require_classes`.
        """
        split = prepared.split("train")
        shares = class_shares(split, prepared.labels)
        chosen = choose(shares, count=count, seed=seed)
        require_classes(shares, chosen, prepared.labels.names, allow_missing=allow_missing)
        return cls(split, chosen, size)

    @property
    def names(self) -> list[str]:
        return [self.split.names[index] for index in self.chosen]

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> Array:
        return resize_frame(self.split.frame(self.chosen[index]), self.size)


def class_shares(split: Split, labels: LabelSpec) -> npt.NDArray[np.float64]:
    """Share of the pixels of each frame that each class has, (frames, K)."""

    def shares(index: int) -> npt.NDArray[np.float64]:
        label = split.label(index)
        counts = np.bincount(label.ravel(), minlength=256)[: len(labels.names)]
        return counts / label.size

    with ThreadPoolExecutor() as pool:  # OpenCV lets go of the interpreter while it decodes
        return np.stack(list(pool.map(shares, range(len(split)))))


def choose(shares: npt.NDArray[np.float64], *, count: int, seed: int) -> list[int]:
    """Indices of ``count`` frames, in order; all of them when there are fewer.

    Frames are drawn at random, the first for the rarest class among those that show it, the next for the class that
    then has the fewest, until each class has its ``count / K`` frames or all that there are; the rest is drawn from all
    frames. So the histograms know what a rare class looks like, and still mostly see ordinary frames.

    Args:
        shares: (frames, K) share of the pixels that each class has in each frame.
    """
    shows = shows_class(shares)
    wanted = np.minimum(shows.sum(axis=0), max(1, count // shares.shape[1]))
    order = np.random.default_rng(seed).permutation(len(shares))
    chosen: list[int] = []
    while len(chosen) < min(count, len(shares)):
        lacking = wanted > shows[chosen].sum(axis=0)
        left = order[~np.isin(order, chosen)]
        if lacking.any():
            rarest = min(np.flatnonzero(lacking), key=lambda k: (shows[:, k].sum(), k))
            left = left[shows[left, rarest]]
        chosen.append(int(left[0]))
    return sorted(chosen)


def shows_class(shares: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Whether a frame shows a class, (frames, K)."""
    shown: npt.NDArray[np.bool_] = (shares >= np.minimum(SHOWS, shares.max(axis=0))) & (shares > 0)
    return shown


def require_classes(
    shares: npt.NDArray[np.float64], chosen: Sequence[int], names: Sequence[str], *, allow_missing: bool
) -> None:
    """Raise UserError when the chosen frames do not show every class.

    Args:
        names: of the K classes.
        allow_missing: go on without the classes that no frame of all shows.
    """
    shows = shows_class(shares)
    absent = [names[k] for k in range(len(names)) if not shows[:, k].any()]
    missing = [names[k] for k in range(len(names)) if not shows[chosen, k].any() and names[k] not in absent]
    if absent and not allow_missing:
        raise UserError(
            f"calibration: no train frame shows {', '.join(absent)}; the ranges would not know the activations of such "
            "pixels. Add frames to train, or set calibrate.allow_missing_classes: true"
        )
    if missing:
        raise UserError(
            f"calibrate.images: {len(chosen)} frames do not show {', '.join(missing)}; take more: {len(names)} always "
            "show all"
        )
