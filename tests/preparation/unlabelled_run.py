"""Run the preparation of frames without labels, and read what it wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.frames import Array, write_png
from pipeline.preparation.frame_sources import find_files
from pipeline.preparation.unlabelled import prepare_unlabelled
from pipeline.prepared import Prepared


def run(labelled: Prepared, out: Path, *sources: Path | str, **options: Any) -> tuple[dict[str, Any], list[str]]:
    """Prepare; the counts of meta.json, and the warnings."""
    warnings: list[str] = []
    options = {"every": "auto", "duplicates": 0.995, "workers": 2, **options}
    files = find_files([str(source) for source in sources])
    facts = prepare_unlabelled(files, out, prepared=labelled, warn=warnings.append, **options)
    return facts["unlabelled"], warnings


def refused(labelled: Prepared, out: Path, *sources: Path | str, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        run(labelled, out, *sources, **options)
    assert not out.exists() and not [path for path in out.parent.iterdir() if path.name.startswith(".")]
    return str(error.value)


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "frames.jsonl").read_text(encoding="utf-8").splitlines()]


def left_out(out: Path) -> dict[str, tuple[str, str | None]]:
    """Name -> reason and the frame that it is like."""
    return {line["name"]: (line["left_out"], line["like"]) for line in lines(out) if line["left_out"]}


def save(folder: Path, **frames: Array) -> Path:
    for name, frame in frames.items():
        write_png(folder / f"{name}.png", frame)
    return folder


def bytes_of(out: Path) -> dict[str, bytes]:
    return {file.relative_to(out).as_posix(): file.read_bytes() for file in out.rglob("*") if file.is_file()}
