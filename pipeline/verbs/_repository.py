"""Verbs that need more than the installed package: the repository's stages, presets and graph."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import UserError

ROOT = Path(__file__).parents[2]


def folder_of(name: str) -> Path:
    """A folder of the repository, such as ``stages``. Raises UserError where only the package is installed."""
    place = ROOT / name
    if not place.is_dir():
        raise UserError(
            f"{place}: no such folder; this verb needs segpress's repository: clone it, and run in it "
            "pip install -e '.[train]'"
        )
    return place
