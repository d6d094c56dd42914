"""What a line of a list means: the sample whose image or mask it names, in whatever form.

A sample may be named by its name, or by a path of its image or mask: below the root or below the list's folder,
absolute, with or without suffix, the end of the path alone, or with a prefix of another machine before it. A pair names
both.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from pipeline.datasets._lists import columns, is_header, lines, posix
from pipeline.datasets._patterns import nfc
from pipeline.datasets._splits import FOLDERS

SHOWN = 160  # characters of a line that a message shows
#: Words of a header by which a column is that of masks.
OF_MASKS = re.compile(r"mask|label|lbl|annotation|gt|seg|target", re.IGNORECASE)
OF_IMAGES = re.compile(r"image|img|file|frame|path|sample|name", re.IGNORECASE)


class Names:
    """Files of one kind, by every form in which a list may name them.

    Args:
        root: folder that paths count from.
        files: by the names of their samples.
    """

    def __init__(self, root: Path, files: Mapping[str, Path]) -> None:
        self.files = files
        self._whole: dict[str, set[str]] = defaultdict(set)
        self._last: dict[str, list[str]] = defaultdict(list)
        self._below: dict[str, str] = {}
        self._stems: dict[str, list[Path]] = defaultdict(list)
        self._roots = [nfc(each.as_posix()).strip("/").split("/") for each in (root.absolute(), root.resolve())]
        for name, path in files.items():
            below = self._below[name] = nfc(path.relative_to(root).as_posix())
            stem = below.removesuffix(nfc(path.suffix))
            self._stems[stem.rpartition("/")[2].casefold()].append(path)
            for form in (below, stem, name, name.replace("/", "__")):
                self._whole[form].add(name)
            for last in {below.rpartition("/")[2], stem.rpartition("/")[2]}:
                self._last[last].append(name)

    def named(self, reference: str, *, beside: str) -> set[str]:
        """Samples that a reference may mean; more than one: it is ambiguous.

        Args:
            beside: folder of the list, below the root.
        """
        path = posix(nfc(reference))
        if not path.strip("/."):
            return set()
        if path.startswith("/"):
            parts = path.strip("/").split("/")
            inside = ["/".join(parts[len(root) :]) for root in self._roots if parts[: len(root)] == root]
        else:
            inside = [path, posix(f"{beside}/{path}")]
        if whole := {name for form in inside for name in self._whole.get(form, ())}:
            return whole
        wanted = path.strip("/").split("/")
        ends = {name: self._common(name, wanted) for name in self._last.get(wanted[-1], ())}
        if not path.startswith("/") and (shorter := {name for name, end in ends.items() if end == len(wanted)}):
            return shorter
        longest = {name: end for name, end in ends.items() if end > max(1, self._below[name].count("/"))}
        return {name for name, end in longest.items() if end == max(longest.values())}

    def _common(self, name: str, wanted: list[str]) -> int:
        """How many parts at the end of a file's path and of a wanted one are the same, the last for sure."""
        parts = [*self._roots[0], *self._below[name].split("/")]
        pairs = zip(reversed(parts[:-1]), reversed(wanted[:-1]), strict=False)
        return 1 + next(
            (index for index, (ours, theirs) in enumerate(pairs) if ours != theirs), min(len(parts), len(wanted)) - 1
        )

    def close(self, reference: str) -> Path | None:
        """The only file of this stem, for a message; None: there is none, or more."""
        found = self._stems.get(PurePosixPath(posix(nfc(reference))).stem.casefold(), [])
        return found[0] if len(found) == 1 else None


