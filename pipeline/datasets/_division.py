"""Samples -> splits, by the options that data sets of your own share: lists, splits, shares, sequence, seed."""

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
from pipeline.errors import Faults

log = logging.getLogger(__name__)


class Division:
    """The options of a plugin.

    Args:
        plugin: whose options the messages name.
        splits: split -> folders of its images; None: those that are named after splits.
        shares: share of the sequences that go to val and test; None: 0.2 to val.
        sequence: regular expression that finds the sequence in the name of a sample; None: the folder.
        seed: another one draws other sequences.
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

    def check(self, faults: Faults, *, lists: dict[str, str] | None) -> None:
        """Add what is wrong with the options themselves."""
        splits, shares = self.splits, self.shares
        if lists is not None and not {"train", "val"} <= set(lists) <= set(SPLITS):
            faults.add(f"lists: names {sorted(lists)}; allowed: train and val, and test if you have it")
        if splits is not None and not {"train"} <= set(splits) <= set(SPLITS):
            faults.add(f"splits: names {sorted(splits)}; allowed: train, and val and test where they have folders")
        if splits is not None and lists is not None:
            faults.add("splits and lists: both say which split a sample is in; set one of them to null")
        if not set(shares) <= set(HELD_OUT) or not all(0 <= share < 1 for share in shares.values()):
            faults.add(f"shares: got {shares}; allowed: val and test, each at least 0 and below 1")
        elif sum(shares.values()) >= 1 or not shares.get("val"):
            faults.add(f"shares: got {shares}; val needs more than 0, and something must be left for train")
        try:
            self._regex()
        except re.error as error:
            faults.add(f"sequence: {self.sequence!r} is no regular expression ({error})")

    def _regex(self) -> re.Pattern[str] | None:
        return None if self.sequence is None else re.compile(nfc(self.sequence))

    def of(self, images: Mapping[str, Path], root: Path, wrong: list[str]) -> dict[str, list[str]]:
        """Names of the samples of each split: as folders say it, and what no folder gives from hashes of sequences.

        Args:
            images: file of each sample, by its name.
            root: folder that the folders count from.
            wrong: gets a line for what is unclear; such samples are left out.
        """
        known = self._by_folders(images, root, wrong)
        given = set((known or {}).values()) - {"train"}
        shares = {split: share for split, share in self.shares.items() if share and split not in given}
        split_of = dict(known or {})
        sequences: dict[str, str] = {}
        regex = self._regex()
        for name in images if known is None else [name for name, split in known.items() if split == "train"]:
            drive = sequence_of(name, regex)
            if drive is None:
                wrong.append(f"{images[name]}: datasets.{self.plugin}.sequence matches nothing in {name!r}; correct it")
                split_of.pop(name, None)
            else:
                sequences[name] = drive
                split_of[name] = drawn(drive, shares=shares, seed=self.seed)
        if empty := empty_splits(sequences, shares=shares, seed=self.seed, regex=regex):
            wrong.append(empty)
        found = {
            split: [name for name in images if split_of.get(name) == split]
            for split in SPLITS
            if split == "train" or split in given or split in shares
        }
        if known:
            counts = Counter(split_of.values())
            drawn_from = dict.fromkeys(shares, " (drawn from train)")
            log.info("splits by folders: %s", ", ".join(f"{counts[s]} {s}{drawn_from.get(s, '')}" for s in found))
        return found

    def _by_folders(self, images: Mapping[str, Path], root: Path, wrong: list[str]) -> dict[str, str] | None:
        """The split of each sample as folders say it; None: they say nothing. What is unclear is left out."""
        if self.splits is None:
            return by_folders(list(images), drives=self.sequence is not None, wrong=wrong, plugin=self.plugin)
        places = {name: nfc(path.relative_to(root).as_posix()) for name, path in images.items()}
        return by_option(places, self.splits, wrong)


def by_lists(
    lists: Mapping[str, str], images: Mapping[str, Path], root: Path, wrong: list[str]
) -> dict[str, list[str]]:
    """Names of the samples of each split, as lists name their images.

    Args:
        lists: split -> file below the root.
        images: file of each sample, by its name.
        wrong: gets a line for each line that names no sample, or several, or one again.
    """
    listed = Listed(root, images, images)
    return {
        split: [name for _, name, _ in listed.read(existing(root / lists[split]), wrong)]
        for split in sorted(lists, key=SPLITS.index)
    }
