"""Which split a sample is in: by folders that are named after splits, or drawn by the name of its sequence."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from unicodedata import normalize

from pipeline.datasets._lists import posix

SPLITS = ("train", "val", "test")
HELD_OUT = ("val", "test")
#: What folders of a split are called, in any case.
FOLDERS = {
    "train": "train", "training": "train", "trainset": "train",
    "val": "val", "valid": "val", "validation": "val", "valset": "val",
    "test": "test", "testing": "test", "testset": "test",
}  # fmt: skip
#: Words beside that of the split in the name of a folder: ``train_images``, ``val-set``.
BESIDE = {
    "annotation", "annotations", "data", "dataset", "frames", "gt", "image", "images", "img", "imgs",
    "label", "labels", "mask", "masks", "set", "split",
}  # fmt: skip
SEEDS = 200  # that are tried before one is recommended
EACH_ITS_OWN = ".+"
EXAMPLES = 3  # samples that a message names


def _kind(folder: str, *, numbered: bool) -> str | None:
    """The split that a folder is named after, if any; ``numbered``: also ``train2017`` and ``01_train``."""
    found = re.split(r"[\W\d_]+" if numbered else r"[\W_]+", folder.casefold())
    words = [word for word in found if word and word not in BESIDE]
    return FOLDERS.get(words[0]) if len(words) == 1 else None


def contradiction(images: str, masks: str) -> tuple[str, str] | None:
    """Splits that the folders of two patterns are named after, where they are not the same."""
    found = [_kinds(pattern.split("/")[:-1], numbered=False) for pattern in (images, masks)]
    return (min(found[0]), min(found[1])) if all(found) and found[0] != found[1] else None


def by_folders(
    names: Sequence[str], *, drives: bool, wrong: list[str], plugin: str = "folder"
) -> dict[str, str] | None:
    """The split of each sample, where each lies in a folder that is named after a split, train among them.

    Args:
        names: of the samples, with ``/`` between folders.
        drives: the user says how to find sequences, so that a single such folder may be a drive.
        wrong: gets a line when some folders are named after splits and it is not clear what that means.
        plugin: whose options that line names.

    Returns:
        None when folders say nothing.

    Example:
        >>> by_folders(["train/1", "Valid/2"], drives=False, wrong=[])
        {'train/1': 'train', 'Valid/2': 'val'}
    """
    folders = {name: name.split("/")[:-1] for name in names}
    shared = _shared(list(folders.values()))
    kinds: dict[str, set[str]] = {}
    for numbered in (True, False):
        kinds = {name: _kinds(parts[shared:], numbered=numbered) for name, parts in folders.items()}
        found = set[str]().union(*kinds.values())
        if "train" in found and len(found) > 1 and all(len(kind) == 1 for kind in kinds.values()):
            return {name: kind.pop() for name, kind in kinds.items()}
    if not found:
        above = _kinds(next(iter(folders.values()), [])[:shared], numbered=False)
        if above <= {"train"} or drives:
            return None
        folder = next(part for part in next(iter(folders.values())) if _kind(part, numbered=False))
        wrong.append(
            f"all {len(names)} samples lie in a folder {folder!r}, which names a split that is not for training; "
            f"set splits: {{train: [{folder!r}]}} to train on it anyway, with val drawn from it by shares; or "
            "give lists"
        )
        return {}
    if drives and len(found) == 1:
        return None
    wrong.append(_unclear(folders, kinds, found, shared, plugin))
    return {}


def unlabelled_test(names: Sequence[str], labelled: Container[str]) -> set[str]:
    """Samples in folders of test, where none of them has a mask: the labels of a benchmark that its owner keeps."""
    test = {name for name, split in (by_folders(names, drives=False, wrong=[]) or {}).items() if split == "test"}
    return set() if any(name in labelled for name in test) else test


def split_words(names: Sequence[str]) -> str | None:
    """A warning where all samples are named after splits, in their file names or otherwise than folders should be."""
    words = {name: _kinds(re.split(r"[/\W\d_]+", name), numbered=False) for name in names}
    found = set[str]().union(*words.values())
    if "train" not in found or len(found) == 1 or any(len(kinds) != 1 for kinds in words.values()):
        return None
    if by_folders(names, drives=True, wrong=[]) is not None:
        return None
    return (
        f"names such as {names[0]} contain {', '.join(sorted(found))}, but samples are drawn into splits by hashes; if "
        "these are splits, give lists, or splits with the folders of each"
    )


def _kinds(folders: Iterable[str], *, numbered: bool) -> set[str]:
    return {kind for folder in folders if (kind := _kind(folder, numbered=numbered))}


def _shared(folders: Sequence[list[str]]) -> int:
    """How many of the outermost folders all samples have in common."""
    levels = zip(*folders, strict=False)
    return next((level for level, parts in enumerate(levels) if len(set(parts)) > 1), min(map(len, folders), default=0))


def _unclear(
    folders: dict[str, list[str]], kinds: dict[str, set[str]], found: set[str], level: int, plugin: str
) -> str:
    """What to say of folders of which some are named after splits."""
    named = sorted({part for parts in folders.values() for part in parts[level:] if _kind(part, numbered=False)})
    both = [name for name, kind in kinds.items() if len(kind) > 1]
    outside = [name for name, kind in kinds.items() if not kind]
    what = f"folders {', '.join(named)} are named after splits, but "
    if both:
        what += f"{_examples(both)} in folders of two splits"
    elif outside:
        what += f"{_examples(outside)} in none of them"
    else:
        what += "none of them is for training"
    advice = ["lists"]
    level = max(next((i for i, part in enumerate(parts) if part in named), level) for parts in folders.values())
    drives = all(len(parts) > level for parts in folders.values())
    if not both and drives:
        said = defaultdict[str, set[str]](set)
        for name, parts in folders.items():
            place = next((part for part in parts[level:] if _kind(part, numbered=False)), parts[level])
            said["train" if len(found) == 1 and not outside else next(iter(kinds[name]), "train")].add(place)
        if "train" in said:
            text = ", ".join(f"{split}: [{', '.join(sorted(said[split]))}]" for split in SPLITS if split in said)
            advice.insert(0, f"splits: {{{text}}}, changed to what you mean")
        else:
            advice.insert(0, "splits with a folder for train")
        if len(found) == 1:
            advice.insert(0, f'sequence: "^{level * "[^/]+/"}[^/]+" if they are drives or videos, drawn by shares')
    return f"{what}; set in datasets.{plugin} {'; or '.join(advice)}"


def _examples(names: Sequence[str]) -> str:
    shown = ", ".join(names[:EXAMPLES]) + (", ..." if len(names) > EXAMPLES else "")
    return f"{len(names)} samples ({shown}) lie" if len(names) > 1 else f"one sample ({shown}) lies"


def by_option(places: Mapping[str, str], splits: Mapping[str, Sequence[str]], wrong: list[str]) -> dict[str, str]:
    """The split of each sample by the folders that the option ``splits`` names.

    Args:
        places: path of each sample's image below the root.
        splits: split -> folders, each a name or a path: ``train`` or ``images/train``.
        wrong: gets a line for samples in no such folder, or in folders of two splits, and for folders without images.
    """
    found: dict[str, str] = {}
    outside: list[str] = []
    used: set[tuple[str, str]] = set()
    for name, place in places.items():
        path = f"/{place.rpartition('/')[0]}/"
        hits = [(split, each) for split, listed in splits.items() for each in listed if f"/{_folder(each)}/" in path]
        used |= set(hits)
        if len({split for split, _ in hits}) > 1:
            text = " and ".join(f"{split} ({folder})" for split, folder in hits)
            wrong.append(f"{place}: splits puts it into {text}; name its folder with more of its path")
        elif hits:
            found[name] = hits[0][0]
        else:
            outside.append(place)
    if outside:
        wrong.append(
            f"splits: {_examples(outside)} in no folder that it names; add their folders, or narrow the pattern"
        )
    empty = [
        f"{split}: {folder}" for split, listed in splits.items() for folder in listed if (split, folder) not in used
    ]
    wrong += [f"splits.{each}: no image of the pattern lies in a folder of this name; correct it" for each in empty]
    return found


def _folder(text: str) -> str:
    return normalize("NFC", posix(text)).strip("/")


def drawn(sequence: str, *, shares: Mapping[str, float], seed: int) -> str:
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
    """The sequence in a sample's name: what the expression finds (its first group), or the folder; None: nothing."""
    if regex is None:
        return name.rpartition("/")[0]
    match = regex.search(name)
    return None if match is None else match.group(1 if regex.groups else 0)


