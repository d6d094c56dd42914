"""Data sets: one plugin per file. ``datasets.streets`` in params.yaml holds the options of ``streets.py``."""

from __future__ import annotations

from typing import Any

from pipeline import plugins
from pipeline.datasets._base import Dataset

__all__ = ["Dataset", "available", "build"]


def available() -> list[str]:
    return plugins.available("datasets")


def build(name: str, options: dict[str, Any], **offered: Any) -> Dataset:
    dataset: Dataset = plugins.build("datasets", name, options, **offered)
    return dataset
