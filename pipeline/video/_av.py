"""PyAV is optional on the device: it is asked for here and nowhere imported at the top of a file."""

from __future__ import annotations

import importlib
from typing import Any


def load_av() -> Any | None:
    """The ``av`` module, or None when PyAV is not installed."""
    try:
        return importlib.import_module("av")
    except ImportError:
        return None
