"""Data sets: one plugin per file. ``datasets.streets`` in params.yaml holds the options of ``streets.py``."""

from __future__ import annotations

from typing import Any

from pipeline import option_values, plugins
from pipeline.datasets._base import Dataset

__all__ = ["Dataset", "available", "build"]


def available() -> list[str]:
    """Names of the data sets, sorted."""
    return plugins.available("datasets")


def build(name: str, options: dict[str, Any], **offered: Any) -> Dataset:
    """A data set.

    Args:
        name: of the plugin.
        options: by key, as in params.yaml.
        offered: facts of the run, see :func:`pipeline.plugins.build`.

    Raises:
        UserError: unknown data set; unknown, missing or invalid options; and see the class of the data set.
    """
    option_values.check("datasets", name, options)
    dataset: Dataset = plugins.build("datasets", name, options, **offered)
    return dataset
