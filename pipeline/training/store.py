"""A split whose frames are decoded once: all frames and labels in one memory-mapped file that processes share.

Decoding is most of the cost of loading a crop. The file is filled while training runs: the process that draws a sample
first decodes it and writes it into the file, and from then on every process reads it there. So training starts at once,
and the first turn through the split costs what it costs without the file. Results do not depend on it: it holds the
decoded bytes.

It is written beside the data set, ``.decoded/<hash of the data set>/<split>.raw``, and may be deleted at any time. The
pixels of all samples come first, then one byte per sample: 1 if its pixels are complete. After a crash of the machine
the file is begun again, unless all of it was on the disk: a byte might have been stored, and its pixels not. For the
same reason only one machine fills a file in a shared folder; the others decode until it is complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from pipeline import artifact
from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.prepared import Prepared, Split
from pipeline.settings.param_types import StoreMode
from pipeline.training.free_memory import free_memory

log = logging.getLogger(__name__)

FOLDER = ".decoded"
FORMAT = 2
#: ``auto``: the file may take this share of the free memory, whose file cache then holds it, and of the free disk.
MEMORY_SHARE, DISK_SHARE = 0.25, 0.5
CHANNELS = 4  # bytes per pixel: blue, green, red, label
COMPLETE = 1
MIB = 2**20
BLOCK = 512  # bytes in the unit of st_blocks
BOOT = Path("/proc/sys/kernel/random/boot_id")


class Place(NamedTuple):
    """Where a sample is in the file: offsets of its pixels and of its byte ``complete``, height and width."""

    offset: int
    complete: int
    height: int
    width: int


class _Mapped(NamedTuple):
    """The file: open, for writing where that is possible, and mapped, (n,), read-only."""

    stream: BinaryIO
    content: Array


@dataclass(frozen=True, kw_only=True)
class Stored(Split):
    """A split whose samples are read-only views into the decoded file.

    A sample that the file does not have yet is decoded and added. A pickle of the split (for workers that are not
    forked) contains the path, not the pixels. As long as the split or a view exists, its file is locked as in use.
    """

    file: Path
    places: Mapping[str, Place]

    def __post_init__(self) -> None:
        _ = self._mapped

    def __getitem__(self, index: int) -> tuple[Array, Array]:
        place, content = self.places[self.names[index]], self._mapped.content
        if content[place.complete] != COMPLETE:
            return self._add(index, place)
        area = place.height * place.width
        frame = content[place.offset : place.offset + 3 * area].reshape(place.height, place.width, 3)
        label = content[place.offset + 3 * area : place.offset + CHANNELS * area].reshape(place.height, place.width)
        return frame, label

    def frame(self, index: int) -> Array:
        return self[index][0]

    def label(self, index: int) -> Array:
        return self[index][1]

    def _add(self, index: int, place: Place) -> tuple[Array, Array]:
        """Decode a sample and write it into the file. Several processes may do so at once: they write equal bytes."""
        frame, label = self.read(index)
        if frame.shape[:2] != (place.height, place.width) or label.shape != (place.height, place.width):
            raise UserError(
                f"{self.image_file(index)}: {place.height}x{place.width} in its header, decoded {frame.shape[:2]}, "
                f"its label {label.shape}; {artifact.AGAIN} {self.stage}"
            )
        with contextlib.suppress(OSError):  # full disk, or another user's file: it is decoded again the next time
            handle = self._mapped.stream.fileno()
            _write_all(handle, place.offset, frame.tobytes() + label.tobytes())
            os.pwrite(handle, bytes([COMPLETE]), place.complete)
        return frame, label

    @functools.cached_property
    def _mapped(self) -> _Mapped:
        try:
            stream: Any = self.file.open("r+b", buffering=0)
        except OSError:  # another user's file, or a read-only file system
            stream = self.file.open("rb", buffering=0)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(stream, fcntl.LOCK_SH)
        return _Mapped(stream, np.asarray(np.memmap(stream, np.uint8, mode="r")))

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_mapped"}


def open_split(
    prepared: Prepared,
    name: str,
    *,
    mode: StoreMode,
    folder: Path | None = None,
    say: Callable[[str], object] = log.info,
) -> Split:
    """A split, with a decoded file if ``mode`` asks for one. Several processes may call this at once.

    Args:
        name: of the split.
        mode: ``none`` decodes each time; ``decoded`` keeps what was decoded in the file; ``auto`` does so if the file
            takes at most a quarter of the free memory and half of the free disk.
        folder: folder for the decoded files of all data sets; None: beside the data set.
        say: called with a line when the file is begun, or with the reason why there is none.

    Raises:
        UserError: no such split, or an image without a readable header; with ``decoded`` also a disk that cannot be
            written or is too full.
    """
    split = prepared.split(name)
    if mode == "none":
        return split
    digest = prepared.artifact.hash
    base = prepared.artifact.path.resolve().parent / FOLDER if folder is None else folder
    file = base / digest[:16] / f"{name}.raw"
    stored = functools.partial(Stored, **vars(split), file=file)
    try:
        if (places := _ready(file, digest)) is not None:
            return stored(places=places)
        planned, size = _layout(split)
        reason = _too_large(size, file) if mode == "auto" else ""
        if not reason:
            with _locked(file.with_name(f"{name}.lock")):
                if (places := _ready(file, digest)) is not None:
                    return stored(places=places)
                if not _in_use(file):
                    _begin(file, split, places=planned, size=size, digest=digest, say=say)
                    return stored(places=planned)
            reason = f"another run fills {file}, on another machine"
    except OSError as error:
        if mode == "decoded":
            raise UserError(
                f"{file}: cannot be written ({error.strerror}); free the place, or set store: none"
            ) from error
        reason = f"{file} cannot be written ({error.strerror})"
    say(f"{name}: frames are decoded each time; {reason}")
    return split


def _ready(file: Path, digest: str) -> dict[str, Place] | None:
    """The index of a file that may be used, or None. If all of the file is complete, this is noted for later boots."""
    try:
        index = artifact.read_json(file.with_suffix(".json"), advice="")
        same = index["dataset"] == digest and index["format"] == FORMAT and file.stat().st_size == index["bytes"]
        if not same or index["boot"] not in (None, _boot()):
            return None
        places = {name: Place(*place) for name, place in index["places"].items()}
        if index["boot"] is not None and _is_complete(file, len(places)):
            with contextlib.suppress(OSError):  # another user's folder, or a read-only file system
                artifact.write_text(file.with_suffix(".json"), artifact.dump_json({**index, "boot": None}))
        return places
    except (UserError, OSError, KeyError, TypeError):
        return None


def _is_complete(file: Path, count: int) -> bool:
    """Whether all ``count`` samples are in the file; if so, they are on the disk when this returns."""
    with file.open("rb") as stream:
        stream.seek(-count, os.SEEK_END)
        complete = stream.read() == bytes([COMPLETE]) * count
        if complete:
            os.fsync(stream.fileno())
    return complete


@functools.cache
def _boot() -> str:
    """Changes with every start of the machine; where the system does not say, with every process."""
    with contextlib.suppress(OSError):
        return BOOT.read_text(encoding="ascii").strip()
    return uuid.uuid4().hex


def _layout(split: Split) -> tuple[dict[str, Place], int]:
    """The place of each sample, from the headers of the images, and the size of the file in bytes."""
    sizes = [_size(split.image_file(index), stage=split.stage) for index in range(len(split))]
    end = sum(CHANNELS * height * width for height, width in sizes)
    places: dict[str, Place] = {}
    offset = 0
    for number, (name, (height, width)) in enumerate(zip(split.names, sizes, strict=True)):
        places[name] = Place(offset, end + number, height, width)
        offset += CHANNELS * height * width
    return places, end + len(sizes)


def _size(path: Path, *, stage: str) -> tuple[int, int]:
    """(height, width) from an image's header."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except UnidentifiedImageError:
        raise UserError(f"{path}: no image file; {artifact.AGAIN} {stage}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {artifact.AGAIN} {stage}") from error


