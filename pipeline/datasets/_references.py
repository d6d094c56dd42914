"""From a line of a list file to the sample whose image or mask it names.

A line is the name of a sample, or a path of its image or its mask, or both paths. A path may be relative to the root or
to the folder of the list, or absolute; it may lack the suffix or its first folders, or have the folders of another
machine at its start.
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
#: Words in the title of a column of masks, or of images.
OF_MASKS = re.compile(r"mask|label|lbl|annotation|gt|seg|target", re.IGNORECASE)
OF_IMAGES = re.compile(r"image|img|file|frame|path|sample|name", re.IGNORECASE)


class Names:
    """Images or masks, by every form in which a list may name them.

    Args:
        root: the root of the data set.
        files: sample name -> file.
    """

    def __init__(self, root: Path, files: Mapping[str, Path]) -> None:
        self.files = files
        self._whole: dict[str, set[str]] = defaultdict(set)
        self._last: dict[str, list[str]] = defaultdict(list)
        self._below: dict[str, str] = {}
        self._stems: dict[str, list[Path]] = defaultdict(list)
        self._roots = [nfc(each.as_posix()).strip("/").split("/") for each in (root.absolute(), root.resolve())]
        for name, path in files.items():
            relative = self._below[name] = nfc(path.relative_to(root).as_posix())
            stem = relative.removesuffix(nfc(path.suffix))
            self._stems[stem.rpartition("/")[2].casefold()].append(path)
            for form in (relative, stem, name, name.replace("/", "__")):
                self._whole[form].add(name)
            for last in {relative.rpartition("/")[2], stem.rpartition("/")[2]}:
                self._last[last].append(name)

    def named(self, reference: str, *, list_folder: str) -> set[str]:
        """Names of the samples that a reference may mean; with more than one, the reference is ambiguous.

        Args:
            list_folder: folder of the list file, relative to the root.
        """
        path = posix(nfc(reference))
        if not path.strip("/."):
            return set()
        if path.startswith("/"):
            parts = path.strip("/").split("/")
            inside = ["/".join(parts[len(root) :]) for root in self._roots if parts[: len(root)] == root]
        else:
            inside = [path, posix(f"{list_folder}/{path}")]
        if whole := {name for form in inside for name in self._whole.get(form, ())}:
            return whole
        wanted = path.strip("/").split("/")
        ends = {name: self._common(name, wanted) for name in self._last.get(wanted[-1], ())}
        if not path.startswith("/") and (shorter := {name for name, end in ends.items() if end == len(wanted)}):
            return shorter
        longest = {name: end for name, end in ends.items() if end > max(1, self._below[name].count("/"))}
        return {name for name, end in longest.items() if end == max(longest.values())}

    def _common(self, name: str, wanted: list[str]) -> int:
        """How many parts at the end of a file's path and of a wanted path are equal; the last part always is."""
        parts = [*self._roots[0], *self._below[name].split("/")]
        pairs = zip(reversed(parts[:-1]), reversed(wanted[:-1]), strict=False)
        return 1 + next(
            (index for index, (ours, theirs) in enumerate(pairs) if ours != theirs), min(len(parts), len(wanted)) - 1
        )

    def close(self, reference: str) -> Path | None:
        """The only file with this stem, for messages; None: there is no such file, or there are several."""
        files = self._stems.get(PurePosixPath(posix(nfc(reference))).stem.casefold(), [])
        return files[0] if len(files) == 1 else None