def empty_splits(
    sequences: Mapping[str, str], *, shares: Mapping[str, float], seed: int, regex: re.Pattern[str] | None
) -> str | None:
    """What to do about splits that no sequence was drawn for, so that it works; None: there is none.

    Args:
        sequences: sequence of each sample.
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
        what = f"all {len(sequences)} samples lie in one folder and so count as one sequence, which goes into one split"
    elif regex is None:
        what = f"{len(different)} folders, each one sequence, are too few for {len(wanted)} splits"
    else:
        shown = ", ".join(repr(each) for each in sorted(different))
        what = f"sequence finds no more than {shown} in the names of {len(sequences)} samples"
    if len(sequences) < len(wanted):
        return f"{empty}{len(sequences)} samples are too few for {len(wanted)} splits; add images"
    own = {name: name for name in sequences}
    now = {drawn(name, shares=shares, seed=seed) for name in own}
    better = None if now >= set(wanted) else _seed(own, wanted, shares)
    extra = "" if better is None else f" and seed: {better}"
    return (
        f"{empty}{what}; if the images are independent of each other, set sequence: {EACH_ITS_OWN!r}{extra}; if they "
        "are frames of videos, set it to a regular expression that finds the video in a name such as "
        f"{next(iter(own))!r}; or give lists"
    )


def _seed(sequences: Mapping[str, str], wanted: Sequence[str], shares: Mapping[str, float]) -> int | None:
    """The seed among the first that fills every split, with shares of the samples nearest to those wanted."""
    best: tuple[float, int] | None = None
    different = set(sequences.values())
    for seed in range(SEEDS if len(different) < SEEDS else 1):
        of = {each: drawn(each, shares=shares, seed=seed) for each in different}
        if not set(of.values()) >= set(wanted):
            continue
        counts = {split: sum(of[each] == split for each in sequences.values()) for split in HELD_OUT}
        off = sum(abs(counts[split] / len(sequences) - shares.get(split, 0.0)) for split in HELD_OUT)
        best = min(best, (off, seed)) if best else (off, seed)
    return None if best is None else best[1]
