"""From samples to splits, by the options that data sets of your own share: lists, splits, shares, sequence, seed."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from pipeline.datasets._pairs import existing
from pipeline.datasets._patterns import nfc
from pipeline.datasets._references import Listed
from pipeline.datasets._splits import HELD_OUT, SPLITS, by_folders, by_option, drawn, empty_splits, sequence_of
from pipeline.errors import Problems

log = logging.getLogger(__name__)


class Division:
    """The options that divide samples into splits.

    Args:
        plugin: name of the plugin, for messages about its options.
        splits: split -> folders of its images; None: folders whose names are split names.
        shares: shares of the sequences for val and test; None: 0.2 for val.
        sequence: regular expression that finds the sequence in the name of a sample; None: the folder is the sequence.
        seed: another seed draws other sequences.
    """

    def __init__(
        self,
        plugin: str,
        *,
        splits: dict[str, list[str]] | None,
        shares: dict[str, float] | None,
        sequence: str | None,
        seed: int,
    ) -> None:
        self.plugin = plugin
        self.splits = splits
        self.shares = {"val": 0.2} if shares is None else shares
        self.sequence = sequence
        self.seed = seed

    def check(self, problems: Problems, *, lists: dict[str, str] | None) -> None:
        """Add an error for each invalid option."""
        splits, shares = self.splits, self.shares
        if lists is not None and not {"train", "val"} <= set(lists) <= set(SPLITS):
            problems.add(f"lists: got {sorted(lists)}; allowed: train and val, and test if you have it")
        if splits is not None and not {"train"} <= set(splits) <= set(SPLITS):
            problems.add(f"splits: got {sorted(splits)}; allowed: train, and val and test if they have folders")
        if splits is not None and lists is not None:
            problems.add("splits and lists: both assign samples to splits; set one of them to null")
        if not set(shares) <= set(HELD_OUT) or not all(0 <= share < 1 for share in shares.values()):
            problems.add(f"shares: got {shares}; allowed: val and test, each at least 0 and below 1")
        elif sum(shares.values()) >= 1 or not shares.get("val"):
            problems.add(
                f"shares: got {shares}; allowed: more than 0 for val, and less than 1 in total, so that train "
                "keeps some"
            )
        try:
            self._regex()
        except re.error as error:
            problems.add(f"sequence: {self.sequence!r} is not a regular expression ({error})")

    def _regex(self) -> re.Pattern[str] | None:
        return None if self.sequence is None else re.compile(nfc(self.sequence))

    def of(self, images: Mapping[str, Path], root: Path, wrong: list[str]) -> dict[str, list[str]]:
        """Sample names of each split: from folders; splits without folders are drawn by hashes of the sequences.

        Args:
            images: sample name -> image file.
            root: the root of the data set; the folders of ``splits`` are below it.
            wrong: gets an error for each unclear sample; such samples are left out.
        """
        by_folder = self._by_folders(images, root, wrong)
        with_folders = set((by_folder or {}).values()) - {"train"}
        shares = {split: share for split, share in self.shares.items() if share and split not in with_folders}
        split_of = dict(by_folder or {})
        sequences: dict[str, str] = {}
        regex = self._regex()
        for name in images if by_folder is None else [name for name, split in by_folder.items() if split == "train"]:
            drive = sequence_of(name, regex)
            if drive is None:
                option = f"datasets.{self.plugin}.sequence"
                wrong.append(f"{images[name]}: {option} does not match {name!r}; correct the expression")
                split_of.pop(name, None)
            else:
                sequences[name] = drive
                split_of[name] = drawn(drive, shares=shares, seed=self.seed)
        if empty := empty_splits(sequences, shares=shares, seed=self.seed, regex=regex):
            wrong.append(empty)
        members = {
            split: [name for name in images if split_of.get(name) == split]
            for split in SPLITS
            if split == "train" or split in with_folders or split in shares
        }
        if by_folder:
            counts = Counter(split_of.values())
            origin = dict.fromkeys(shares, " (drawn from train)")
            log.info("splits by folders: %s", ", ".join(f"{counts[s]} {s}{origin.get(s, '')}" for s in members))
        return members

    def _by_folders(self, images: Mapping[str, Path], root: Path, wrong: list[str]) -> dict[str, str] | None:
        """The split of each sample by its folder, without unclear samples; None: no folder is named after a split."""
        if self.splits is None:
            return by_folders(list(images), drives=self.sequence is not None, wrong=wrong, plugin=self.plugin)
        relative = {name: nfc(path.relative_to(root).as_posix()) for name, path in images.items()}
        return by_option(relative, self.splits, wrong)


def by_lists(
    lists: Mapping[str, str], images: Mapping[str, Path], root: Path, wrong: list[str]
) -> dict[str, list[str]]:
    """Sample names of each split, by list files that name the images.

    Args:
        lists: split -> list file below the root.
        images: sample name -> image file.
        wrong: gets an error for each line that names no sample, several samples, or a sample of an earlier line.
    """
    listed = Listed(root, images, images)
    return {
        split: [name for _, name, _ in listed.read(existing(root / lists[split]), wrong)]
        for split in sorted(lists, key=SPLITS.index)
    }