class Listed:
    """Reads the list files of a data set.

    Args:
        root: the root of the data set.
        images, masks: sample name -> file.
    """

    def __init__(self, root: Path, images: Mapping[str, Path], masks: Mapping[str, Path]) -> None:
        self.root = root
        self.images, self.masks = Names(root, images), Names(root, masks)

    def read(self, listing: Path, wrong: list[str], *, only: str | None = None) -> Iterator[tuple[int, str, str]]:
        """Line number, name of the image and name of the mask, for each sample of a list file.

        Args:
            listing: the list file.
            wrong: gets an error for each line that names no sample, several samples, or a sample of an earlier line.
            only: a split; lines with another split in the column ``split`` are left out.
        """
        list_folder = "" if listing.parent == self.root else self._list_folder(listing)
        first: dict[str, int] = {}
        header: list[str] = []
        count = len(wrong)
        for number, line in lines(listing, wrong, is_name=lambda line: bool(self._sample([line], list_folder))):
            names = self._line(line, header, list_folder)
            if isinstance(names, str) and not first and not header and is_header(line):
                header = max(columns(line), key=lambda fields: len(fields) if len(fields) > 1 else 0)
            elif only and (split := _split_of(line, header)) is not None and FOLDERS.get(split.casefold()) != only:
                if split.casefold() not in FOLDERS:
                    allowed = ", ".join(FOLDERS)
                    wrong.append(f"{listing.name}:{number}: split {split!r} is unknown; allowed: {allowed}")
            elif isinstance(names, str):
                wrong.append(f"{listing.name}:{number}: {names}")
            elif names[0] in first:
                error = f"{self.images.files[names[0]]} is listed twice, first in line {first[names[0]]}"
                wrong.append(f"{listing.name}:{number}: {error}; remove one line")
            else:
                first[names[0]] = number
                yield number, *names
        if not first and len(wrong) == count:
            wrong.append(f"{listing.name}: lists no sample; add one sample per line")

    def _list_folder(self, listing: Path) -> str:
        try:
            return listing.parent.relative_to(self.root).as_posix()
        except ValueError:  # a list outside the root
            return ""

    def _line(self, line: str, header: list[str], list_folder: str) -> tuple[str, str] | str:
        """Names of image and mask, or the error in the line."""
        error = ""
        for fields in columns(line):
            result = self._sample(_of_header(fields, header), list_folder)
            if isinstance(result, tuple):
                return result
            error = error or result
        before, comment, _ = line.partition(" #")
        if comment and isinstance(result := self._line(before, header, list_folder), tuple):
            return result
        shown = line if line.isprintable() else repr(line)
        shown = shown if len(shown) <= SHOWN else shown[:SHOWN] + "..."
        close = self.images.close(line)
        near = f"; did you mean {close}?" if close else ""
        return f"{shown}: {error or f'no image and no mask has this name{near}'}"

    def _sample(self, fields: list[str], list_folder: str) -> tuple[str, str] | str:
        """Names of image and mask; or the error; or an empty text if the fields name no file."""
        if len(fields) == 1:
            return self._single(fields[0], list_folder)
        if len(fields) == 2:
            return self._two(fields, list_folder)
        if any(self.images.named(field, list_folder=list_folder) for field in fields):
            return f"{len(fields)} columns; keep image and mask, or begin the list with a header such as image,mask"
        return ""

    def _single(self, reference: str, list_folder: str) -> tuple[str, str] | str:
        images, masks = (kind.named(reference, list_folder=list_folder) for kind in (self.images, self.masks))
        together = images | masks
        if len(together) > 1:
            candidates = ((self.images, images), (self.masks, masks))
            return self._ambiguous([kind.files[name] for kind, names in candidates for name in names])
        if not together:
            return ""
        (name,) = together
        absent = [what for what, kind in (("image", self.images), ("mask", self.masks)) if name not in kind.files]
        return (name, name) if not absent else f"no {' and no '.join(absent)} has this name"

    def _two(self, fields: list[str], list_folder: str) -> tuple[str, str] | str:
        error = ""
        for first, second in (fields, fields[::-1]):
            images, masks = (
                self.images.named(first, list_folder=list_folder),
                self.masks.named(second, list_folder=list_folder),
            )
            if len(images) == len(masks) == 1:
                return self._pair(images.pop(), masks.pop())
            for kind, names in ((self.images, images), (self.masks, masks)):
                if images and masks and len(names) > 1:
                    error = error or self._ambiguous([kind.files[name] for name in names])
            if images and not masks:
                error = error or f"{second}: datasets.folder.masks finds no mask with this name"
            elif masks and not images:
                error = error or f"{first}: datasets.folder.images finds no image with this name"
        return error

    def _pair(self, image: str, mask: str) -> tuple[str, str] | str:
        """A pair of names, or an error if the patterns pair the image or the mask with another file."""
        pattern_mask = self.masks.files.get(image)
        if image == mask or (pattern_mask is None and mask not in self.images.files):
            return image, mask
        files = self.images.files
        if pattern_mask is not None:
            pair = f"the mask of {files[image]} is {pattern_mask}"
            return f"by the patterns, {pair}; correct the line or datasets.folder.masks"
        pair = f"{self.masks.files[mask]} is the mask of {files[mask]}"
        return f"by the patterns, {pair}; correct the line or the patterns"

    @staticmethod
    def _ambiguous(files: list[Path]) -> str:
        shown = " and ".join(map(str, sorted(files)[:2])) + (" and others" if len(files) > 2 else "")
        return f"ambiguous: it may mean {shown}; give a longer part of the path"


def _split_of(line: str, header: list[str]) -> str | None:
    """The value of the column ``split`` in this line; None: there is no such column."""
    places = [index for index, title in enumerate(header) if title.casefold() in ("split", "subset")]
    rows = [fields for fields in columns(line) if len(fields) == len(header)]
    return rows[0][places[0]] if places and rows else None


def _of_header(fields: list[str], header: list[str]) -> list[str]:
    """The fields of image and mask, if the header names them; else all fields."""
    if len(fields) != len(header):
        return fields
    masks = [index for index, title in enumerate(header) if OF_MASKS.search(title)]
    images = [index for index, title in enumerate(header) if OF_IMAGES.search(title) and index not in masks]
    images.sort(key=lambda index: not re.search(r"path|file", header[index], re.IGNORECASE))  # a path before an id
    return [fields[index] for index in (*images[:1], *masks[:1])] if images or masks else fields
