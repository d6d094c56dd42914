"""Choose the train frames for calibration: drawn with a seed, and every class is in at least one of them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from pipeline.errors import UserError
from pipeline.frames import Array, resize_frame
from pipeline.labels import LabelSpec
from pipeline.prepared import Prepared, Split

#: A frame shows a class when at least this share of its pixels has the class. If no frame has that share, the frames
#: with the largest share show the class.
SHOWS = 1e-3


class Frames:
    """Frames of a split at the network's input size, read on access."""

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
    """Share of each frame's pixels that belong to each class, (frames, K)."""

    def shares(index: int) -> npt.NDArray[np.float64]:
        label = split.label(index)
        counts = np.bincount(label.ravel(), minlength=256)[: len(labels.names)]
        return counts / label.size

    with ThreadPoolExecutor() as pool:  # OpenCV releases Python's lock while it decodes
        return np.stack(list(pool.map(shares, range(len(split)))))


def choose(shares: npt.NDArray[np.float64], *, count: int, seed: int) -> list[int]:
    """Indices of ``count`` frames, in ascending order; of all frames when there are fewer than ``count``.

    Each class should be in ``count / K`` chosen frames, or in all frames that show it where there are fewer. Frames are
    drawn at random. As long as a class has too few frames, the next frame is drawn from those that show the rarest such
    class; the others are drawn from all frames. So the histograms contain the activations of rare classes, and most
    frames are still ordinary ones.

    Args:
        shares: (frames, K) share of each frame's pixels that belong to each class.
    """
    shows = shows_class(shares)
    wanted = np.minimum(shows.sum(axis=0), max(1, count // shares.shape[1]))
    order = np.random.default_rng(seed).permutation(len(shares))
    chosen: list[int] = []
    while len(chosen) < min(count, len(shares)):
        too_few = wanted > shows[chosen].sum(axis=0)
        candidates = order[~np.isin(order, chosen)]
        if too_few.any():
            rarest = min(np.flatnonzero(too_few), key=lambda k: (shows[:, k].sum(), k))
            candidates = candidates[shows[candidates, rarest]]
        chosen.append(int(candidates[0]))
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
        allow_missing: accept classes that no frame of the whole split shows.
    """
    shows = shows_class(shares)
    absent = [names[k] for k in range(len(names)) if not shows[:, k].any()]
    missing = [names[k] for k in range(len(names)) if not shows[chosen, k].any() and names[k] not in absent]
    if absent and not allow_missing:
        raise UserError(
            f"calibration: no train frame shows {', '.join(absent)}; the activation ranges would not cover these "
            "classes. Add frames to train, or set calibrate.allow_missing_classes: true"
        )
    if missing:
        raise UserError(
            f"calibrate.images: the {len(chosen)} chosen frames do not show {', '.join(missing)}; set it higher: "
            f"{len(names)} frames always show all classes"
        )