class Listed:
    """Reads the lists of a data set.

    Args:
        root: folder that paths count from.
        images, masks: files by the names of their samples.
    """

    def __init__(self, root: Path, images: Mapping[str, Path], masks: Mapping[str, Path]) -> None:
        self.root = root
        self.images, self.masks = Names(root, images), Names(root, masks)

    def read(self, listing: Path, wrong: list[str], *, only: str | None = None) -> Iterator[tuple[int, str, str]]:
        """Number of the line, and the names under which image and mask of its sample were found.

        Args:
            listing: the list file.
            wrong: gets a line for each line that names no sample, or several, or one again.
            only: a split; lines whose column ``split`` names another are left out.
        """
        beside = "" if listing.parent == self.root else self._beside(listing)
        first: dict[str, int] = {}
        header: list[str] = []
        before = len(wrong)
        for number, line in lines(listing, wrong, is_name=lambda line: bool(self._sample([line], beside))):
            found = self._line(line, header, beside)
            if isinstance(found, str) and not first and not header and is_header(line):
                header = max(columns(line), key=lambda fields: len(fields) if len(fields) > 1 else 0)
            elif only and (said := _split_of(line, header)) is not None and FOLDERS.get(said.casefold()) != only:
                if said.casefold() not in FOLDERS:
                    allowed = ", ".join(FOLDERS)
                    wrong.append(f"{listing.name}:{number}: split {said!r} is unknown; allowed: {allowed}")
            elif isinstance(found, str):
                wrong.append(f"{listing.name}:{number}: {found}")
            elif found[0] in first:
                again = f"{self.images.files[found[0]]} is listed twice, first in line {first[found[0]]}"
                wrong.append(f"{listing.name}:{number}: {again}; remove one")
            else:
                first[found[0]] = number
                yield number, *found
        if not first and len(wrong) == before:
            wrong.append(f"{listing.name}: lists no sample")

    def _beside(self, listing: Path) -> str:
        try:
            return listing.parent.relative_to(self.root).as_posix()
        except ValueError:  # a list elsewhere
            return ""

    def _line(self, line: str, header: list[str], beside: str) -> tuple[str, str] | str:
        """Names of image and mask, or what is wrong with the line."""
        said = ""
        for fields in columns(line):
            found = self._sample(_of_header(fields, header), beside)
            if isinstance(found, tuple):
                return found
            said = said or found
        before, comment, _ = line.partition(" #")
        if comment and isinstance(found := self._line(before, header, beside), tuple):
            return found
        shown = line if line.isprintable() else repr(line)
        shown = shown if len(shown) <= SHOWN else shown[:SHOWN] + "..."
        close = self.images.close(line)
        near = f"; did you mean {close}?" if close else ""
        return f"{shown}: {said or f'no image and no mask of this name{near}'}"

    def _sample(self, fields: list[str], beside: str) -> tuple[str, str] | str:
        """Names of image and mask; else what is wrong, or nothing when the fields name no file."""
        if len(fields) == 1:
            return self._single(fields[0], beside)
        if len(fields) == 2:
            return self._two(fields, beside)
        if any(self.images.named(field, beside=beside) for field in fields):
            return f"{len(fields)} columns; keep image and mask, or begin the list with a header such as image,mask"
        return ""

    def _single(self, reference: str, beside: str) -> tuple[str, str] | str:
        images, masks = (kind.named(reference, beside=beside) for kind in (self.images, self.masks))
        together = images | masks
        if len(together) > 1:
            found = ((self.images, images), (self.masks, masks))
            return self._ambiguous([kind.files[name] for kind, names in found for name in names])
        if not together:
            return ""
        (name,) = together
        absent = [what for what, kind in (("image", self.images), ("mask", self.masks)) if name not in kind.files]
        return (name, name) if not absent else f"no {' and no '.join(absent)} of this name"

    def _two(self, fields: list[str], beside: str) -> tuple[str, str] | str:
        said = ""
        for first, second in (fields, fields[::-1]):
            images, masks = self.images.named(first, beside=beside), self.masks.named(second, beside=beside)
            if len(images) == len(masks) == 1:
                return self._pair(images.pop(), masks.pop())
            for kind, found in ((self.images, images), (self.masks, masks)):
                if images and masks and len(found) > 1:
                    said = said or self._ambiguous([kind.files[name] for name in found])
            if images and not masks:
                said = said or f"{second}: no mask of this name that datasets.folder.masks finds"
            elif masks and not images:
                said = said or f"{first}: no image of this name that datasets.folder.images finds"
        return said

    def _pair(self, image: str, mask: str) -> tuple[str, str] | str:
        """A pair counts where the patterns give the image no mask; it must not contradict them."""
        ours = self.masks.files.get(image)
        if image == mask or (ours is None and mask not in self.images.files):
            return image, mask
        files = self.images.files
        if ours is not None:
            return f"by the patterns, the mask of {files[image]} is {ours}; correct the line or datasets.folder.masks"
        return (
            f"by the patterns, {self.masks.files[mask]} is the mask of {files[mask]}; correct the line or the patterns"
        )

    @staticmethod
    def _ambiguous(files: list[Path]) -> str:
        shown = " and ".join(map(str, sorted(files)[:2])) + (" and others" if len(files) > 2 else "")
        return f"ambiguous: it may mean {shown}; give a longer part of the path"


def _split_of(line: str, header: list[str]) -> str | None:
    """What the column ``split`` of a table says for this line; None: there is no such column."""
    places = [index for index, title in enumerate(header) if title.casefold() in ("split", "subset")]
    rows = [fields for fields in columns(line) if len(fields) == len(header)]
    return rows[0][places[0]] if places and rows else None


def _of_header(fields: list[str], header: list[str]) -> list[str]:
    """The fields of image and mask, where a header says which they are."""
    if len(fields) != len(header):
        return fields
    masks = [index for index, title in enumerate(header) if OF_MASKS.search(title)]
    images = [index for index, title in enumerate(header) if OF_IMAGES.search(title) and index not in masks]
    images.sort(
        key=lambda index: not re.search(r"path|file", header[index], re.IGNORECASE)
    )  # rather than an image's id
    return [fields[index] for index in (*images[:1], *masks[:1])] if images or masks else fields
