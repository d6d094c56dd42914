"""The log of TensorRT: errors are kept while something is built, so that they can be part of one message."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import ModuleType
from typing import Any

#: Errors that are kept of one build, the last ones.
KEPT = 30


@lru_cache
def logger_of(trt: ModuleType) -> Any:
    """The logger of a library: one a process, because TensorRT keeps to the first that it was given.

    Inside :func:`collecting` errors are kept, elsewhere they go to Python's log; what is no error is dropped.
    """
    base: Any = trt.ILogger
    severe = (base.ERROR, base.INTERNAL_ERROR)

    class Collector(base):  # type: ignore[misc] # of which library, is known at run time only
        def __init__(self) -> None:
            base.__init__(self)  # the bindings ask for this form
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
    """The last errors that the library logs meanwhile; they are kept, not printed."""
    logger.lines = deque(maxlen=KEPT)
    try:
        yield logger.lines
    finally:
        logger.lines = None
