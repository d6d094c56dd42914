"""From a data set plugin to a prepared data set: check every sample, and report all errors together.

The bytes of the files do not depend on the number of workers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import artifact
from pipeline.datasets import Dataset
from pipeline.errors import Problems
from pipeline.frames import Array, write_png
from pipeline.labels import LabelSpec
from pipeline.preparation.survey import SplitCounts, survey


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
        options: options of the plugin; recorded in meta.json, except paths.
        progress: called with (split, number of samples in it) for each sample.
        warn: called with each warning, if there are no errors.
        workers: number of threads that read and write; it does not change any byte.

    Returns:
        the facts of meta.json: splits, classes, and for each split the pixels of each class (``class_pixels``) and the
        images with the class (``class_images``), both in train-id order, and the share of each class of the labelled
        pixels, by name (``class_share``).

    Raises:
        UserError: the data set has errors, and nothing is written. The message lists every unreadable image, missing
            file, size mismatch, id out of range, repeated name, image in two splits, error in list files and folders,
            and train or val with too few classes.
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

        result = survey(dataset, progress=progress, keep=keep, workers=workers)
        problems = Problems(f"data set {name}")
        for problem in result.problems:
            problems.add(problem)
        problems.raise_if_any(advice="Nothing was written. Correct these errors, then run prepare again.")
        for warning in result.warnings:
            warn(warning)
        facts["splits"] = result.names
        facts |= class_facts(dataset.labels, result.counts)
    return facts


def class_facts(labels: LabelSpec, counts: dict[str, SplitCounts]) -> dict[str, Any]:
    """``class_pixels``, ``class_images`` and ``class_share`` of meta.json."""
    return {
        "class_pixels": {split: count.pixels.tolist() for split, count in counts.items()},
        "class_images": {split: count.images.tolist() for split, count in counts.items()},
        "class_share": {
            split: {name: round(float(share), 6) for name, share in zip(labels.names, count.shares(), strict=True)}
            for split, count in counts.items()
        },
    }
