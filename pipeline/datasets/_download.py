"""Download with resume and progress, and unpacking that cannot leave its folder.

Used only when the user asked for it.
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
    """Download ``url`` to ``target``; a part that an earlier try left is continued.

    Args:
        url: http or https address.
        target: file to make; it appears only when it is complete.
        sha256: expected digest; None when the caller checks the content.

    Raises:
        UserError: no connection, an HTTP error, a short transfer (run it again to continue) or a wrong digest.
    """
    if not url.startswith(("https://", "http://")):
        raise UserError(f"{url}: only http and https addresses are fetched")
    if not target.exists():
        part = target.with_name(target.name + ".part")
        part.parent.mkdir(parents=True, exist_ok=True)
        _receive(url, part)
        part.replace(target)
    if sha256 is not None and (got := artifact.sha256(target)) != sha256:
        target.unlink()
        raise UserError(f"{url}: sha256 is {got}, expected {sha256}; the file was removed, fetch it again")
    return target


def _receive(url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - checked above
    text = TextColumn("{task.description}", markup=False)
    columns = (text, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            resumed = answer.status == 206
            length = answer.headers.get("Content-Length")
            total = int(length) + (have if resumed else 0) if length else None
            with Progress(*columns) as progress, part.open("ab" if resumed else "wb") as stream:
                bar = progress.add_task(url.rsplit("/", 1)[-1], total=total, completed=have if resumed else 0)
                while block := answer.read(1 << 16):
                    stream.write(block)
                    progress.advance(bar, len(block))
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the part is already everything, or not of this file: start over
            part.unlink()
            raise UserError(f"{url}: {part} does not fit this file; it was removed, run again") from error
        raise UserError(f"{url}: the server answered {error.code} {error.reason}; check the address") from error
    except (OSError, http.client.HTTPException) as error:  # no connection, or a transfer that was cut
        raise UserError(f"{url}: {getattr(error, 'reason', error)}; run again to continue where it stopped") from error
    if total is not None and part.stat().st_size != total:
        raise UserError(f"{url}: got {part.stat().st_size} of {total} bytes; run again to continue where it stopped")


@contextmanager
def unpack(archive: Path, parent: Path) -> Iterator[Path]:
    """Unpack a zip or tar into a temporary folder below ``parent``, removed at the end; move out what you keep.

    Raises:
        UserError: not an archive, a damaged one, or a member that is no plain file or folder inside (absolute,
            ``..``, a link or a device).
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
            raise UserError(f"{archive}: neither zip nor tar; remove it and fetch it again")
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        raise UserError(f"{archive}: damaged ({error}); remove it and fetch it again") from error


def _check_member(archive: Path, name: str, *, plain: bool) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"{archive}: member {name!r} leaves the folder; nothing was unpacked")
    if not plain:
        raise UserError(f"{archive}: member {name!r} is a link or a device; nothing was unpacked")
