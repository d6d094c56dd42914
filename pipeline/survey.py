"""One pass over all samples of a data set: every fault, sizes, and exact counts of each class.

`prepare` also writes the samples, `segpress inspect` does not.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.copies import Thumbnail, copies, thumbnail
from pipeline.datasets import Dataset
from pipeline.datasets._lists import safe
from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.labels import LabelSpec

Counts = npt.NDArray[np.int64]
#: Splits that must show classes; others may be without labels.
LEARNT = ("train", "val")
#: What it means that a split lacks a class.
CONSEQUENCES = {"train": "nothing to learn from", "val": "no IoU"}
SHOWN_COPIES = 10  # images like one of another split that are named


def cores() -> int:
    """Processors that this process may use, at most 8: more only wait for the disk."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, usable)


@dataclass
class SplitCounts:
    """What one split holds.

    Args:
        pixels: (K,) pixels of each class.
        images: (K,) images that show it.
        ignored: pixels of no class.
        sizes: (height, width) -> number of images.
    """

    pixels: Counts
    images: Counts
    ignored: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)

    @classmethod
    def none(cls, classes: int) -> SplitCounts:
        """Of no image yet."""
        return cls(np.zeros(classes, np.int64), np.zeros(classes, np.int64))

    def add(self, histogram: Counts, size: tuple[int, ...]) -> None:
        """Count one image: pixels (256,) of each id, and its (height, width)."""
        labelled = histogram[: len(self.pixels)]
        self.pixels += labelled
        self.images += labelled > 0
        self.ignored += int(histogram.sum() - labelled.sum())
        self.sizes[size[0], size[1]] += 1

    def shares(self) -> npt.NDArray[np.float64]:
        """(K,) share of the pixels that have a class."""
        return self.pixels / max(1, int(self.pixels.sum()))


@dataclass
class Survey:
    """What a data set holds, by split, all that is wrong with it, and what looks wrong."""

    labels: LabelSpec
    names: dict[str, list[str]]
    counts: dict[str, SplitCounts]
    faults: list[str]
    warnings: list[str] = field(default_factory=list)

    def absences(self) -> list[str]:
        """:func:`absences` of what was counted."""
        return absences(self.labels, {split: counts.pixels.tolist() for split, counts in self.counts.items()})


@dataclass(frozen=True)
class _Sample:
    """What is kept of a sample: not its pixels."""

    digest: bytes
    label_digest: bytes
    thumbnail: Thumbnail
    size: tuple[int, int]
    histogram: Counts


def survey(
    dataset: Dataset,
    *,
    progress: Callable[[str, int], object],
    keep: Callable[[str, str, Array, Array], object] = lambda *sample: None,
    workers: int = 1,
) -> Survey:
    """Read and check every sample.

    Args:
        progress: called with (split, number of samples that are read of it) for each of them, in order.
        keep: called with (split, name, frame, label) of each sound sample, in any order and from several threads.
        workers: threads; decoding and encoding run beside each other. The result does not depend on it.

    Returns:
        counts of the sound samples, and the faults of all others: unreadable, sizes differ, id out of range, name that
        is no file name or not unique, image in two splits; one class only; train or val that is empty or shows fewer
        than two classes. Warnings of what the data set leaves open, of an image twice with different masks, and of
        copies in another split.
    """
    names = {split: list(listed) for split, listed in dataset.splits().items()}
    faults = [*dataset.faults(), *_name_faults(names)]
    counts = {split: SplitCounts.none(dataset.labels.num_classes) for split in names}
    seen: dict[bytes, tuple[str, bytes]] = {}
    warnings = list(dataset.warnings())
    thumbnails: dict[str, list[tuple[str, Thumbnail]]] = {split: [] for split in names}

    def read(split: str, name: str) -> _Sample:
        frame, label = dataset.read(split, name)
        histogram = checked(dataset.labels, frame, label)
        keep(split, name, frame, label)
        return _Sample(_digest(frame), _digest(label), thumbnail(frame), label.shape, histogram)

    samples = [(split, name) for split, listed in names.items() for name in listed if safe(name)]
    totals = Counter(split for split, _ in samples)
    for (split, name), future in _in_order(read, samples, workers):
        progress(split, totals[split])
        try:
            sample = future.result()
        except UserError as error:
            faults.append(f"{split}/{name}: {error}")
            continue
        twin, twin_label = seen.setdefault(sample.digest, (f"{split}/{name}", sample.label_digest))
        differs = "" if twin_label == sample.label_digest else ", with another mask"
        if twin.partition("/")[0] != split:
            faults.append(f"{split}/{name}: the same image as {twin}{differs}; splits must be disjoint")
        elif differs:
            warnings.append(f"{split}/{name}: the same image as {twin}{differs}; keep the correct one")
        else:
            thumbnails[split].append((name, sample.thumbnail))
        counts[split].add(sample.histogram, sample.size)
    warnings += _copy_warnings(thumbnails)
    nowhere = [
        label for index, label in enumerate(dataset.labels.names) if not any(c.pixels[index] for c in counts.values())
    ]
    hint = dataset.absence(nowhere) if nowhere and any(split.ignored for split in counts.values()) else None
    faults += _shortages(dataset.labels, names, counts)
    if hint:
        (faults if faults else warnings).append(hint)
    return Survey(dataset.labels, names, counts, faults, warnings)


