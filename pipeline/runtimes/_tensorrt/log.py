"""The log of TensorRT: errors of a build are collected, so that they can be part of one message."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import ModuleType
from typing import Any

#: Number of errors to keep per build: the last ones.
KEPT = 30


@lru_cache
def logger_of(trt: ModuleType) -> Any:
    """The logger of a library: one per process, because TensorRT keeps the first one that it gets.

    Inside :func:`collecting` errors are collected, elsewhere they go to Python's log; other messages are dropped.
    """
    base: Any = trt.ILogger
    severe = (base.ERROR, base.INTERNAL_ERROR)

    class Collector(base):  # type: ignore[misc] # the library is known only at run time
        def __init__(self) -> None:
            base.__init__(self)  # the bindings require this form
            self.lines: deque[str] | None = None

        def log(self, severity: Any, msg: str) -> None:
            if severity not in severe:
                return
            if self.lines is not None:
                self.lines.append(msg)
            else:
                logging.getLogger(__name__).error("%s: %s", trt.__name__, msg)

    return Collector()


@contextmanager
def collecting(logger: Any) -> Iterator[deque[str]]:
    """Collect the last errors that the library logs inside the block; they are not printed."""
    logger.lines = deque(maxlen=KEPT)
    try:
        yield logger.lines
    finally:
        logger.lines = None
