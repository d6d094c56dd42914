"""From a data set plugin to a prepared data set: check every sample, and report all errors together.

The bytes of the files do not depend on the number of workers, nor on interruptions.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL

from pipeline import artifact
from pipeline.datasets import Dataset
from pipeline.errors import Problems
from pipeline.frames import Array, write_png
from pipeline.labels import LabelSpec
from pipeline.preparation.originals import write_image
from pipeline.preparation.survey import Sample, SplitCounts, readable, survey
from pipeline.preparation.unfinished import Unfinished
from pipeline.prepared import jpeg_facts

#: Options of plugins that are not among ``options`` of meta.json: paths, and ``licence``, which is beside them.
NOT_RECORDED = ("root", "download", "licence")


def prepare(
    dataset: Dataset,
    out: Path,
    *,
    name: str,
    options: dict[str, Any],
    progress: Callable[[str, int], object],
    warn: Callable[[str], object] = lambda warning: None,
    workers: int = 1,
    code: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Write a data set as an artifact.

    Args:
        name: key of the plugin.
        options: options of the plugin; recorded in meta.json, except paths and the licence, which has its own key.
        progress: called with (split, number of samples in it) for each sample.
        warn: called with each warning, if there are no errors.
        workers: number of threads that read and write; it does not change any byte.
        code: sha256 of the code that prepares. After an interruption the next call resumes if code, options, libraries
            and raw files are the same; None: nothing is kept after an interruption.

    Returns:
        the facts of meta.json: splits, classes, the licence (null: not stated), and for each split the pixels of each
        class (``class_pixels``) and the images with the class (``class_images``), both in train-id order, and the share
        of each class of the labelled pixels, by name (``class_share``); ``jpeg`` if some images are JPEG files, see
        :func:`pipeline.prepared.jpeg_facts`.

    Raises:
        UserError: the data set has errors, and nothing is written. The message lists every unreadable image, missing
            file, size mismatch, id out of range, repeated name, image in two splits, error in list files and folders,
            and train or val with too few classes. Or another process prepares the same data set.
    """
    facts: dict[str, Any] = {
        **dataset.labels.to_meta(),
        "dataset": name,
        "options": {key: value for key, value in options.items() if key not in NOT_RECORDED},
        "licence": None if dataset.licence is None else asdict(dataset.licence),
    }
    samples = readable(dataset.splits())
    identity = {
        "facts": facts, "code": dict(code or {}), "raw": _raw_files(dataset, samples),
        "libraries": {"pillow": PIL.__version__, "opencv": cv2.__version__, "numpy": np.__version__},
    }  # fmt: skip
    work = Unfinished(out, identity=identity, samples=samples, resumable=code is not None)
    with work, artifact.create(out, kind="dataset", meta=facts, scratch=work.files, digests=work.digests) as folder:

        def keep(split: str, sample: str, frame: Array, label: Array, known: Sample) -> None:
            image = write_image(folder / split / "images", sample, frame, source=dataset.image_file(split, sample))
            label_file = folder / split / "labels" / f"{sample}.png"
            write_png(label_file, label)
            work.keep(split, sample, known, image=image, label=label_file)

        result = survey(dataset, progress=progress, keep=keep, recall=work.recall, workers=workers)
        problems = Problems(f"data set {name}")
        for problem in result.problems:
            problems.add(problem)
        problems.raise_if_any(advice="Nothing was written. Correct these errors, then run prepare again.")
        for warning in result.warnings:
            warn(warning)
        facts["splits"] = result.names
        facts |= class_facts(dataset.labels, result.counts) | jpeg_facts(folder, work.digests)
    return facts


def _raw_files(dataset: Dataset, samples: list[tuple[str, str]]) -> str:
    """Digest of the samples, the errors and warnings, and of the names, sizes and times of the raw files."""
    state = hashlib.sha256(json.dumps([samples, [*dataset.problems()], [*dataset.warnings()]]).encode())
    for file in dataset.raw_files():
        try:
            now = file.stat()
            state.update(f"{os.fspath(file)!r} {now.st_size} {now.st_mtime_ns} {now.st_ctime_ns}\n".encode())
        except OSError:
            state.update(f"{os.fspath(file)!r} missing\n".encode())
    return state.hexdigest()


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
