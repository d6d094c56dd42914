"""Identity of a training run: its settings, inputs, code and libraries. Only the same run resumes from a checkpoint."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import pipeline
from pipeline import artifact
from pipeline.training.settings import TrainingSettings

#: Libraries whose versions can change what a step computes.
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
        settings: of the run; every field counts.
        inputs: hashes and options of the run's inputs.
    """

    def __init__(self, settings: TrainingSettings, inputs: Mapping[str, Any]) -> None:
        facts = {
            "settings": asdict(settings), "inputs": inputs, "library": dict(_libraries()), "code": dict(_code()),
        }  # fmt: skip
        self.facts: dict[str, Any] = json.loads(json.dumps(dict(_flat(facts))))  # as a file returns them

    @property
    def key(self) -> str:
        """Name of the run's folder: 16 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()[:16]

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """How another run differs, settings first, e.g. ``settings.lr was 0.01, is 0.02``; hashes are not printed.

        Args:
            other: facts of the other run; an earlier version of segpress may have written them, under other names.
        """
        return [
            self._difference(name, other)
            for name in (*self.facts, *sorted(other.keys() - self.facts.keys()))
            if name not in self.facts or name not in other or self.facts[name] != other[name]
        ]

    def _difference(self, name: str, other: Mapping[str, Any]) -> str:
        if name not in other or name not in self.facts:
            return f"{name} is {'new' if name in self.facts else 'gone'}"
        if name.startswith(("settings.", "library.")):
            return f"{name} was {other[name]}, is {self.facts[name]}"
        return f"{name} changed"


def _code() -> Iterator[tuple[str, str]]:
    """sha256 of every module of the project that is loaded, and of the script that runs."""
    loaded = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    ours = tuple(f"{PACKAGE.parent / folder}{os.sep}" for folder in (PACKAGE.name, "stages"))
    real = {_real_path(name) for name in loaded if name}
    for file in sorted(Path(name) for name in real if name.startswith(ours)):
        yield file.relative_to(PACKAGE.parent).as_posix(), artifact.sha256(file)


@functools.cache
def _real_path(name: str) -> str:
    """Thousands of modules are loaded, and each look at the disk takes 0.1 ms."""
    return os.path.realpath(name)


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
