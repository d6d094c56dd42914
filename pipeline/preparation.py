"""From a data set plugin to a prepared data set: every sample checked, all faults reported together.

Files are byte-stable, whatever the number of workers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import artifact
from pipeline.datasets import Dataset
from pipeline.errors import Faults
from pipeline.frames import Array, write_png
from pipeline.labels import LabelSpec
from pipeline.survey import SplitCounts, survey


def prepare(
    dataset: Dataset,
    out: Path,
    *,
    name: str,
    options: dict[str, Any],
    progress: Callable[[str, int], object],
    warn: Callable[[str], object] = lambda warning: None,
    workers: int = 1,
) -> dict[str, Any]:
    """Write a data set as an artifact.

    Args:
        name: key of the plugin.
        options: its options; recorded, but for paths.
        progress: called with (split, number of samples in it) for each sample.
        warn: called with each warning, when the data set is sound.
        workers: threads that read and write; they change no byte.

    Returns:
        the facts of meta.json: splits, classes, and by split the pixels of each class (``class_pixels``), the images
        that show it (``class_images``), both in train-id order, and its share of the labelled pixels by name
        (``class_share``).

    Raises:
        UserError: a list of every unreadable image, size mismatch, id out of range, missing file, name that is not
            unique, image in two splits, fault of lists and layout, and train or val in which nothing can be learnt;
            nothing is written then.
    """
    facts: dict[str, Any] = {
        **dataset.labels.to_meta(),
        "dataset": name,
        "options": {key: value for key, value in options.items() if key not in ("root", "download")},
    }
    with artifact.create(out, kind="dataset", meta=facts) as folder:

        def keep(split: str, sample: str, frame: Array, label: Array) -> None:
            write_png(folder / split / "images" / f"{sample}.png", frame)
            write_png(folder / split / "labels" / f"{sample}.png", label)

        found = survey(dataset, progress=progress, keep=keep, workers=workers)
        faults = Faults(f"data set {name}")
        for fault in found.faults:
            faults.add(fault)
        faults.raise_if_any(advice="nothing was written; correct or remove what is named here and run prepare again")
        for warning in found.warnings:
            warn(warning)
        facts["splits"] = found.names
        facts |= class_facts(dataset.labels, found.counts)
    return facts


def class_facts(labels: LabelSpec, counts: dict[str, SplitCounts]) -> dict[str, Any]:
    """``class_pixels``, ``class_images`` and ``class_share`` of meta.json."""
    return {
        "class_pixels": {split: found.pixels.tolist() for split, found in counts.items()},
        "class_images": {split: found.images.tolist() for split, found in counts.items()},
        "class_share": {
            split: {name: round(float(share), 6) for name, share in zip(labels.names, found.shares(), strict=True)}
            for split, found in counts.items()
        },
    }
