"""The times that TensorRT measured when it chose kernels: the next build is faster and chooses the same kernels."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import artifact
from pipeline.errors import UserError

logger = logging.getLogger(__name__)


def place(folder: Path, facts: Mapping[str, Any]) -> Path:
    """The file for these facts: a cache is valid for one version, one GPU and one set of flags only.

    Args:
        facts: version, GPU, compute capability and every flag that changes the measurements.
    """
    digest = hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode()).hexdigest()
    return folder / f"{digest[:16]}.cache"


def attach(config: Any, file: Path) -> str:
    """Give the builder the cache of a file, or an empty one; returns ``read``, ``new`` or ``replaced``.

    A damaged file, or one of another device, is ignored with a warning; :func:`keep` replaces it.
    """
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        content = b""
    except OSError as error:
        raise UserError(f"{file}: the timing cache cannot be read ({error.strerror}); name another folder") from error
    if content:
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):  # False: refuse those of other devices
            return "read"
        logger.warning("%s: the timing cache is damaged or of another device; it is replaced", file)
    config.set_timing_cache(config.create_timing_cache(b""), False)
    return "replaced" if content else "new"


def keep(config: Any, file: Path) -> None:
    """Write the builder's cache."""
    try:
        with artifact.replacing(file) as scratch:
            scratch.write_bytes(memoryview(config.get_timing_cache().serialize()))
    except OSError as error:
        raise UserError(
            f"{file}: the timing cache cannot be written ({error.strerror}); free disk space or name another folder"
        ) from error
