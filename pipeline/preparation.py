"""From a data set plugin to a prepared data set: every sample checked, all faults reported together.

Files are byte-stable.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import artifact
from pipeline.datasets import Dataset
from pipeline.errors import Faults, UserError
from pipeline.frames import Array, write_png


def prepare(
    dataset: Dataset, out: Path, *, name: str, options: dict[str, Any], progress: Callable[[str, int], object]
) -> dict[str, Any]:
    """Write a data set as an artifact.

    Args:
        name: key of the plugin.
        options: its options; recorded, but for paths.
        progress: called with (split, number of samples in it) before each sample.

    Returns:
        the facts of meta.json: splits, classes, share of pixels of each class by split.

    Raises:
        UserError: a list of every unreadable image, size mismatch, id out of range, missing file, name that is not
            unique and image in two splits; nothing is written then.
    """
    splits = {split: list(names) for split, names in dataset.splits().items()}
    faults = Faults(f"data set {name}")
    for split in ("train", "val"):
        if not splits.get(split):
            faults.add(f"split {split}: empty; it needs at least one sample")
    _check_names(splits, faults)
    facts: dict[str, Any] = {
        **dataset.labels.to_meta(),
        "dataset": name,
        "options": {key: value for key, value in options.items() if key not in ("root", "download")},
        "splits": splits,
        "class_share": {},
    }
    seen: dict[bytes, str] = {}
    with artifact.create(out, kind="dataset", meta=facts) as folder:
        for split, names in splits.items():
            counts: npt.NDArray[np.int64] = np.zeros(256, np.int64)
            for sample in names:
                progress(split, len(names))
                try:
                    frame, label = dataset.read(split, sample)
                    _check(dataset, frame, label)
                except UserError as error:
                    faults.add(f"{split}/{sample}: {error}")
                    continue
                digest = hashlib.sha256(frame.tobytes()).digest()
                twin = seen.setdefault(digest, f"{split}/{sample}")
                if twin.partition("/")[0] != split:
                    faults.add(f"{split}/{sample}: the same image as {twin}; splits must be disjoint")
                counts += np.bincount(label.ravel(), minlength=256)
                write_png(folder / split / "images" / f"{sample}.png", frame)
                write_png(folder / split / "labels" / f"{sample}.png", label)
            facts["class_share"][split] = _shares(counts, dataset)
        faults.raise_if_any(advice="nothing was written; mend or remove these samples and run prepare again")
    return facts


def _check_names(splits: Mapping[str, Sequence[str]], faults: Faults) -> None:
    first: dict[str, str] = {}
    for split, names in splits.items():
        for name in names:
            other = first.setdefault(name, split)
            if other != split:
                faults.add(f"{split}/{name}: the same name as {other}/{name}; splits must be disjoint")
        for name, count in Counter(names).items():
            if count > 1:
                faults.add(f"{split}/{name}: listed {count} times; names must be unique")


def _check(dataset: Dataset, frame: Array, label: Array) -> None:
    if frame.shape[:2] != label.shape:
        raise UserError(f"image is {frame.shape[:2]}, its label {label.shape} (height, width); they must be equal")
    ids = np.unique(label)
    wrong = [int(i) for i in ids if i >= dataset.labels.num_classes and i != dataset.labels.ignore_index]
    if wrong:
        highest, ignored = dataset.labels.num_classes - 1, dataset.labels.ignore_index
        raise UserError(f"label ids {wrong}; allowed: 0..{highest} and {ignored} (ignored)")


def _shares(counts: npt.NDArray[np.int64], dataset: Dataset) -> dict[str, float]:
    labelled = counts[: dataset.labels.num_classes]
    return {
        name: round(float(count / max(1, labelled.sum())), 6)
        for name, count in zip(dataset.labels.names, labelled, strict=True)
    }
