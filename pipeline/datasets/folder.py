"""Any images with masks beside them: two patterns find the files, params.yaml names the classes.

A pattern is a path below the root in which ``*`` stands for part of a name and ``**`` for any folders; without a suffix
it takes every image. Image and mask belong together when the wildcards stand for the same in both:
``drive/*/left/*.jpg`` and ``drive/*/label/*_id.png`` pair ``drive/a/left/7.jpg`` with ``drive/a/label/7_id.png``, the
sample ``a/7``. Its name in the prepared data set has ``__`` where there is ``/``.

Splits come from lists; or from folders that are named ``train``, ``val`` and ``test`` (or as ``splits`` says); or from
hashes of *sequences*: all frames of a drive go into one split, and adding frames or sequences moves no existing sample.
Where there is no folder of val, it is drawn from train in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.datasets._division import Division
from pipeline.datasets._images import read_mask
from pipeline.datasets._mask_values import coding_of, hint, labels_of, with_original
from pipeline.datasets._pairs import Pair, PairDataset, existing, root_folder, unpaired
from pipeline.datasets._patterns import Pattern, compiled, find, nfc, other_names, other_suffix, some
from pipeline.datasets._references import Listed
from pipeline.datasets._splits import SPLITS, contradiction, split_words, unlabelled_test
from pipeline.errors import Faults, UserError

CORRECT = "Correct these values under datasets.folder in params.yaml."
LOOKED_AT = 32  # masks that are read again for a hint


class Folder(PairDataset):
    """Images and masks of your own.

    Args:
        root: folder that the patterns and lists count from.
        images, masks: patterns; see the top of this file.
        classes: names in train-id order, at most 255.
        palette: a colour a class, ``[128, 0, 255]`` or ``"#8000ff"``; what colour masks hold, and what overlays show.
        masks_hold: ``ids`` (one channel, or entries of a palette) or ``colours`` (RGB, grey, or those of a palette).
        ids: class -> ids in the masks; a class may have several. Null: the position in ``classes``, which the first
            class also has when it is not named: 0.
        ignore: ids, or colours, of pixels that count nowhere. Null: id 255, unless it is in ``ids``.
        rest: whether any other id or colour is a fault, or ignored too.
        lists: split -> file with one sample a line, as ``_references.py`` reads it; null: by folders or hashes.
        splits: split -> folders of its images; null: those that are named ``train``, ``val``, ``test`` or alike.
        shares: share of the sequences that go to val and test, where no list or folder gives them.
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
        palette: list[str | tuple[int, int, int]],
        masks_hold: Literal["ids", "colours"] = "ids",
        ids: dict[str, list[int]] | None = None,
        ignore: list[int | str | tuple[int, int, int]] | None = None,
        rest: Literal["fault", "ignore"] = "fault",
        lists: dict[str, str] | None = None,
        splits: dict[str, list[str]] | None = None,
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
        if two := contradiction(images, masks):
            faults.add(f"images and masks: {images!r} is of {two[0]}, {masks!r} of {two[1]}; both must be of one split")
        division = Division("folder", splits=splits, shares=shares, sequence=sequence, seed=seed)
        division.check(faults, lists=lists)
        labels = labels_of([nfc(name) for name in classes], palette, faults)
        if labels is not None:
            ids = None if ids is None else {nfc(name): raws for name, raws in ids.items()}
            self.coding = coding_of(labels, masks_hold=masks_hold, ids=ids, ignore=ignore, rest=rest, faults=faults)
        faults.raise_if_any(advice=CORRECT)
        assert labels is not None
        self.labels = with_original(labels, self.coding)
        self._ignore = ignore
        self._notes: list[str] = []
        pictures, labelled = self._files(patterns)
        if lists is not None:
            self._by_lists(lists, pictures, labelled)
        else:
            if without := set() if splits else unlabelled_test(list(pictures), labelled):
                self._notes.append(f"test: its {len(without)} images have no masks; it is left out")
                pictures = {name: path for name, path in pictures.items() if name not in without}
            if renamed := other_names(patterns, pictures, labelled):
                self.wrong.append(renamed)
            self.wrong += unpaired(pictures, labelled)
            if words := None if splits else split_words(list(pictures)):
                self._notes.append(words)
            pairs = {name: Pair(image, labelled[name]) for name, image in pictures.items() if name in labelled}
            images_of = {name: pair.image for name, pair in pairs.items()}
            for split, members in division.of(images_of, self.root, self.wrong).items():
                self.pairs[split] = {}
                for name in members:
                    self._add(split, name, pairs[name])

    def _files(self, patterns: Sequence[Pattern]) -> tuple[dict[str, Path], dict[str, Path]]:
        """Images and masks by the names of their samples; what the patterns miss is added to ``wrong``."""
        found = [find(self.root, pattern, self.wrong) for pattern in patterns]
        images, masks = found[0].files, found[1].files
        if not images and not found[0].unread:
            self.wrong.append(_no_image(self.root, patterns[0], list(found[0].passed.values())))
        if both := set(images.values()) & set(masks.values()):  # *.png and *_mask.png
            if both == set(masks.values()):
                images = {name: path for name, path in images.items() if path not in both}
            elif both == set(images.values()):
                masks = {name: path for name, path in masks.items() if path not in both}
        for index, (ours, theirs) in enumerate(((images, masks), (masks, images)) if images else ()):
            taken = set(theirs.values())
            passed = {name: path for name, path in found[index].passed.items() if path not in taken}
            if elsewhere := [path for name, path in passed.items() if name in theirs and name not in ours]:
                self.wrong.append(other_suffix(patterns[index], elsewhere, lossless=index == 1))
        return images, masks

    def warnings(self) -> Sequence[str]:
        return [*self._notes, *super().warnings()]

    def absence(self, absent: Sequence[str]) -> str | None:
        seen: set[int] = set()
        for pair in islice(chain.from_iterable(pairs.values() for pairs in self.pairs.values()), LOOKED_AT):
            try:
                values = read_mask(pair.mask).values
            except UserError:
                continue
            seen.update(np.unique(values).tolist())  # of grey in three channels too; colours were refused
        return hint(self.labels, self.coding, absent=absent, values=seen, ignore=self._ignore)

    def _by_lists(self, lists: dict[str, str], images: dict[str, Path], masks: dict[str, Path]) -> None:
        listed = Listed(self.root, images, masks)
        for split in sorted(lists, key=SPLITS.index):
            self.pairs[split] = {}
            only = split if [*lists.values()].count(lists[split]) > 1 else None  # one table for several splits
            for _, image, mask in listed.read(existing(self.root / lists[split]), self.wrong, only=only):
                self._add(split, image, Pair(images[image], masks[mask]))

    def _add(self, split: str, name: str, pair: Pair) -> None:
        flat = name.replace("/", "__")
        if flat in self.pairs[split]:
            self.wrong.append(f"{pair.image}: {split} has another sample {flat}; rename one, or list it once")
        self.pairs[split][flat] = pair


def _no_image(root: Path, pattern: Pattern, passed: list[Path]) -> str:
    if passed:
        return other_suffix(pattern, passed)
    there = list(find(root, compiled("**/*", Faults(""), key=""), []).files.values())
    seen = f"; images there: {some(there)}" if there else ""
    return f"{root}: no image matches {pattern.text!r}{seen}; correct datasets.folder.images"