def _too_large(size: int, file: Path) -> str:
    """Why ``auto`` writes no file; empty if it may write one."""
    memory = free_memory(torch.device("cpu"))
    disk, needed = _free_disk(file), f"decoded they take {size / MIB:.0f} MiB"
    if memory is not None and size > MEMORY_SHARE * memory:
        return f"{needed}, a quarter of the free memory is {MEMORY_SHARE * memory / MIB:.0f}"
    if size > DISK_SHARE * disk:
        return f"{needed}, half of the free disk is {DISK_SHARE * disk / MIB:.0f}"
    return ""


def _free_disk(file: Path) -> int:
    """Bytes that a new file may take in place of ``file``."""
    existing = next(path for path in (file, *file.parents) if path.exists())
    own = existing.stat().st_blocks * BLOCK if existing == file else 0
    return shutil.disk_usage(existing).free + own


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold a lock on a file; the system releases the lock of a process that ends."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _in_use(file: Path) -> bool:
    """Whether a split has this file open, on any machine. Processes of one machine share a file, others must not."""
    try:
        with file.open("r+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:  # other errors: no such file, or a file system without locks
        return isinstance(error, BlockingIOError)
    return False


def _begin(
    file: Path, split: Split, *, places: Mapping[str, Place], size: int, digest: str, say: Callable[[str], object]
) -> None:
    """Begin a file without samples. It takes space on the disk as samples are added."""
    if size > _free_disk(file):
        raise UserError(
            f"{file}: the decoded frames of {split.name} take {size / MIB:.0f} MiB, "
            f"{_free_disk(file) / MIB:.0f} are free; free some, or set store: none"
        )
    say(f"{split.name}: {len(split)} frames are decoded once, into {file}, {size / MIB:.0f} MiB; you may delete it")
    file.with_suffix(".json").unlink(missing_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    with partial.open("wb") as stream:
        stream.seek(size - len(places))
        stream.write(bytes(len(places)))  # on a full tmpfs, reading a byte that was never written ends the process
    partial.replace(file)
    facts = {
        "dataset": digest, "format": FORMAT, "bytes": size, "boot": _boot(),
        "places": {name: list(place) for name, place in places.items()},
    }  # fmt: skip
    artifact.write_text(file.with_suffix(".json"), artifact.dump_json(facts))


def _write_all(handle: int, offset: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(handle, view, offset)
        view, offset = view[written:], offset + written
