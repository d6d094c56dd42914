"""Any images with masks: two patterns find the files, and params.yaml names the classes.

A pattern is a path below the root. In it, ``*`` matches part of a name and ``**`` matches any folders. Without a suffix
it matches all images. An image and a mask are a pair if the wildcards match the same text in both:
``drive/*/left/*.jpg`` and ``drive/*/label/*_id.png`` pair ``drive/a/left/7.jpg`` with ``drive/a/label/7_id.png``. The
name of this sample is ``a/7``; in the prepared data set ``/`` becomes ``__``.

Splits come from list files; or from folders that are named ``train``, ``val`` and ``test`` (or that ``splits`` names);
or they are drawn by hashes of *sequences*: all frames of a drive go into the same split, and new frames or sequences
never move existing samples. If there is no folder for val, val is drawn from train in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.datasets._division import Division
from pipeline.datasets._images import read_mask
from pipeline.datasets._licence import UNSTATED, Stated
from pipeline.datasets._mask_values import coding_of, hint, labels_of, with_original
from pipeline.datasets._pairs import Pair, PairDataset, existing, root_folder, unpaired
from pipeline.datasets._patterns import Pattern, compiled, find, nfc, other_names, other_suffix, some
from pipeline.datasets._references import Listed
from pipeline.datasets._splits import SPLITS, contradiction, split_words, unlabelled_test
from pipeline.errors import Problems, UserError

CORRECT = "Correct these values under datasets.folder in params.yaml."
HINT_MASKS = 32  # number of masks that are read again for a hint


class Folder(PairDataset):
    """Images and masks of your own.

    Args:
        root: root folder; patterns and lists are relative to it.
        images, masks: patterns; see the top of this file.
        classes: class names in train-id order, at most 255.
        palette: a colour per class, ``[128, 0, 255]`` or ``"#8000ff"``: used in colour masks and in overlays.
        masks_hold: ``ids`` (one channel, or palette entries) or ``colours`` (RGB, grey, or palette colours).
        ids: class -> ids in the masks; a class may have several ids. Null: the id of a class is its position in
            ``classes``. If only the first class is missing, its id is 0.
        ignore: ids, or colours, of pixels that are ignored. Null: id 255, unless it is in ``ids``.
        rest: ``error``: refuse any other id or colour; ``ignore``: such pixels are ignored.
        lists: split -> list file with one sample per line (see ``_references.py``); null: splits by folders or hashes.
        splits: split -> folders of its images; null: folders that are named ``train``, ``val``, ``test`` or similar.
        shares: shares of the sequences for val and test, if no list or folder defines these splits.
        sequence: regular expression that finds the sequence in the name of a sample (its first group, if it has one);
            null: the folder, which is everything before the last ``/``. With ``.+`` each frame is a separate sequence.
        seed: another seed draws other sequences.
        stated: the option ``licence``, see ``_licence.py``.

    Raises:
        UserError: ``root`` is not set, or options contradict each other; the message lists all errors.
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
        rest: Literal["error", "ignore"] = "error",
        lists: dict[str, str] | None = None,
        splits: dict[str, list[str]] | None = None,
        shares: dict[str, float] | None = None,
        sequence: str | None = None,
        seed: int = 0,
        stated: Stated = UNSTATED,
    ) -> None:
        super().__init__()
        self.licence = stated.read()
        self.root = root_folder("folder", root, holds="images and masks")
        problems = Problems("datasets.folder")
        patterns = [compiled(pattern, problems, key=key) for key, pattern in (("images", images), ("masks", masks))]
        if images == masks:
            problems.add(f"masks: {masks!r} is also the pattern of the images; the two patterns must differ")
        if kinds := contradiction(images, masks):
            problems.add(
                f"images and masks: {images!r} is for {kinds[0]}, {masks!r} for {kinds[1]}; both must be for the same "
                "split"
            )
        division = Division("folder", splits=splits, shares=shares, sequence=sequence, seed=seed)
        division.check(problems, lists=lists)
        labels = labels_of([nfc(name) for name in classes], palette, problems)
        if labels is not None:
            ids = None if ids is None else {nfc(name): raws for name, raws in ids.items()}
            self.coding = coding_of(labels, masks_hold=masks_hold, ids=ids, ignore=ignore, rest=rest, problems=problems)
        problems.raise_if_any(advice=CORRECT)
        assert labels is not None
        self.labels = with_original(labels, self.coding)
        self._ignore = ignore
        self._notes: list[str] = []
        pictures, labelled = self._files(patterns)
        if lists is not None:
            self._by_lists(lists, pictures, labelled)
        else:
            if unlabelled := set() if splits else unlabelled_test(list(pictures), labelled):
                self._notes.append(f"test: its {len(unlabelled)} images have no masks; the split is left out")
                pictures = {name: path for name, path in pictures.items() if name not in unlabelled}
            if error := other_names(patterns, pictures, labelled):
                self.wrong.append(error)
            self.wrong += unpaired(pictures, labelled)
            if warning := None if splits else split_words(list(pictures)):
                self._notes.append(warning)
            pairs = {name: Pair(image, labelled[name]) for name, image in pictures.items() if name in labelled}
            images_of = {name: pair.image for name, pair in pairs.items()}
            for split, members in division.of(images_of, self.root, self.wrong).items():
                self.pairs[split] = {}
                for name in members:
                    self._add(split, name, pairs[name])

    def _files(self, patterns: Sequence[Pattern]) -> tuple[dict[str, Path], dict[str, Path]]:
        """Images and masks by sample name. Appends errors about files that the patterns miss to ``wrong``."""
        matches = [find(self.root, pattern, self.wrong) for pattern in patterns]
        images, masks = matches[0].files, matches[1].files
        if not images and not matches[0].unread:
            self.wrong.append(_no_image(self.root, patterns[0], list(matches[0].other_suffixes.values())))
        if both := set(images.values()) & set(masks.values()):  # *.png and *_mask.png
            if both == set(masks.values()):
                images = {name: path for name, path in images.items() if path not in both}
            elif both == set(images.values()):
                masks = {name: path for name, path in masks.items() if path not in both}
        for index, (files, partners) in enumerate(((images, masks), (masks, images)) if images else ()):
            others = matches[index].other_suffixes
            free = {name: path for name, path in others.items() if path not in set(partners.values())}
            if missed := [path for name, path in free.items() if name in partners and name not in files]:
                self.wrong.append(other_suffix(patterns[index], missed, lossless=index == 1))
        return images, masks

    def warnings(self) -> Sequence[str]:
        return [*self._notes, *super().warnings()]

    def absence(self, absent: Sequence[str]) -> str | None:
        ids: set[int] = set()
        for pair in islice(chain.from_iterable(pairs.values() for pairs in self.pairs.values()), HINT_MASKS):
            try:
                values = read_mask(pair.mask).values
            except UserError:
                continue
            ids.update(np.unique(values).tolist())  # three channels are equal here: colour masks were refused
        return hint(self.labels, self.coding, absent=absent, values=ids, ignore=self._ignore)

    def _by_lists(self, lists: dict[str, str], images: dict[str, Path], masks: dict[str, Path]) -> None:
        listed = Listed(self.root, images, masks)
        for split in sorted(lists, key=SPLITS.index):
            self.pairs[split] = {}
            only = split if [*lists.values()].count(lists[split]) > 1 else None  # one list file for several splits
            for _, image, mask in listed.read(existing(self.root / lists[split]), self.wrong, only=only):
                self._add(split, image, Pair(images[image], masks[mask]))

    def _add(self, split: str, name: str, pair: Pair) -> None:
        flat = name.replace("/", "__")
        if flat in self.pairs[split]:
            self.wrong.append(f"{pair.image}: {split} already has a sample {flat}; rename one, or list it once")
        self.pairs[split][flat] = pair


def _no_image(root: Path, pattern: Pattern, other_suffixes: list[Path]) -> str:
    if other_suffixes:
        return other_suffix(pattern, other_suffixes)
    images = list(find(root, compiled("**/*", Problems(""), key=""), []).files.values())
    existing_images = f"; images there: {some(images)}" if images else ""
    return f"{root}: no image matches {pattern.text!r}{existing_images}; correct datasets.folder.images"
