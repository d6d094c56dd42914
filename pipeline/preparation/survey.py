"""One pass over all samples of a data set: all errors, image sizes, and exact pixel counts of each class.

`prepare` also writes the samples, `segpress inspect` does not.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.datasets import Dataset
from pipeline.datasets._lists import safe
from pipeline.errors import UserError
from pipeline.frames import Array, digest
from pipeline.labels import LabelSpec
from pipeline.preparation.copies import copies, thumbnail

Counts = npt.NDArray[np.int64]
Item = TypeVar("Item")
Result = TypeVar("Result")
#: Splits that must have pixels of classes; other splits may have no labels.
LEARNT = ("train", "val")
#: Split -> consequence if a class has no pixel in it.
CONSEQUENCES = {"train": "cannot be learnt", "val": "no IoU"}
SHOWN_COPIES = 10  # number of copies that are named


def cores() -> int:
    """Number of processors that this process may use, at most 8: more threads would only wait for the disk."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, usable)


@dataclass
class SplitCounts:
    """Counts of one split.

    Args:
        pixels: (K,) number of pixels of each class.
        images: (K,) number of images with the class.
        ignored: number of ignored pixels.
        sizes: (height, width) -> number of images.
    """

    pixels: Counts
    images: Counts
    ignored: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)

    @classmethod
    def none(cls, classes: int) -> SplitCounts:
        """The counts before the first image: all zero."""
        return cls(np.zeros(classes, np.int64), np.zeros(classes, np.int64))

    def add(self, histogram: Counts, size: tuple[int, ...]) -> None:
        """Add one image: ``histogram`` (256,) is its number of pixels of each id, ``size`` its (height, width)."""
        labelled = histogram[: len(self.pixels)]
        self.pixels += labelled
        self.images += labelled > 0
        self.ignored += int(histogram.sum() - labelled.sum())
        self.sizes[size[0], size[1]] += 1

    def shares(self) -> npt.NDArray[np.float64]:
        """(K,) share of each class of the labelled pixels."""
        return self.pixels / max(1, int(self.pixels.sum()))


@dataclass
class Survey:
    """The result of a survey: names and counts by split, all errors (``problems``) and all warnings."""

    labels: LabelSpec
    names: dict[str, list[str]]
    counts: dict[str, SplitCounts]
    problems: list[str]
    warnings: list[str] = field(default_factory=list)

    def absences(self) -> list[str]:
        """A warning for each split without some classes; see the function :func:`absences`."""
        return absences(self.labels, {split: counts.pixels.tolist() for split, counts in self.counts.items()})


@dataclass(frozen=True)
class Sample:
    """The facts of a sample that are needed after it was read.

    Args:
        digest, label_digest: of its pixels and of its train ids, see :func:`pipeline.frames.digest`.
        thumbnail: (1024,) grey, to find copies.
        size: (height, width).
        histogram: (256,) number of pixels of each id.
    """

    digest: bytes
    label_digest: bytes
    thumbnail: Array
    size: tuple[int, int]
    histogram: Counts


def _unknown(split: str, name: str) -> Sample | None:
    return None


def survey(
    dataset: Dataset,
    *,
    progress: Callable[[str, int], object],
    keep: Callable[[str, str, Array, Array, Sample], object] = lambda *sample: None,
    recall: Callable[[str, str], Sample | None] = _unknown,
    workers: int = 1,
) -> Survey:
    """Read and check every sample.

    Args:
        progress: called with (split, number of its samples) for each sample, in order.
        keep: called with (split, name, frame, label, facts) of each valid sample that was read, in any order and from
            several threads.
        recall: called with (split, name) before a sample is read, from several threads; the facts that an interrupted
            run kept, or None to read the sample.
        workers: number of threads that decode and encode in parallel. The result does not depend on it.

    Returns:
        counts of the valid samples, and the errors of all other samples: unreadable, sizes differ, id out of range,
        name that is repeated or is not a file name, image in two splits. It is also an error if there is only one
        class, or if train or val is empty or has pixels of fewer than two classes. Warnings: unclear files, the same
        image with different masks, and copies in another split.
    """
    names = {split: list(listed) for split, listed in dataset.splits().items()}
    problems = [*dataset.problems(), *_name_problems(names)]
    counts = {split: SplitCounts.none(dataset.labels.num_classes) for split in names}
    first_seen: dict[bytes, tuple[str, bytes]] = {}
    warnings = list(dataset.warnings())
    thumbnails: dict[str, list[tuple[str, Array]]] = {split: [] for split in names}

    def read_sample(of: tuple[str, str]) -> Sample:
        split, name = of
        known = recall(split, name)
        if known is not None:
            return known
        frame, label = dataset.read(split, name)
        histogram = checked(dataset.labels, frame, label)
        height, width = label.shape
        sample = Sample(digest(frame), digest(label), thumbnail(frame), (height, width), histogram)
        keep(split, name, frame, label, sample)
        return sample

    samples = readable(names)
    totals = Counter(split for split, _ in samples)
    for (split, name), future in in_order(read_sample, samples, workers):
        progress(split, totals[split])
        try:
            sample = future.result()
        except UserError as error:
            problems.append(f"{split}/{name}: {error}")
            continue
        twin, twin_label = first_seen.setdefault(sample.digest, (f"{split}/{name}", sample.label_digest))
        difference = "" if twin_label == sample.label_digest else ", with another mask"
        if twin.partition("/")[0] != split:
            problems.append(
                f"{split}/{name}: the same image as {twin}{difference}; splits must be disjoint: remove one"
            )
        elif difference:
            warnings.append(f"{split}/{name}: the same image as {twin}{difference}; keep the correct one")
        else:
            thumbnails[split].append((name, sample.thumbnail))
        counts[split].add(sample.histogram, sample.size)
    warnings += _copy_warnings(thumbnails)
    absent = [
        label for index, label in enumerate(dataset.labels.names) if not any(c.pixels[index] for c in counts.values())
    ]
    hint = dataset.absence(absent) if absent and any(split.ignored for split in counts.values()) else None
    problems += _shortages(dataset.labels, names, counts)
    if hint:
        (problems if problems else warnings).append(hint)
    return Survey(dataset.labels, names, counts, problems, warnings)


