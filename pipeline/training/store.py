"""A split, decoded once: all frames and labels in one memory-mapped file that processes and workers share.

Decoding PNG is most of the cost of loading a crop. The file holds the decoded bytes, so results do not depend on it.
It is written beside the data set, ``.decoded/<hash of the data set>/<split>.raw``, and may be deleted at any time. Its
index is written last: if an interruption prevents that, the file is written again.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
import os
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline import artifact
from pipeline.errors import UserError
from pipeline.frames import PNG_SIGNATURE, Array
from pipeline.prepared import Prepared, Split
from pipeline.settings.param_types import StoreMode
from pipeline.training.free_memory import free_memory

log = logging.getLogger(__name__)

FOLDER = ".decoded"
FORMAT = 1
#: ``auto``: the file may take this share of the free memory, whose file cache then holds it, and of the free disk.
MEMORY_SHARE, DISK_SHARE = 0.25, 0.5
CHANNELS = 4  # bytes per pixel: blue, green, red, label
MIB = 2**20
#: For one frame: offset of its bytes in the file, height, width. Its label map follows it.
Place = tuple[int, int, int]


@dataclass(frozen=True)
class Stored(Split):
    """A split whose frames and labels are views into a decoded file; writing to them does not change the file.

    A pickle of it (for workers that are not forked) contains the path, not the pixels.
    """

    file: Path
    places: Mapping[str, Place]

    @functools.cached_property
    def pixels(self) -> Array:
        return np.asarray(np.memmap(self.file, np.uint8, mode="c"))

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "pixels"}

    def frame(self, index: int) -> Array:
        offset, height, width = self.places[self.names[index]]
        return self.pixels[offset : offset + 3 * height * width].reshape(height, width, 3)

    def label(self, index: int) -> Array:
        offset, height, width = self.places[self.names[index]]
        return self.pixels[offset + 3 * height * width : offset + CHANNELS * height * width].reshape(height, width)


def open_split(
    prepared: Prepared,
    name: str,
    *,
    mode: StoreMode,
    folder: Path | None = None,
    say: Callable[[str], object] = log.info,
) -> Split:
    """A split, from its decoded file if ``mode`` asks for one; a missing file is written.

    Several processes may call this at once: one writes, the others wait for it.

    Args:
        name: of the split.
        mode: ``none`` decodes each time; ``decoded`` writes the file; ``auto`` writes it if it takes at most a quarter
            of the free memory and half of the free disk.
        folder: folder for the decoded files of all data sets; None: beside the data set.
        say: called with a line before the file is written, and with the reason why ``auto`` writes none.

    Raises:
        UserError: no such split, or a damaged PNG; with ``decoded`` also a disk that cannot be written or is too full.
    """
    split = prepared.split(name)
    if mode == "none":
        return split
    digest = prepared.artifact.hash
    base = prepared.artifact.path.resolve().parent / FOLDER if folder is None else folder
    file = base / digest[:16] / f"{name}.raw"
    places = _ready(file, digest)
    if places is None:
        places, size = _layout(split)
        if mode == "auto" and (reason := _too_large(size, base)):
            say(f"{name}: frames are decoded each time; {reason}")
            return split
        try:
            with _locked(file.with_name(f"{name}.lock")):
                if (existing := _ready(file, digest)) is None:
                    _write(split, file, places=places, size=size, digest=digest, say=say)
                places = existing or places
        except OSError as error:
            if mode == "decoded":
                raise UserError(
                    f"{file}: cannot be written ({error.strerror}); free the place, or set store: none"
                ) from error
            say(f"{name}: frames are decoded each time; {file} cannot be written ({error.strerror})")
            return split
    return Stored(root=split.root, name=split.name, names=split.names, file=file, places=places)


def _ready(file: Path, digest: str) -> dict[str, Place] | None:
    """The index of a complete file, or None."""
    try:
        index = artifact.read_json(file.with_suffix(".json"), advice="")
        complete = index["dataset"] == digest and index["format"] == FORMAT and file.stat().st_size == index["bytes"]
        return {name: tuple(place) for name, place in index["places"].items()} if complete else None
    except (UserError, OSError, KeyError):
        return None


def _layout(split: Split) -> tuple[dict[str, Place], int]:
    """The place of each frame, from the PNG headers, and the size of the file in bytes."""
    places: dict[str, Place] = {}
    size = 0
    for name in split.names:
        height, width = _png_size(split.root / split.name / "images" / f"{name}.png")
        places[name] = (size, height, width)
        size += CHANNELS * height * width
    return places, size


def _png_size(path: Path) -> tuple[int, int]:
    """(height, width) from a PNG's header."""
    try:
        with path.open("rb") as stream:
            head = stream.read(24)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {artifact.AGAIN} prepare") from error
    if len(head) < 24 or not head.startswith(PNG_SIGNATURE):
        raise UserError(f"{path}: no PNG file; {artifact.AGAIN} prepare")
    width, height = struct.unpack(">II", head[16:24])
    return height, width


def _too_large(size: int, base: Path) -> str:
    """Why ``auto`` writes no file; empty if it may write one."""
    memory = free_memory(torch.device("cpu"))
    if memory is not None and size > MEMORY_SHARE * memory:
        return (
            f"decoded they take {size / MIB:.0f} MiB, a quarter of the free memory is {MEMORY_SHARE * memory / MIB:.0f}"
        )
    disk = _free_disk(base)
    if size > DISK_SHARE * disk:
        return f"decoded they take {size / MIB:.0f} MiB, half of the free disk is {DISK_SHARE * disk / MIB:.0f}"
    return ""


def _free_disk(base: Path) -> int:
    existing = next(folder for folder in (base, *base.parents) if folder.exists())
    return shutil.disk_usage(existing).free


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold a lock on a file; the system releases the lock of a process that ends."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _write(
    split: Split, file: Path, *, places: Mapping[str, Place], size: int, digest: str, say: Callable[[str], object]
) -> None:
    if size > _free_disk(file.parent):
        raise UserError(
            f"{file}: the decoded frames of {split.name} take {size / MIB:.0f} MiB, "
            f"{_free_disk(file.parent) / MIB:.0f} are free; free some, or set store: none"
        )
    say(f"{split.name}: {len(split)} frames are decoded to {file}, {size / MIB:.0f} MiB; it may be deleted at any time")
    partial = file.with_name(f".{file.name}.partial")
    handle = os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644)
    try:

        def decode(index: int) -> None:
            offset, *shape = places[split.names[index]]
            frame, label = split[index]
            if [*frame.shape[:2]] != shape or [*label.shape] != shape:
                raise UserError(
                    f"{split.root / split.name}: {split.names[index]} is {shape}, decoded {frame.shape[:2]}, "
                    f"its label {label.shape}; {artifact.AGAIN} prepare"
                )
            _write_all(handle, offset, frame.tobytes() + label.tobytes())

        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            for _ in pool.map(decode, range(len(split))):
                pass
        os.fsync(handle)
        partial.replace(file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)
    facts = {"dataset": digest, "format": FORMAT, "bytes": size, "places": {n: list(p) for n, p in places.items()}}
    artifact.write_text(file.with_suffix(".json"), artifact.dump_json(facts))


def _write_all(handle: int, offset: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(handle, view, offset)
        view, offset = view[written:], offset + written
