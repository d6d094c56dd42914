"""Artifacts: a folder of payload files with a ``meta.json`` that holds every fact about them.

The folder appears in one rename, so it is either whole or absent. ``meta.json`` names the sha256 of every payload
file; an artifact's own hash is the sha256 of that list, so equal inputs hash equal (no dates, hosts or paths).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.errors import Faults, UserError
from pipeline.labels import LabelSpec

FORMAT = 1
META = "meta.json"
#: The INT8 file for x86 CPUs, whose kernels without VNNI multiply its weights in pairs.
CPU_FILE = "int8_cpu.onnx"
AGAIN = "make the artifact again with: dvc repro -f"


@dataclass(frozen=True)
class Artifact:
    """A loaded artifact: where it lies and what its meta.json says."""

    path: Path
    meta: dict[str, Any]

    @property
    def kind(self) -> str:
        return str(self.meta["kind"])

    @property
    def hash(self) -> str:
        """sha256 over the payload list: the identity that children record as parent."""
        return files_hash(self.meta["files"])

    @property
    def facts(self) -> dict[str, Any]:
        """What its maker recorded: meta.json without the kind, the format and the payload list."""
        return {key: value for key, value in self.meta.items() if key not in ("kind", "format", "files")}

    @property
    def labels(self) -> LabelSpec:
        try:
            return LabelSpec.from_meta(self.meta)
        except UserError as error:
            raise UserError(f"{self.path / META}: {error}; {AGAIN}") from error

    def file(self, name: str) -> Path:
        """Path of a payload file; refuses names that meta.json does not list."""
        if name not in self.meta["files"]:
            raise UserError(f"{self.path} holds no '{name}'; it holds {', '.join(sorted(self.meta['files']))}")
        return self.path / name


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(stream)


def _digest(stream: Any) -> str:  # Python 3.10, which JetPack 6 has, lacks hashlib.file_digest
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def files_hash(files: Mapping[str, str]) -> str:
    """Identity of a set of files: sha256 over their sorted ``name: sha256`` list."""
    return hashlib.sha256(json.dumps(dict(files), sort_keys=True).encode()).hexdigest()


def dump_json(value: Any) -> str:
    """The one JSON style of the project: sorted keys, indented, final newline."""
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place on success: the file is old or new, never half.

    Raises:
        OSError: the place cannot be written; whatever the body raises goes on. ``path`` is then as before.
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
    """Write ``text`` to ``path`` as :func:`replacing` does."""
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def read_json(path: Path, *, advice: str) -> dict[str, Any]:
    """A JSON object from a file.

    Args:
        advice: what to do when it is missing or damaged; the end of the message.

    Raises:
        UserError: no such file, not JSON, or JSON of another kind than an object.
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
def create(path: Path, *, kind: str, meta: Mapping[str, Any]) -> Iterator[Path]:
    """Fill a temporary folder; on success hash it, add meta.json and rename it to ``path``.

    Args:
        path: the folder to make; an older artifact there is replaced as a whole. A link is followed.
        kind: what it is (``dataset``, ``network``, ``onnx``, ``engine``).
        meta: plain values; read after the body ran, so the body may add to it.

    Yields:
        the temporary folder to write payload files to. After an exception it is removed and ``path`` is as before.

    Raises:
        UserError: something else lies at ``path`` (it is never deleted), or the place cannot be written.
    """
    path = path.resolve()
    if path.exists() and not (path / META).is_file() and not _is_empty_folder(path):
        raise UserError(f"{path} is there and is no artifact; it is not replaced: move it away or choose another place")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); free the place or name another one") from error
    old = scratch.with_name(f"{scratch.name}-old")
    try:
        yield scratch
        assert not (scratch / META).exists(), f"{META} is written here; the body must not"
        names = sorted(p.relative_to(scratch).as_posix() for p in scratch.rglob("*") if p.is_file())
        facts = {**meta, "kind": kind, "format": FORMAT, "files": {name: sha256(scratch / name) for name in names}}
        (scratch / META).write_text(dump_json(facts), encoding="utf-8")
        scratch.chmod(0o755)
        _replace_folder(scratch, path, old)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
        raise


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _replace_folder(new: Path, path: Path, old: Path) -> None:
    """Rename ``new`` to ``path``; what was there goes by way of ``old``, and comes back when that fails."""
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
    """Read an artifact and check that it is what it says.

    Args:
        path: the artifact's folder.
        kind: the kind that the caller can use.
        verify: hash every payload file and compare (switch off only for large data sets).

    Raises:
        UserError: missing, of another kind or format, incomplete, or changed since it was written.
    """
    file = path / META
    if not file.is_file():
        raise UserError(f"{path}: no {META} there, so it is no artifact; make it with: dvc repro")
    meta = read_json(file, advice=AGAIN)
    missing = [key for key in ("kind", "format", "files") if key not in meta]
    if missing:
        raise UserError(f"{file}: lacks {', '.join(missing)}; {AGAIN}")
    if meta["format"] != FORMAT:
        raise UserError(f"{file}: format {meta['format']}, this version reads {FORMAT}; {AGAIN}")
    if meta["kind"] != kind:
        raise UserError(f"{path} is a '{meta['kind']}' artifact; a '{kind}' is needed here")
    files = meta["files"]
    if not isinstance(files, dict) or not all(isinstance(digest, str) for digest in files.values()):
        raise UserError(f"{file}: files must map names to sha256 digests; {AGAIN}")
    faults = Faults(str(path))
    for name, expected in files.items():
        payload = path / name
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            faults.add(f"payload '{name}' lies outside the artifact; {META} was tampered with")
        elif not payload.is_file():
            faults.add(f"payload '{name}' is missing")
        elif verify and sha256(payload) != expected:
            faults.add(f"payload '{name}' was changed after it was written (its sha256 is not the one in {META})")
    faults.raise_if_any(advice=f"do not use it; {AGAIN}")
    return Artifact(path=path, meta=meta)
