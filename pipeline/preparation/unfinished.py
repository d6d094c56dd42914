"""A preparation that is not finished: its files and the facts of its samples, from which an interrupted run resumes.

The folder ``.<name>.unfinished`` beside the data set has ``files/``, which becomes the data set, ``identity.json``, and
``records``: one entry of fixed size per sample, written after its files. A sample is complete if its record is whole
and both files have the sha256 of the record; others are prepared again.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from pipeline import artifact
from pipeline.errors import UserError
from pipeline.preparation.copies import SIDE
from pipeline.preparation.survey import Sample
from pipeline.prepared import JPEG, PNG

log = logging.getLogger(__name__)

FORMAT = 1
SHA256 = 32  # bytes
SUFFIXES = (PNG, JPEG)  # of images; a record has the index
RECORD = np.dtype(
    [
        ("size", "<u4", 2), ("histogram", "<u4", 256), ("thumbnail", "u1", SIDE * SIDE), ("pixels", "u1", SHA256),
        ("ids", "u1", SHA256), ("image", "u1", SHA256), ("label", "u1", SHA256), ("suffix", "u1"), ("crc32", "<u4"),
    ]
)  # fmt: skip


class Unfinished:
    """The folder of a preparation, as a context manager that holds a lock on it.

    The folder is removed at the end, and after a UserError: then the data set must change. After any other exception
    (an interruption, a full disk) it stays, and the next run with an equal identity resumes.

    Args:
        out: the prepared data set.
        identity: facts that must be equal to resume, as plain values: data, options, code, libraries.
        samples: (split, name) of every sample.
        resumable: whether the folder stays after an interruption. If not, what a killed run left is removed.

    Attributes:
        files: folder for the files of the data set.
        digests: sha256 of the files of all complete samples, by name.
    """

    def __init__(
        self, out: Path, *, identity: Mapping[str, Any], samples: Sequence[tuple[str, str]], resumable: bool
    ) -> None:
        out = out.resolve()
        self.folder = out.with_name(f".{out.name}.unfinished")
        self.files = self.folder / "files"
        self.digests: dict[str, str] = {}
        self._out = out
        self._identity = artifact.dump_json({**identity, "format": FORMAT})
        self._numbers = {sample: number for number, sample in enumerate(samples)}
        self._resumable = resumable

    def __enter__(self) -> Unfinished:
        self._lock = self._locked()
        if not self._same_identity():
            self._clear()
            artifact.write_text(self.folder / "identity.json", self._identity)
        self._records = os.open(self.folder / "records", os.O_RDWR | os.O_CREAT, 0o644)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._records)
        if isinstance(error, OSError) and error.filename is None:  # a full disk
            error.filename = os.fspath(self.files)
        if kind is None or issubclass(kind, UserError) or not self._resumable:
            shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)

    def recall(self, split: str, name: str) -> Sample | None:
        """The facts of a sample that an earlier run completed; None if it must be prepared."""
        data = os.pread(self._records, RECORD.itemsize, self._numbers[split, name] * RECORD.itemsize)
        if len(data) < RECORD.itemsize:
            return None
        record = np.frombuffer(data, RECORD)[0]
        if int(record["crc32"]) != _checksum(data):
            return None
        files = {
            f"{split}/images/{name}{SUFFIXES[record['suffix']]}": record["image"].tobytes().hex(),
            f"{split}/labels/{name}.png": record["label"].tobytes().hex(),
        }
        for file, expected in files.items():
            if not (self.files / file).is_file() or artifact.sha256(self.files / file) != expected:
                return None
        self.digests.update(files)
        height, width = record["size"].tolist()
        return Sample(
            digest=record["pixels"].tobytes(),
            label_digest=record["ids"].tobytes(),
            thumbnail=record["thumbnail"].copy(),
            size=(height, width),
            histogram=record["histogram"].astype(np.int64),
        )

    def keep(self, split: str, name: str, sample: Sample, *, image: Path, label: Path) -> None:
        """Record a sample whose files are complete."""
        files = {file.relative_to(self.files).as_posix(): artifact.sha256(file) for file in (image, label)}
        record = np.zeros((), RECORD)
        record["size"], record["histogram"], record["thumbnail"] = sample.size, sample.histogram, sample.thumbnail
        hashes = (sample.digest, sample.label_digest, *map(bytes.fromhex, files.values()))
        for field, value in zip(("pixels", "ids", "image", "label"), hashes, strict=True):
            record[field] = np.frombuffer(value, np.uint8)
        record["suffix"] = SUFFIXES.index(image.suffix)
        record["crc32"] = _checksum(record.tobytes())
        os.pwrite(self._records, record.tobytes(), self._numbers[split, name] * RECORD.itemsize)
        self.digests.update(files)

    def _locked(self) -> int:
        """The folder as an open file that has the lock. Where the file system has no locks, none is taken."""
        while True:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                handle = os.open(self.folder, os.O_RDONLY)
            except OSError as error:
                raise UserError(
                    f"{self._out}: cannot be written ({error.strerror}); fix this or choose another path"
                ) from error
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                raise UserError(f"{self.folder}: another process prepares this data set; wait until it ends") from None
            except OSError:
                return handle
            if self.folder.exists() and os.path.samestat(os.fstat(handle), self.folder.stat()):
                return handle
            os.close(handle)  # the process that had the lock has removed the folder

    def _same_identity(self) -> bool:
        if not self._resumable:
            return False
        try:
            same = (self.folder / "identity.json").read_bytes() == self._identity.encode()
        except FileNotFoundError:
            return False
        if same:
            log.info("%s: an interrupted run is resumed; samples that are complete are kept", self._out)
        else:
            log.info("%s: an interrupted run had other data, options or code; its files are removed", self._out)
        return same

    def _clear(self) -> None:
        for entry in self.folder.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def _checksum(record: bytes) -> int:
    """CRC of a record without its last field, which holds it. It is not 0 for a record of zeros (a gap in the file)."""
    return zlib.crc32(record[: -RECORD["crc32"].itemsize])