def _copy_warnings(thumbnails: Mapping[str, Sequence[tuple[str, Thumbnail]]]) -> Iterator[str]:
    found = list(copies(thumbnails))
    for copy, original in found[:SHOWN_COPIES]:
        yield f"{copy}: looks the same as {original}; if it is a copy, remove one: copies make mIoU too high"
    if len(found) > SHOWN_COPIES:
        more = len(found) - SHOWN_COPIES
        yield f"{more} more images look the same as one of another split; a camera that does not move causes this too"


def _digest(array: Array) -> bytes:
    return hashlib.sha256(repr(array.shape).encode() + np.ascontiguousarray(array).data).digest()


def _shortages(
    labels: LabelSpec, names: Mapping[str, Sequence[str]], counts: Mapping[str, SplitCounts]
) -> Iterator[str]:
    """Why nothing can be learnt; of a split, when all its samples are sound: the others may show more classes."""
    if labels.num_classes == 1:
        yield (
            f"classes: '{labels.names[0]}' alone; two or more are needed: what is not {labels.names[0]} must be a "
            "class too, such as background, and not ignored"
        )
        return
    for split in LEARNT:
        if names.get(split) and counts[split].sizes.total() == len(names[split]):
            shortage = labels.shortage(split, counts[split].pixels.tolist())
            if shortage:
                yield f"{shortage}; check which ids or colours mean which class, what is ignored, and how it was split"


def absences(labels: LabelSpec, class_pixels: Mapping[str, Sequence[int]]) -> list[str]:
    """A warning for each split that lacks classes, by name.

    Args:
        class_pixels: split -> (K,) pixels of each class.
    """
    found = []
    for split, pixels in class_pixels.items():
        absent = [name for name, count in zip(labels.names, pixels, strict=True) if not count]
        if len(absent) == labels.num_classes:
            found.append(f"{split}: no labelled pixel")
        elif absent:
            consequence = f" ({CONSEQUENCES[split]})" if split in CONSEQUENCES else ""
            number = "1 class is" if len(absent) == 1 else f"{len(absent)} classes are"
            found.append(f"{split}: {number} absent{consequence}: {', '.join(absent)}")
    return found


def checked(labels: LabelSpec, frame: Array, label: Array) -> Counts:
    """(256,) number of pixels of each id. Raises UserError when sizes differ or an id is out of range."""
    if frame.shape[:2] != label.shape:
        raise UserError(f"image is {frame.shape[:2]}, its label {label.shape} (height, width); they must be equal")
    histogram = np.bincount(label.ravel(), minlength=256)
    wrong = [int(i) for i in histogram.nonzero()[0] if i >= labels.num_classes and i != labels.ignore_index]
    if wrong:
        highest, ignored = labels.num_classes - 1, labels.ignore_index
        raise UserError(f"label ids {wrong}; allowed: 0..{highest} and {ignored} (ignored)")
    return histogram


def _name_faults(names: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for split in LEARNT:
        if not names.get(split):
            yield f"split {split}: empty; it needs at least one sample"
    first: dict[str, str] = {}
    for split, listed in names.items():
        for name, count in Counter(listed).items():
            other = first.setdefault(name, split)
            if other != split:
                yield f"{split}/{name}: the same name as {other}/{name}; splits must be disjoint"
            if count > 1:
                yield f"{split}/{name}: listed {count} times; names must be unique"
            if not safe(name):
                yield f"{split}/{name!r}: no name for a file; it must be printable, relative and not too long"


def _in_order(
    read: Callable[[str, str], _Sample], samples: Sequence[tuple[str, str]], workers: int
) -> Iterator[tuple[tuple[str, str], Future[_Sample]]]:
    """A future for each sample, in order; few are under way, so that memory stays small."""
    waiting: deque[tuple[tuple[str, str], Future[_Sample]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for sample in samples:
                waiting.append((sample, pool.submit(read, *sample)))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
