"""PyAV is optional on the device: it is asked for here and nowhere imported at the top of a file."""

from __future__ import annotations

import importlib
from typing import Any


def load_av() -> Any | None:
    """The ``av`` module, or None when PyAV is not installed."""
    try:
        av = importlib.import_module("av")
    except ImportError:
        return None
    if av.logging.get_level() is not None:  # FFmpeg's lines may hold addresses; newer PyAV is silent
        av.logging.set_level(av.logging.PANIC)
    return av
