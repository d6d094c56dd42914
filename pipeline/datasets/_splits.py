"""The split of each sample: from the names of its folders, or drawn from the name of its sequence."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from unicodedata import normalize

from pipeline.datasets._lists import posix

SPLITS = ("train", "val", "test")
HELD_OUT = ("val", "test")
#: Folder name in lower case -> split.
FOLDERS = {
    "train": "train", "training": "train", "trainset": "train",
    "val": "val", "valid": "val", "validation": "val", "valset": "val",
    "test": "test", "testing": "test", "testset": "test",
}  # fmt: skip
#: Words that may accompany a split name in the name of a folder: ``train_images``, ``val-set``.
OTHER_WORDS = {
    "annotation", "annotations", "data", "dataset", "frames", "gt", "image", "images", "img", "imgs",
    "label", "labels", "mask", "masks", "set", "split",
}  # fmt: skip
SEEDS = 200  # number of seeds that are tried to find a seed to recommend
EACH_ITS_OWN = ".+"
EXAMPLES = 3  # samples that a message names


def _kind(folder: str, *, numbered: bool) -> str | None:
    """The split in the name of a folder; None: no split. ``numbered``: also accept ``train2017`` and ``01_train``."""
    parts = re.split(r"[\W\d_]+" if numbered else r"[\W_]+", folder.casefold())
    words = [word for word in parts if word and word not in OTHER_WORDS]
    return FOLDERS.get(words[0]) if len(words) == 1 else None


def contradiction(images: str, masks: str) -> tuple[str, str] | None:
    """The splits in the folder names of two patterns if they differ; else None."""
    kinds = [_kinds(pattern.split("/")[:-1], numbered=False) for pattern in (images, masks)]
    return (min(kinds[0]), min(kinds[1])) if all(kinds) and kinds[0] != kinds[1] else None


def by_folders(
    names: Sequence[str], *, drives: bool, wrong: list[str], plugin: str = "folder"
) -> dict[str, str] | None:
    """The split of each sample, if every sample is in a folder that is named after a split, and some are in train.

    Args:
        names: names of the samples, with ``/`` between folders.
        drives: the option ``sequence`` is set, so a single folder with the name of a split may be a drive.
        wrong: gets an error if only some folders are named after splits.
        plugin: name of the plugin, for messages about its options.

    Returns:
        the split of each sample; nothing if there was an error; None if no folder is named after a split.

    Example:
        >>> by_folders(["train/1", "Valid/2"], drives=False, wrong=[])
        {'train/1': 'train', 'Valid/2': 'val'}
    """
    folders = {name: name.split("/")[:-1] for name in names}
    shared = _shared(list(folders.values()))
    kinds: dict[str, set[str]] = {}
    for numbered in (True, False):
        kinds = {name: _kinds(parts[shared:], numbered=numbered) for name, parts in folders.items()}
        splits = set[str]().union(*kinds.values())
        if "train" in splits and len(splits) > 1 and all(len(kind) == 1 for kind in kinds.values()):
            return {name: kind.pop() for name, kind in kinds.items()}
    if not splits:
        above = _kinds(next(iter(folders.values()), [])[:shared], numbered=False)
        if above <= {"train"} or drives:
            return None
        folder = next(part for part in next(iter(folders.values())) if _kind(part, numbered=False))
        wrong.append(
            f"all {len(names)} samples are in a folder {folder!r}, the name of a split that is not for training; "
            f"to train on it anyway, with val drawn from it by shares, set splits: {{train: [{folder!r}]}}; or give "
            "lists"
        )
        return {}
    if drives and len(splits) == 1:
        return None
    wrong.append(_unclear(folders, kinds, splits, shared, plugin))
    return {}


def unlabelled_test(names: Sequence[str], labelled: Container[str]) -> set[str]:
    """The samples in folders of test, if none of them has a mask; else an empty set.

    The owner of a benchmark often publishes no labels of its test split.
    """
    test = {name for name, split in (by_folders(names, drives=False, wrong=[]) or {}).items() if split == "test"}
    return set() if any(name in labelled for name in test) else test


def split_words(names: Sequence[str]) -> str | None:
    """A warning if all names of samples contain a split, but splits are not taken from folders; else None."""
    words = {name: _kinds(re.split(r"[/\W\d_]+", name), numbered=False) for name in names}
    splits = set[str]().union(*words.values())
    if "train" not in splits or len(splits) == 1 or any(len(kinds) != 1 for kinds in words.values()):
        return None
    if by_folders(names, drives=True, wrong=[]) is not None:
        return None
    return (
        f"names such as {names[0]} contain {', '.join(sorted(splits))}, but the splits are drawn by hashes; if these "
        "words are splits, give lists, or set the option splits to the folders of each split"
    )


def _kinds(folders: Iterable[str], *, numbered: bool) -> set[str]:
    return {kind for folder in folders if (kind := _kind(folder, numbered=numbered))}


def _shared(folders: Sequence[list[str]]) -> int:
    """How many of the outer folders are common to all samples."""
    levels = zip(*folders, strict=False)
    return next((level for level, parts in enumerate(levels) if len(set(parts)) > 1), min(map(len, folders), default=0))


def _unclear(
    folders: dict[str, list[str]], kinds: dict[str, set[str]], splits: set[str], level: int, plugin: str
) -> str:
    """The error if only some samples are in folders that are named after splits, or if such a folder is missing."""
    named = sorted({part for parts in folders.values() for part in parts[level:] if _kind(part, numbered=False)})
    both = [name for name, kind in kinds.items() if len(kind) > 1]
    outside = [name for name, kind in kinds.items() if not kind]
    error = f"folders {', '.join(named)} are named after splits, but "
    if both:
        error += f"{_examples(both)} in folders of two splits"
    elif outside:
        error += f"{_examples(outside)} in none of them"
    else:
        error += "none of them is train"
    advice = ["lists"]
    level = max(next((i for i, part in enumerate(parts) if part in named), level) for parts in folders.values())
    drives = all(len(parts) > level for parts in folders.values())
    if not both and drives:
        folders_of = defaultdict[str, set[str]](set)
        for name, parts in folders.items():
            folder = next((part for part in parts[level:] if _kind(part, numbered=False)), parts[level])
            folders_of["train" if len(splits) == 1 and not outside else next(iter(kinds[name]), "train")].add(folder)
        if "train" in folders_of:
            text = ", ".join(
                f"{split}: [{', '.join(sorted(folders_of[split]))}]" for split in SPLITS if split in folders_of
            )
            advice.insert(0, f"splits: {{{text}}}, after you correct the folders")
        else:
            advice.insert(0, "splits with a folder for train")
        if len(splits) == 1:
            advice.insert(0, f'sequence: "^{level * "[^/]+/"}[^/]+" if they are drives or videos, drawn by shares')
    return f"{error}; set in datasets.{plugin} {'; or '.join(advice)}"


def _examples(names: Sequence[str]) -> str:
    shown = ", ".join(names[:EXAMPLES]) + (", ..." if len(names) > EXAMPLES else "")
    return f"{len(names)} samples ({shown}) are" if len(names) > 1 else f"one sample ({shown}) is"


def by_option(places: Mapping[str, str], splits: Mapping[str, Sequence[str]], wrong: list[str]) -> dict[str, str]:
    """The split of each sample by the folders in the option ``splits``.

    Args:
        places: sample name -> path of its image relative to the root.
        splits: split -> folders, each a name or a path: ``train`` or ``images/train``.
        wrong: gets an error for samples in none of these folders or in folders of two splits, and for folders without
            images.
    """
    split_of: dict[str, str] = {}
    outside: list[str] = []
    used: set[tuple[str, str]] = set()
    for name, place in places.items():
        path = f"/{place.rpartition('/')[0]}/"
        matches = [(split, each) for split, listed in splits.items() for each in listed if f"/{_folder(each)}/" in path]
        used |= set(matches)
        if len({split for split, _ in matches}) > 1:
            text = " and ".join(f"{split} ({folder})" for split, folder in matches)
            wrong.append(f"{place}: splits assigns it to {text}; give a longer path of its folder")
        elif matches:
            split_of[name] = matches[0][0]
        else:
            outside.append(place)
    if outside:
        wrong.append(f"splits: {_examples(outside)} in none of its folders; add their folders, or narrow the pattern")
    empty = [
        f"{split}: {folder}" for split, listed in splits.items() for folder in listed if (split, folder) not in used
    ]
    wrong += [f"splits.{each}: no image of the pattern is in a folder with this name; correct it" for each in empty]
    return split_of


def _folder(text: str) -> str:
    return normalize("NFC", posix(text)).strip("/")


def drawn(sequence: str, *, shares: Mapping[str, float], seed: int) -> str:
    """The split of a sequence. It depends only on the name of the sequence, the shares and the seed.

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
    """The sequence in the name of a sample: the match of the expression (its first group if it has one).

    Without an expression, the folder is the sequence. None: the expression does not match.
    """
    if regex is None:
        return name.rpartition("/")[0]
    match = regex.search(name)
    return None if match is None else match.group(1 if regex.groups else 0)


