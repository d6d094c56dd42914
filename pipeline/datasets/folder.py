"""Any images with masks beside them: two patterns find the files, params.yaml names the classes.

A pattern is a path below the root in which ``*`` stands for part of a name and ``**`` for any folders; without a suffix
it takes every image. Image and mask belong together when the wildcards stand for the same in both:
``drive/*/left/*.jpg`` and ``drive/*/label/*_id.png`` pair ``drive/a/left/7.jpg`` with ``drive/a/label/7_id.png``, the
sample ``a/7``. Its name in the prepared data set has ``__`` where there is ``/``.

Splits come from lists, or from hashes of *sequences*: all frames of a drive go into one split, and adding frames or
sequences moves none that is there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pipeline.datasets._lists import entries
from pipeline.datasets._masks import Coding
from pipeline.datasets._pairs import Pair, PairDataset, root_folder, unpaired
from pipeline.datasets._patterns import compiled, find
from pipeline.datasets._splits import SPLITS, check_splits, compiled_sequence, drawn, sequence_of
from pipeline.errors import Faults, UserError
from pipeline.labels import IGNORE_INDEX, LabelSpec

HIGHEST_ID = (1 << 16) - 1
LARGEST_BYTE = 255
CORRECT = "Correct these values under datasets.folder in params.yaml."
OR_ELSE = "add it to ignore, or set rest: ignore, where it counts nowhere"


class Folder(PairDataset):
    """Images and masks of your own.

    Args:
        root: folder that the patterns and lists count from.
        images, masks: patterns; see the top of this file.
        classes: names in train-id order.
        palette: one RGB colour a class; what colour masks hold, and what overlays show.
        masks_hold: ``ids`` (one channel, or entries of a palette) or ``colours`` (RGB, or an indexed image's palette).
        ids: class -> ids in the masks; a class may have several. Null: the position in ``classes``.
        ignore: ids, or RGB colours, of pixels that count nowhere.
        rest: whether any other id or colour is a fault, or ignored too.
        lists: split -> file below the root with one sample a line; null: by hashes.
        shares: share of the sequences that go to val and test; the others are train. Used without lists.
        sequence: regular expression that finds the sequence in the name of a sample (its first group, if it has one);
            null: the folder, that is all before the last ``/``. ``.+`` makes every frame its own.
        seed: another one draws other sequences.

    Raises:
        UserError: no root, or options that contradict each other (all of them at once).
    """

    title = "the folder"

    def __init__(
        self,
        *,
        root: str | None = None,
        images: str = "images/**/*",
        masks: str = "masks/**/*.png",
        classes: list[str],
        palette: list[tuple[int, int, int]],
        masks_hold: Literal["ids", "colours"] = "ids",
        ids: dict[str, list[int]] | None = None,
        ignore: list[int | tuple[int, int, int]] | None = None,
        rest: Literal["fault", "ignore"] = "fault",
        lists: dict[str, str] | None = None,
        shares: dict[str, float] | None = None,
        sequence: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.root = root_folder("folder", root, holds="images and masks")
        faults = Faults("datasets.folder")
        patterns = [compiled(pattern, faults, key=key) for key, pattern in (("images", images), ("masks", masks))]
        if images == masks:
            faults.add(f"masks: {masks!r} is the pattern of the images too; they must differ")
        shares = {"val": 0.2} if shares is None else shares
        check_splits(lists, shares, faults)
        regex = compiled_sequence(sequence, faults)
        if not classes:
            faults.add("classes: empty; name them in train-id order")
        if len(set(map(tuple, palette))) < len(palette):
            faults.add("palette: two classes have the same colour; each needs its own")
        if ids is not None and set(ids) != set(classes):
            faults.add(f"ids: names {sorted(ids)}; it must give a list of ids for each of {sorted(classes)}")
        faults.raise_if_any(advice=CORRECT)
        try:
            self.labels = LabelSpec(names=tuple(classes), palette=tuple((r, g, b) for r, g, b in palette))
        except UserError as error:
            raise UserError(f"datasets.folder: {error}") from error
        self.coding = _coding(self.labels, masks_hold, ids, ignore, rest)
        self.labels = _with_original(self.labels, self.coding)
        pictures, labels = (find(self.root, pattern, self.wrong) for pattern in patterns)
        if not pictures:
            self.wrong.append(f"{self.root}: no image matches {images!r}; correct datasets.folder.images")
        if lists is not None:
            self._by_lists(lists, pictures, labels)
        else:
            self.wrong += unpaired(pictures, labels)
            self._by_hash(pictures, labels, lambda name: sequence_of(name, regex), shares, seed)

    def _by_lists(self, lists: dict[str, str], images: dict[str, Path], masks: dict[str, Path]) -> None:
        by_line = {name: name for name in images}
        by_line |= {path.relative_to(self.root).as_posix(): name for name, path in images.items()}
        for split in sorted(lists, key=SPLITS.index):
            self.pairs[split] = {}
            for number, line in entries(self.root / lists[split], self.wrong):
                name = by_line.get(line, line)
                absent = [kind for kind, files in (("image", images), ("mask", masks)) if name not in files]
                if absent:
                    self.wrong.append(f"{lists[split]}:{number}: {line}: no {' and no '.join(absent)} of this name")
                else:
                    self._add(split, name, Pair(images[name], masks[name]))

    def _add(self, split: str, name: str, pair: Pair) -> None:
        flat = name.replace("/", "__")
        if flat in self.pairs[split]:
            self.wrong.append(f"{pair.image}: {split} has another sample {flat}; rename one, or list it once")
        self.pairs[split][flat] = pair

    def _by_hash(
        self,
        images: dict[str, Path],
        masks: dict[str, Path],
        sequence: Callable[[str], str | None],
        shares: dict[str, float],
        seed: int,
    ) -> None:
        self.pairs = {split: {} for split in SPLITS if split == "train" or shares.get(split)}
        sequences: dict[str, str] = {}
        for name, image in images.items():
            if name not in masks:
                continue
            drive = sequence(name)
            if drive is None:
                self.wrong.append(f"{image}: datasets.folder.sequence finds nothing in {name!r}; widen it")
                continue
            split = sequences.setdefault(drive, drawn(drive, shares=shares, seed=seed))
            self._add(split, name, Pair(image, masks[name]))
        for split in self.pairs:
            if sequences and split not in sequences.values():
                few = f"none of {len(sequences)} sequences"
                self.wrong.append(f"split {split}: {few} fell into it; set sequence, another seed, shares, or lists")


def _coding(
    labels: LabelSpec,
    masks_hold: str,
    ids: dict[str, list[int]] | None,
    ignore: list[int | tuple[int, int, int]] | None,
    rest: str,
) -> Coding:
    """What the masks hold, as the options say it."""
    faults = Faults("datasets.folder")
    other = IGNORE_INDEX if rest == "ignore" else None
    if masks_hold == "ids":
        meaning = _meaning(labels, ids, faults)
        for value in [IGNORE_INDEX] if ignore is None else ignore:
            if not isinstance(value, int) or value in meaning or not 0 <= value <= HIGHEST_ID:
                faults.add(f"ignore: got {value}; allowed: ids in 0..{HIGHEST_ID} that are of no class")
            else:
                meaning[value] = IGNORE_INDEX
        coding = Coding(ids=meaning, rest=other, allowed=f"allowed: {_listed(sorted(meaning))}; {OR_ELSE}")
    else:
        colours = {colour: train for train, colour in enumerate(labels.palette)}
        for value in ignore or []:
            if isinstance(value, int) or (colour := (value[0], value[1], value[2])) in colours:
                faults.add(f"ignore: got {value}; allowed: RGB colours that are of no class")
            else:
                colours[colour] = IGNORE_INDEX
        coding = Coding(colours=colours, rest=other, allowed=f"allowed: those of palette and ignore; {OR_ELSE}")
    faults.raise_if_any(advice=CORRECT)
    return coding


def _meaning(labels: LabelSpec, ids: dict[str, list[int]] | None, faults: Faults) -> dict[int, int]:
    """Train id of each id in the masks."""
    meaning: dict[int, int] = {}
    for train, name in enumerate(labels.names):
        for raw in [train] if ids is None else ids[name]:
            if raw in meaning or not 0 <= raw <= HIGHEST_ID:
                faults.add(f"ids.{name}: got {raw}; allowed: ids in 0..{HIGHEST_ID} that no other class has")
            else:
                meaning[raw] = train
    return meaning


def _with_original(labels: LabelSpec, coding: Coding) -> LabelSpec:
    """The labels with the first id of each class in the masks, where 8 bits hold one for every class."""
    if coding.ids is None:
        return labels
    first: dict[int, int] = {}
    for raw, train in coding.ids.items():
        if raw <= LARGEST_BYTE:
            first.setdefault(train, raw)
    free = (value for value in (IGNORE_INDEX, *range(LARGEST_BYTE)) if value not in coding.ids)
    ignored = first.get(IGNORE_INDEX, next(free, None))
    if ignored is None or not set(range(labels.num_classes)) <= set(first):
        return labels
    ids = tuple(first[train] for train in range(labels.num_classes))
    return replace(labels, original_ids=ids, original_ignored=ignored)


def _listed(ids: list[int]) -> str:
    """Ids with runs shortened: ``0..18, 255``."""
    runs: list[list[int]] = []
    for index in ids:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ", ".join(str(low) if low == high else f"{low}..{high}" for low, high in runs)