def readable(names: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """(split, name) of every sample whose name can be a file, in order."""
    return [(split, name) for split, listed in names.items() for name in listed if safe(name)]


def _copy_warnings(thumbnails: Mapping[str, Sequence[tuple[str, Array]]]) -> Iterator[str]:
    pairs = list(copies(thumbnails))
    for copy, original in pairs[:SHOWN_COPIES]:
        yield f"{copy}: looks the same as {original}; if it is a copy, remove one: copies make mIoU too high"
    if len(pairs) > SHOWN_COPIES:
        more = len(pairs) - SHOWN_COPIES
        yield f"{more} more images look the same as an image of another split; a fixed camera also causes this"


def _shortages(
    labels: LabelSpec, names: Mapping[str, Sequence[str]], counts: Mapping[str, SplitCounts]
) -> Iterator[str]:
    """Errors: there is only one class, or train or val has too few classes.

    A split with invalid samples is not checked: these samples may have more classes.
    """
    if labels.num_classes == 1:
        yield (
            f"classes: got only '{labels.names[0]}'; allowed: two or more: make the other pixels a class too, such as "
            "background, and do not ignore them"
        )
        return
    for split in LEARNT:
        if names.get(split) and counts[split].sizes.total() == len(names[split]):
            shortage = labels.shortage(split, counts[split].pixels.tolist())
            if shortage:
                yield f"{shortage}; check the ids or colours of the classes, the ignored values, and the splits"


def absences(labels: LabelSpec, class_pixels: Mapping[str, Sequence[int]]) -> list[str]:
    """A warning for each split in which classes have no pixel; it names these classes.

    Args:
        class_pixels: split -> (K,) number of pixels of each class.
    """
    warnings = []
    for split, pixels in class_pixels.items():
        absent = [name for name, count in zip(labels.names, pixels, strict=True) if not count]
        if len(absent) == labels.num_classes:
            warnings.append(f"{split}: no labelled pixel")
        elif absent:
            consequence = f" ({CONSEQUENCES[split]})" if split in CONSEQUENCES else ""
            number = "1 class is" if len(absent) == 1 else f"{len(absent)} classes are"
            warnings.append(f"{split}: {number} absent{consequence}: {', '.join(absent)}")
    return warnings


def checked(labels: LabelSpec, frame: Array, label: Array) -> Counts:
    """Number of pixels of each id, (256,). Raises UserError: sizes differ, or an id is out of range."""
    if frame.shape[:2] != label.shape:
        raise UserError(f"image is {frame.shape[:2]}, its label {label.shape} (height, width); they must be equal")
    histogram = np.bincount(label.ravel(), minlength=256)
    invalid = [int(i) for i in histogram.nonzero()[0] if i >= labels.num_classes and i != labels.ignore_index]
    if invalid:
        highest, ignored = labels.num_classes - 1, labels.ignore_index
        raise UserError(f"unknown label ids {invalid}; allowed: 0..{highest} and {ignored} (ignored)")
    return histogram


def _name_problems(names: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for split in LEARNT:
        if not names.get(split):
            yield f"split {split}: empty; allowed: at least one sample"
    first: dict[str, str] = {}
    for split, listed in names.items():
        for name, count in Counter(listed).items():
            other = first.setdefault(name, split)
            if other != split:
                yield f"{split}/{name}: the same name as {other}/{name}; splits must be disjoint: rename or remove one"
            if count > 1:
                yield f"{split}/{name}: listed {count} times; names must be unique"
            if not safe(name):
                yield f"{split}/{name!r}: not a file name; allowed: printable, relative and not too long; rename it"


def in_order(
    read: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[tuple[Item, Future[Result]]]:
    """A future for each item, in order. Only a few run at the same time, to save memory."""
    pending: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                pending.append((item, pool.submit(read, item)))
                if len(pending) > 2 * workers:
                    yield pending.popleft()
            while pending:
                yield pending.popleft()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
