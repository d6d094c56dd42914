"""Convert a prepared data set to the classes of an imported network: labels are renamed and merged, frames copied."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import artifact
from pipeline.errors import Problems, closest
from pipeline.frames import Array, write_png
from pipeline.imported.description import IGNORED, Description
from pipeline.labels import LabelSpec
from pipeline.preparation.prepare import class_facts
from pipeline.preparation.survey import SplitCounts
from pipeline.prepared import Prepared


def sources(description: Description, classes: LabelSpec) -> dict[str, list[str]]:
    """The classes of a data set that become each class of the network, without ``rest``.

    A class that ``merge`` does not name gets the data set's class of the same name, unless ``merge`` gives that to
    another class.

    Raises:
        UserError: ``merge`` names a class that the data set does not have, or no class of the network gets one.
    """
    merge = description.merge or {}
    problems = Problems(str(description.file))
    merged = {source for names in merge.values() for source in names}
    for name, names in merge.items():
        for source in names:
            if source not in classes.names:
                problems.add(f"merge.{name}: the data set has no class '{source}'; {closest(source, classes.names)}")
    unmerged = set(classes.names) - merged
    by_class = {name: list(merge.get(name, [name] if name in unmerged else [])) for name in description.labels.names}
    if not problems.messages and not any(by_class.values()):
        problems.add(
            f"merge: no class of the network ({', '.join(description.labels.names)}) gets a class of the data set "
            f"({', '.join(classes.names)}); list for each class of the network the classes of the data set: "
            "`merge: {road: [street, lane]}`"
        )
    problems.raise_if_any()
    return by_class


def lookup(description: Description, classes: LabelSpec) -> Array:
    """A table with the network's id for every id of the data set, (256,)."""
    labels = description.labels
    rest = labels.ignore_index if description.rest == IGNORED else labels.names.index(description.rest)
    table = np.full(256, labels.ignore_index, np.uint8)
    table[: classes.num_classes] = rest
    for target, name in enumerate(labels.names):
        for source in sources(description, classes)[name]:
            table[classes.names.index(source)] = target
    table[classes.ignore_index] = labels.ignore_index
    return table


def merge(
    prepared: Prepared, description: Description, out: Path, *, progress: Callable[[str, int], object]
) -> dict[str, Any]:
    """Write the data set with the network's classes as an artifact of kind ``dataset``.

    Args:
        progress: called with (split, number of samples in the split) before each sample.

    Returns:
        the facts of meta.json: splits, classes, ``merged``, and counts of each class per split as in `prepare`.
    """
    table = lookup(description, prepared.labels)
    labels = description.labels
    facts: dict[str, Any] = {
        **labels.to_meta(),
        "dataset": prepared.name,
        "licence": prepared.artifact.meta.get("licence"),
        "merged": {"classes": sources(description, prepared.labels), "rest": description.rest},
        "splits": prepared.splits,
        "parents": {"dataset": prepared.artifact.hash},
    }
    counts = {name: SplitCounts.none(labels.num_classes) for name in prepared.splits}
    if "jpeg" in prepared.artifact.meta:
        facts["jpeg"] = prepared.artifact.meta["jpeg"]
    with artifact.create(out, kind="dataset", meta=facts) as folder:
        for name, samples in prepared.splits.items():
            split = prepared.split(name)
            for index, sample in enumerate(samples):
                progress(name, len(samples))
                label = table[split.label(index)]
                counts[name].add(np.bincount(label.ravel(), minlength=256), label.shape)
                write_png(folder / name / "labels" / f"{sample}.png", label)
                image = split.image_file(index)
                artifact.copy_file(image, folder / image.relative_to(split.root))
        facts |= class_facts(labels, counts)
    return facts
