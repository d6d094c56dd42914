"""Download files with resume and progress, and unpack archives; unpacking writes nothing outside its folder.

This code runs only if the user sets ``download: true``.
"""

from __future__ import annotations

import http.client
import shutil
import stat
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from pipeline import artifact
from pipeline.errors import UserError

TIMEOUT_S = 30


def fetch(url: str, target: Path, *, sha256: str | None = None) -> Path:
    """Download ``url`` to ``target``. If an earlier download stopped, it resumes there.

    Args:
        url: http or https address.
        target: file to write; it exists only after the download is complete.
        sha256: expected digest; None: the caller checks the content.

    Raises:
        UserError: no connection, an HTTP error, an incomplete download (run again to resume) or a wrong digest.
    """
    if not url.startswith(("https://", "http://")):
        raise UserError(f"{url}: allowed: http and https addresses")
    if not target.exists():
        part = target.with_name(target.name + ".part")
        part.parent.mkdir(parents=True, exist_ok=True)
        _receive(url, part)
        part.replace(target)
    if sha256 is not None and (got := artifact.sha256(target)) != sha256:
        target.unlink()
        raise UserError(f"{url}: sha256 is {got}, expected {sha256}; the file was removed; download it again")
    return target


def _receive(url: str, part: Path) -> None:
    done = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={done}-"} if done else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - checked above
    text = TextColumn("{task.description}", markup=False)
    columns = (text, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310
            resumed = response.status == 206
            length = response.headers.get("Content-Length")
            total = int(length) + (done if resumed else 0) if length else None
            with Progress(*columns) as progress, part.open("ab" if resumed else "wb") as stream:
                bar = progress.add_task(url.rsplit("/", 1)[-1], total=total, completed=done if resumed else 0)
                while block := response.read(1 << 16):
                    stream.write(block)
                    progress.advance(bar, len(block))
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the partial file is already complete, or belongs to another file: start again
            part.unlink()
            raise UserError(f"{url}: {part} is not a part of this file; it was removed; run again") from error
        raise UserError(f"{url}: the server answered {error.code} {error.reason}; check the address") from error
    except (OSError, http.client.HTTPException) as error:  # no connection, or the connection broke
        raise UserError(f"{url}: {getattr(error, 'reason', error)}; run again to resume the download") from error
    if total is not None and part.stat().st_size != total:
        raise UserError(f"{url}: got {part.stat().st_size} of {total} bytes; run again to resume the download")


@contextmanager
def unpack(archive: Path, parent: Path) -> Iterator[Path]:
    """Unpack a zip or tar file into a temporary folder below ``parent``.

    The folder is removed at the end: move the files that you need out of it.

    Raises:
        UserError: the file is not an archive, or is damaged, or has an unsafe member: an absolute path, a path with
            ``..``, a link or a device.
    """
    scratch = Path(tempfile.mkdtemp(prefix=".unpack-", dir=parent))
    try:
        _extract(archive, scratch)
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _extract(archive: Path, folder: Path) -> None:
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as bundle:
                for entry in bundle.infolist():
                    kind = stat.S_IFMT(entry.external_attr >> 16)
                    _check_member(archive, entry.filename, plain=kind in (0, stat.S_IFREG, stat.S_IFDIR))
                bundle.extractall(folder)  # noqa: S202 - every member was checked
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tape:
                for member in tape.getmembers():
                    _check_member(archive, member.name, plain=member.isfile() or member.isdir())
                tape.extractall(folder, filter="data")
        else:
            raise UserError(f"{archive}: not a zip or tar file; remove it and download it again")
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        raise UserError(f"{archive}: damaged ({error}); remove it and download it again") from error


def _check_member(archive: Path, name: str, *, plain: bool) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"{archive}: member {name!r} would be written outside the folder; nothing was unpacked")
    if not plain:
        raise UserError(f"{archive}: member {name!r} is a link or a device; nothing was unpacked")
