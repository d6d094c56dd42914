"""Which split a sample belongs to: by lists, by folders named after splits, or by hashes of sequences."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.datasets._lists import entries
from pipeline.errors import Faults

SPLITS = ("train", "val", "test")
HELD_OUT = ("val", "test")
#: What tools call the splits, in lower case.
FOLDERS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip


def drawn(sequence: str, *, shares: dict[str, float], seed: int) -> str:
    """The split of a sequence: it depends on nothing but its name, the shares and the seed.

    Example:
        >>> [drawn(name, shares={"val": 0.5}, seed=0) for name in ("monday", "friday")]
        ['train', 'val']
    """
    digest = hashlib.sha256(f"{seed}:{sequence}".encode("utf-8", "surrogateescape")).digest()
    place, bound = int.from_bytes(digest[:8], "big") / 2**64, 0.0
    for split in HELD_OUT:
        bound += shares.get(split, 0.0)
        if place < bound:
            return split
    return "train"


def sequence_of(name: str, regex: re.Pattern[str] | None) -> str | None:
    """The sequence in the name of a sample: its folder, or what the expression finds; None: it finds nothing."""
    if regex is None:
        return name.rpartition("/")[0]
    match = regex.search(name)
    return None if match is None else match.group(1 if regex.groups else 0)


def compiled_sequence(sequence: str | None, faults: Faults) -> re.Pattern[str] | None:
    try:
        return None if sequence is None else re.compile(sequence)
    except re.error as error:
        faults.add(f"sequence: {sequence!r} is no regular expression ({error})")
        return None


def check_splits(lists: dict[str, str] | None, shares: dict[str, float], faults: Faults) -> None:
    """Add a fault for lists or shares of other splits, and for shares that leave nothing to train or val."""
    if lists is not None and not {"train", "val"} <= set(lists) <= set(SPLITS):
        faults.add(f"lists: names {sorted(lists)}; allowed: train and val, and test where you have it")
    if not set(shares) <= set(HELD_OUT) or not all(0 <= share < 1 for share in shares.values()):
        faults.add(f"shares: got {shares}; allowed: val and test, each at least 0 and below 1")
    elif sum(shares.values()) >= 1 or not shares.get("val"):
        faults.add(f"shares: got {shares}; val needs more than 0, and something must be left for train")


def divided(
    names: Mapping[str, Iterable[str]],
    wrong: list[str],
    *,
    plugin: str,
    root: Path,
    lists: dict[str, str] | None,
    shares: dict[str, float],
    sequence: re.Pattern[str] | None,
    seed: int,
) -> dict[str, list[str]]:
    """Names of the samples of each split.

    Lists decide where they are given. Else folders named train, val, valid, test ... in the names do, unless an
    expression for the sequence is given. Else sequences are drawn by the hashes of their names.

    Args:
        names: name -> what a line of a list may say instead of it, such as the file of the image.
        wrong: gets a line for each name that a list does not find, and for each split that stays empty.
        plugin: whose options the messages name.
        root: folder of the lists.
    """
    if lists is not None:
        return _by_lists(names, wrong, root=root, lists=lists)
    folders = {
        name: {FOLDERS[part.lower()] for part in name.split("/")[:-1] if part.lower() in FOLDERS} for name in names
    }
    if sequence is None and any(folders.values()):
        return _by_folders(folders, wrong, plugin=plugin)
    found: dict[str, list[str]] = {split: [] for split in SPLITS if split == "train" or shares.get(split)}
    drives: dict[str, str] = {}
    for name in names:
        drive = sequence_of(name, sequence)
        if drive is None:
            wrong.append(f"datasets.{plugin}.sequence finds nothing in {name!r}; widen it")
            continue
        found[drives.setdefault(drive, drawn(drive, shares=shares, seed=seed))].append(name)
    if list(drives) == [""]:
        wrong.append(
            f"all images lie in one folder, which counts as one sequence; set datasets.{plugin}.sequence to '.+' where "
            "every image is a scene of its own, or to an expression that finds the drive in its name, or set lists"
        )
    else:
        wrong += [
            f"split {split}: none of {len(drives)} sequences fell into it; set datasets.{plugin}.sequence, another "
            "seed, shares, or lists"
            for split, members in found.items()
            if drives and not members
        ]
    return found


def _by_lists(
    names: Mapping[str, Iterable[str]], wrong: list[str], *, root: Path, lists: dict[str, str]
) -> dict[str, list[str]]:
    by_line = {line: name for name, others in names.items() for line in others} | {name: name for name in names}
    found: dict[str, list[str]] = {}
    for split in sorted(lists, key=SPLITS.index):
        found[split] = []
        for number, line in entries(root / lists[split], wrong):
            if line in by_line:
                found[split].append(by_line[line])
            else:
                wrong.append(f"{lists[split]}:{number}: {line}: no annotated image of this name")
    return found


def _by_folders(folders: Mapping[str, set[str]], wrong: list[str], *, plugin: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"train": [], "val": []}
    for name, splits in folders.items():
        if len(splits) == 1:
            found.setdefault(next(iter(splits)), []).append(name)
    odd = [name for name, splits in folders.items() if len(splits) != 1]
    if odd:
        wrong.append(
            f"{len(odd)} images lie in no folder of one split, such as {odd[0]}, and others do; move them, "
            f"or set datasets.{plugin}.lists, or sequence, which looks at no folder of a split"
        )
    return found
