"""Artifacts: a folder of payload files with a ``meta.json`` that holds every fact about them.

One rename creates the folder, so it is either complete or absent. ``meta.json`` lists the sha256 of every payload file,
and the hash of an artifact is the sha256 of that list. Equal inputs give equal hashes: nothing depends on dates, hosts
or paths.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.errors import Problems, UserError
from pipeline.labels import LabelSpec

FORMAT = 1
META = "meta.json"
COPIED_AT_ONCE = 1 << 30  # bytes per call of copy_file_range
#: The INT8 file for x86 CPUs; kernels without VNNI multiply its weights in pairs.
CPU_FILE = "int8_cpu.onnx"
AGAIN = "write the artifact again with: dvc repro -f"


class Facts(dict[str, Any]):
    """Facts of a meta.json. A fact that is absent, because another version wrote the file, is a user error.

    Args:
        facts: as JSON has them; sections inside become :class:`Facts` too.
        file: the meta.json.
        section: keys of the section that holds these facts; none: the whole file.
    """

    def __init__(self, facts: Mapping[str, Any], *, file: Path, section: tuple[str, ...] = ()) -> None:
        super().__init__(
            {
                key: Facts(value, file=file, section=(*section, key)) if isinstance(value, dict) else value
                for key, value in facts.items()
            }
        )
        self._file, self._section = file, section

    def __missing__(self, key: str) -> Any:
        raise UserError(f"{self._file}: missing: {'.'.join((*self._section, key))}; another version wrote it; {AGAIN}")


@dataclass(frozen=True)
class Artifact:
    """A loaded artifact: its folder and the content of its meta.json."""

    path: Path
    meta: dict[str, Any]

    @property
    def kind(self) -> str:
        return str(self.meta["kind"])

    @property
    def hash(self) -> str:
        """sha256 over the payload list; artifacts that are built from this one record it as their parent."""
        return files_hash(self.meta["files"])

    @property
    def facts(self) -> dict[str, Any]:
        """The facts in meta.json: everything but the kind, the format and the payload list."""
        return {key: value for key, value in self.meta.items() if key not in ("kind", "format", "files")}

    @property
    def labels(self) -> LabelSpec:
        try:
            return LabelSpec.from_meta(dict(self.meta))
        except UserError as error:
            raise UserError(f"{self.path / META}: {error}; {AGAIN}") from error

    def file(self, name: str) -> Path:
        """Path of a payload file. Raises UserError for a name that meta.json does not list."""
        if name not in self.meta["files"]:
            raise UserError(f"{self.path} has no file '{name}'; its files: {', '.join(sorted(self.meta['files']))}")
        return self.path / name


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(stream)


def _digest(stream: Any) -> str:  # Python 3.10 (on JetPack 6) has no hashlib.file_digest
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def files_hash(files: Mapping[str, str]) -> str:
    """Identity of a set of files: sha256 over the sorted list of ``name: sha256``."""
    return hashlib.sha256(json.dumps(dict(files), sort_keys=True).encode()).hexdigest()


def copy_file(source: Path, target: Path) -> None:
    """Copy the content of a file; the folder of ``target`` is created. Where the file system can, both files share
    their blocks (reflink), and only the block that is written to is copied. The copy is never a link, so no program can
    write through it into ``source``.

    ``copy_file_range`` clones on XFS and Btrfs, copies on the server with NFS 4.2 and inside the kernel elsewhere.
    Source: man 2 copy_file_range.

    Raises:
        OSError: ``source`` cannot be read, or ``target`` cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb", buffering=0) as reader, target.open("wb") as writer:
        with suppress(OSError, AttributeError):  # two file systems; macOS has no such function
            while os.copy_file_range(reader.fileno(), writer.fileno(), COPIED_AT_ONCE):
                pass
        shutil.copyfileobj(reader, writer)  # from where the kernel stopped: usually the end


def dump_json(value: Any) -> str:
    """A value as JSON in the style of the project: sorted keys, indented, final newline."""
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that replaces it on success: ``path`` is the old or the new file, never partial.

    Raises:
        OSError: the folder cannot be written. Exceptions of the body pass through. After any of them ``path`` is
            unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    scratch = Path(name)
    try:
        yield scratch
        scratch.chmod(0o644)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``, which is never partial, see :func:`replacing`."""
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def read_json(path: Path, *, advice: str) -> dict[str, Any]:
    """Read a JSON object from a file.

    Args:
        advice: what to do if the file is missing or damaged; the end of the message.

    Raises:
        UserError: the file is missing, is not JSON, or holds another JSON value than an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {advice}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); {advice}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds a {type(value).__name__} where a JSON object is needed; {advice}")
    return value


