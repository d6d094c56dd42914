"""Runtimes: one plugin file each; other packages load engines with ``open_engine``, which checks them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline import artifact, plugins
from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.runtimes import _ranges
from pipeline.runtimes._base import CONFIDENCE, NO_CONFIDENCE, Engine, Fit, Release, Runtime

__all__ = [
    "CONFIDENCE",
    "NO_CONFIDENCE",
    "Engine",
    "Fit",
    "Release",
    "Runtime",
    "available",
    "build",
    "build_engine",
    "build_engines",
    "file_of",
    "open_engine",
]

_log = logging.getLogger(__name__)


def available() -> list[str]:
    return plugins.available("runtimes")


def build(name: str, options: dict[str, Any]) -> Runtime:
    """A runtime from its options in params.yaml.

    Raises:
        UserError: unknown or missing runtime; unknown, missing or invalid options.
    """
    _ranges.check(name, options)
    runtime: Runtime = plugins.build("runtimes", name, options)
    return runtime


def file_of(engine: Artifact) -> Path:
    """The file of an engine artifact that its runtime loads. Other files, such as options, may lie beside it."""
    plugin: type[Runtime] = plugins.load("runtimes", engine.meta["runtime"])
    return engine.file(plugin.engine_file)


def open_engine(path: Path, *, options: dict[str, Any] | None = None) -> tuple[Engine, Artifact]:
    """Load an engine artifact after checking that it is complete and was built for this machine.

    Args:
        path: engine folder (engine file and meta.json).
        options: override the runtime options that the engine was built with, e.g. ``{"threads": 1}``.

    Raises:
        UserError: not an engine, changed payload, or built on another machine or version.
    """
    source = artifact.load(path, kind="engine")
    facts = source.meta
    missing = [key for key in ("runtime", "runtime_options", "fingerprint") if key not in facts]
    if missing:
        raise UserError(f"{path / artifact.META}: missing: {', '.join(missing)}; run dvc repro -f convert here")
    runtime = build(facts["runtime"], {**facts["runtime_options"], **(options or {})})
    here = runtime.fingerprint()
    differing = [
        f"{key}: built for {value}, this machine has {here.get(key, 'none')}"
        for key, value in sorted(facts["fingerprint"].items())
        if here.get(key) != value
    ]
    if differing:
        raise UserError(
            f"{path} was built on another machine or version; engines do not move. "
            + "; ".join(differing)
            + ". Build it here with: dvc repro -f convert"
        )
    return runtime.load(source.file(runtime.engine_file)), source


def build_engines(
    runtime: Runtime,
    floats: Artifact,
    int8: Artifact,
    out: Path,
    *,
    name: str,
    options: dict[str, Any],
    release: Release | None = None,
) -> dict[str, Path]:
    """Build the engines of a student in fp32, fp16 and int8, below a folder; returns the folder of each precision.

    Args:
        floats, int8: ONNX artifacts.
        name, options, release: see :func:`build_engine`.
    """
    sources = {
        "fp32": (floats, "fp32.onnx"),
        "fp16": (floats, "fp16.onnx"),
        "int8": (int8, f"{runtime.int8_variant}.onnx"),
    }
    for doubt in _float16_doubts(floats, int8) if runtime.real_float16 else ():
        _log.warning("%s: warning: %s; use the fp32 or int8 engine, not this one", out / "fp16", doubt)
    if runtime.slow_int8:
        _log.warning("%s: warning: %s", out / "int8", runtime.slow_int8)
    for precision, (source, file) in sources.items():
        meta = {**source.facts, "precision": precision, "source": file, "parents": {source.kind: source.hash}}
        build_engine(
            runtime, source.file(file), out / precision, name=name, options=options, meta=meta, release=release
        )
    return {precision: out / precision for precision in sources}


def _float16_doubts(floats: Artifact, int8: Artifact) -> Iterator[str]:
    """Reasons why labels of the float16 engine may be wrong; artifacts of older versions have no such facts."""
    if not floats.facts.get("float16", {}).get("reliable", True):
        share = floats.facts["parity"]["agreement"]["fp16"]
        yield f"in float16 only {share:.2%} of pixels get the label of float32"
    if late := int8.facts.get("float16", {}).get("fp16_overflows"):
        yield f"in float16 it overflows on calibration frames, at {', '.join(late)}"


def build_engine(
    runtime: Runtime,
    onnx_file: Path,
    out: Path,
    *,
    name: str,
    options: dict[str, Any],
    meta: dict[str, Any],
    release: Release | None = None,
) -> None:
    """Build an engine artifact: the engine file, and its facts in meta.json.

    Args:
        name, options: key and options of the runtime plugin; recorded so that the engine is loaded as it was built.
        meta: facts of the deploy graph, ``precision`` and ``parents``.
        release: removes Q/DQ from layers with which no INT8 engine can be built; None on a device.

    Raises:
        UserError: the runtime cannot build it; no partial files remain.
    """
    facts = {**meta, "runtime": name, "runtime_options": options, "fingerprint": runtime.fingerprint()}
    with artifact.create(out, kind="engine", meta=facts) as folder:
        target = folder / runtime.engine_file
        if meta.get("precision") == "int8":
            facts["build"] = runtime.build_int8(onnx_file, target, release=release)
        else:
            facts["build"] = runtime.build(onnx_file, target)