def empty_splits(
    sequences: Mapping[str, str], *, shares: Mapping[str, float], seed: int, regex: re.Pattern[str] | None
) -> str | None:
    """The error about splits for which no sequence was drawn, with options that fill them; None: no split is empty.

    Args:
        sequences: sample name -> sequence.
    """
    wanted = ["train", *(split for split in HELD_OUT if shares.get(split))]
    different = set(sequences.values())
    missing = [split for split in wanted if split not in {drawn(each, shares=shares, seed=seed) for each in different}]
    if not sequences or not missing:
        return None
    empty = f"split {' and '.join(missing)}: "
    if len(different) >= len(wanted):
        better = _seed(sequences, wanted, shares)
        remedy = f"set seed: {better}, which fills every split" if better is not None else "set larger shares"
        return f"{empty}none of {len(different)} sequences was drawn for it; {remedy}; or give lists"
    if regex is None and len(different) == 1:
        reason = f"all {len(sequences)} samples are in one folder, so they are one sequence, which goes into one split"
    elif regex is None:
        reason = f"{len(different)} folders, each one sequence, are too few for {len(wanted)} splits"
    else:
        shown = ", ".join(repr(each) for each in sorted(different))
        reason = f"sequence finds only {shown} in the names of {len(sequences)} samples"
    if len(sequences) < len(wanted):
        return f"{empty}{len(sequences)} samples are too few for {len(wanted)} splits; add images"
    single = {name: name for name in sequences}
    splits = {drawn(name, shares=shares, seed=seed) for name in single}
    better = None if splits >= set(wanted) else _seed(single, wanted, shares)
    seed_advice = "" if better is None else f" and seed: {better}"
    return (
        f"{empty}{reason}; if the images are independent of each other, set sequence: {EACH_ITS_OWN!r}{seed_advice}; "
        "if they are frames of videos, set sequence to a regular expression that finds the video in a name such as "
        f"{next(iter(single))!r}; or give lists"
    )


def _seed(sequences: Mapping[str, str], wanted: Sequence[str], shares: Mapping[str, float]) -> int | None:
    """The seed that fills every split and gives the best shares of samples, among the first seeds; None: no seed."""
    best: tuple[float, int] | None = None
    different = set(sequences.values())
    for seed in range(SEEDS if len(different) < SEEDS else 1):
        split_of = {each: drawn(each, shares=shares, seed=seed) for each in different}
        if not set(split_of.values()) >= set(wanted):
            continue
        counts = {split: sum(split_of[each] == split for each in sequences.values()) for split in HELD_OUT}
        deviation = sum(abs(counts[split] / len(sequences) - shares.get(split, 0.0)) for split in HELD_OUT)
        best = min(best, (deviation, seed)) if best else (deviation, seed)
    return None if best is None else best[1]