@contextmanager
def create(
    path: Path, *, kind: str, meta: Mapping[str, Any], scratch: Path | None = None,
    digests: Mapping[str, str] | None = None,
) -> Iterator[Path]:  # fmt: skip
    """Fill a temporary folder; on success hash it, add meta.json and rename it to ``path``.

    Args:
        path: the folder to create; it replaces an older artifact there as a whole. A link is followed.
        kind: kind of the artifact (``dataset``, ``network``, ``onnx``, ``engine``).
        meta: facts as plain values; read after the body ran, so the body may add to it.
        scratch: the temporary folder, on the file system of ``path``; it may have files, and it stays after an
            exception. None: a new one, which is removed after an exception.
        digests: sha256 of payload files by name, as far as the body knows them; read after the body ran.

    Yields:
        a temporary folder for payload files. After an exception ``path`` is unchanged.

    Raises:
        UserError: ``path`` exists and is no artifact (it is never deleted), or its folder cannot be written.
    """
    path = path.resolve()
    if path.exists() and not (path / META).is_file() and not _is_empty_folder(path):
        raise UserError(f"{path} exists and is no artifact, so it is not replaced; move it or choose another path")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = scratch or Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / META).unlink(missing_ok=True)  # it remains if a run was killed during its last renames, as `old` does
        old = folder.with_name(f"{folder.name}-old")
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); fix this or choose another path") from error
    try:
        yield folder
        assert not (folder / META).exists(), f"create() writes {META}; the body must not"
        names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        known = digests or {}
        files = {name: known.get(name) or sha256(folder / name) for name in names}
        facts = {**meta, "kind": kind, "format": FORMAT, "files": files}
        (folder / META).write_text(dump_json(facts), encoding="utf-8")
        folder.chmod(0o755)
        _replace_folder(folder, path, old)
    except BaseException:
        if scratch is None:
            shutil.rmtree(folder, ignore_errors=True)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
        raise


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _replace_folder(new: Path, path: Path, old: Path) -> None:
    """Rename ``new`` to ``path``; an older folder there becomes ``old`` first, and comes back after an error."""
    try:
        if path.exists():
            path.rename(old)
        new.rename(path)
    except BaseException:
        if old.exists() and not path.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def load(path: Path, *, kind: str, verify: bool = True) -> Artifact:
    """Load an artifact and check it against its meta.json.

    Args:
        path: the artifact's folder.
        kind: the kind that the caller needs.
        verify: hash every payload file and compare it with meta.json (switch off only for large data sets).

    Raises:
        UserError: the artifact is missing, incomplete, of another kind or format, or was changed after it was written.
    """
    file = path / META
    if not file.is_file():
        raise UserError(f"{path}: has no {META}, so it is no artifact; create it with: dvc repro")
    meta = read_json(file, advice=AGAIN)
    missing = [key for key in ("kind", "format", "files") if key not in meta]
    if missing:
        raise UserError(f"{file}: missing: {', '.join(missing)}; {AGAIN}")
    if meta["format"] != FORMAT:
        raise UserError(f"{file}: got format {meta['format']}; allowed: {FORMAT}; {AGAIN}")
    if meta["kind"] != kind:
        raise UserError(f"{path}: got an artifact of kind '{meta['kind']}'; needed: '{kind}'; pass another folder")
    files = meta["files"]
    if not isinstance(files, dict) or not all(isinstance(digest, str) for digest in files.values()):
        raise UserError(f"{file}: files must map names to sha256 digests; {AGAIN}")
    problems = Problems(str(path))
    for name, expected in files.items():
        payload = path / name
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            problems.add(f"payload '{name}' is outside the artifact's folder; {META} was changed")
        elif not payload.is_file():
            problems.add(f"payload '{name}' is missing")
        elif verify and sha256(payload) != expected:
            problems.add(f"payload '{name}' was changed after it was written (its sha256 is not the one in {META})")
    problems.raise_if_any(advice=f"do not use it; {AGAIN}")
    return Artifact(path=path, meta=Facts(meta, file=file))
