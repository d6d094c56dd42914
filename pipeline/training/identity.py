"""What a training run is: its settings, inputs, code and libraries. Only the same run goes on from a checkpoint."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pipeline
from pipeline import artifact

#: Libraries that decide what a step computes.
LIBRARIES = (
    "torch",
    "torchvision",
    "timm",
    "segmentation-models-pytorch",
    "accelerate",
    "numpy",
    "opencv-python",
    "onnx",
    "onnxruntime-gpu",
)
PACKAGE = Path(pipeline.__file__).parent


class Identity:
    """The facts of a run, flat: a name such as ``settings.lr`` or ``code.pipeline/losses/kd.py`` and its value.

    Args:
        settings: every value that the run was given.
        inputs: hashes of what it reads.
    """

    def __init__(self, *, settings: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
        facts = {"settings": settings, "inputs": inputs, "code": dict(_code()), "library": dict(_libraries())}
        self.facts: dict[str, Any] = json.loads(json.dumps(dict(_flat(facts))))  # as they come back from a file

    @property
    def key(self) -> str:
        """Name of the run's folder: 16 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()[:16]

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """What another run had otherwise, e.g. ``settings.lr was 0.01, is 0.02``; hashes are not spelt out."""
        found = []
        for name in sorted({*self.facts, *other}):
            now, before = self.facts.get(name), other.get(name)
            if now != before:
                spelt = name.startswith(("settings.", "library."))
                found.append(f"{name} was {before}, is {now}" if spelt else f"{name} changed")
        return found


def _code() -> Iterator[tuple[str, str]]:
    """sha256 of every module of the project that is loaded, and of the script that runs."""
    loaded = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    for file in sorted(Path(name).resolve() for name in loaded if name):
        if file.is_relative_to(PACKAGE) or file.is_relative_to(PACKAGE.parent / "stages"):
            yield file.relative_to(PACKAGE.parent).as_posix(), artifact.sha256(file)


def _libraries() -> Iterator[tuple[str, str]]:
    for name in LIBRARIES:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield from _flat(child, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value
