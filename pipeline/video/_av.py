"""PyAV is optional on the device: it is imported here, and nowhere at the top of a file."""

from __future__ import annotations

import importlib
from typing import Any

from pipeline.errors import UserError

_OLDEST = 17  # as in pyproject.toml


def load_av() -> Any | None:
    """The ``av`` module; None if PyAV is not installed. Raises UserError if it is too old."""
    try:
        av = importlib.import_module("av")
    except ImportError:
        return None
    if int(av.__version__.partition(".")[0]) < _OLDEST:
        raise UserError(f"PyAV {av.__version__} is too old; needed: {_OLDEST} or newer: pip install 'av>={_OLDEST}'")
    if av.logging.get_level() is not None:  # another part of the program wants FFmpeg's lines, which may show addresses
        av.logging.set_level(av.logging.PANIC)
    return av
