"""The one error that a user can fix, and the one place that turns it into an exit status.

Everything else that is raised is our bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
import errno
import functools
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from types import FrameType

EXIT_DAMAGED = 3  # a run that came to its end, but some of its input was damaged or could not be read
#: Seconds after which a process that is not the first of several says what is wrong with it.
LATER_S = 3.0
#: What the system says about a path that the user chose: rights, space, a file where a folder is needed.
BLOCKED = frozenset(
    [errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST]
)


class UserError(ValueError):
    """A fault that the user can mend. The message says what, where, got, allowed and what to do next."""


class Faults:
    """Collect all faults of one input, then raise them as a single :class:`UserError`.

    Args:
        subject: what was read, as the first line of the message says it.
        limit: how many faults are printed; the rest are counted.

    Example:
        >>> faults = Faults("params.yaml")
        >>> faults.add("seed: got 'x'; allowed: an integer")
        >>> faults.raise_if_any()
        Traceback (most recent call last):
        pipeline.errors.UserError: params.yaml: 1 problem
          seed: got 'x'; allowed: an integer
    """

    def __init__(self, subject: str, *, limit: int = 50) -> None:
        self.subject = subject
        self.limit = limit
        self.messages: list[str] = []

    def add(self, message: str) -> None:
        self.messages.append(message)

    def raise_if_any(self, *, advice: str = "") -> None:
        """Raise :class:`UserError` when a fault was added; ``advice`` becomes the last line."""
        if not self.messages:
            return
        count = len(self.messages)
        lines = [f"{self.subject}: {count} problem{'s' if count > 1 else ''}"]
        lines += [f"  {message}" for message in self.messages[: self.limit]]
        if count > self.limit:
            lines.append(f"  ... and {count - self.limit} more")
        if advice:
            lines.append(advice)
        raise UserError("\n".join(lines))


def closest(got: str, allowed: Iterable[str]) -> str:
    """`` did you mean 'x'?`` for a near miss, else the allowed names.

    Example:
        >>> closest("temprature", ["temperature", "weight"])
        "did you mean 'temperature'?"
    """
    names = sorted(allowed)
    near = difflib.get_close_matches(got, names, n=1)
    return f"did you mean '{near[0]}'?" if near else f"allowed: {', '.join(names) or 'nothing'}"


def command(main: Callable[[], int | None]) -> Callable[[], int]:
    """Wrap a script's ``main``: user errors become one message and status 1, an interruption status 130."""

    @functools.wraps(main)
    def run() -> int:
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number, handler in before.items():
            if handler in (signal.SIG_DFL, signal.default_int_handler):  # a background job ignores SIGINT: leave it so
                signal.signal(number, _as_interrupt)
        try:
            return main() or 0
        except UserError as error:
            return _tell(f"error: {error}", status=1)
        except OSError as error:
            if error.errno not in BLOCKED:
                raise
            return _tell(f"error: {error.filename or 'a file'}: {error.strerror}; mend that and run again", status=1)
        except KeyboardInterrupt:
            return _tell("interrupted: nothing half-written was left behind; run the same command again", status=130)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    return run


def _tell(message: str, *, status: int) -> int:
    """Say it once. What all processes of a training find, the first one says, and its launcher ends the others."""
    try:
        if os.environ.get("RANK", "0") != "0":
            time.sleep(LATER_S)
        print(message, file=sys.stderr)
    except KeyboardInterrupt:
        pass
    return status


def _as_interrupt(signum: int, frame: FrameType | None) -> None:
    """Interrupt once; a second Ctrl-C must not stop the cleaning up after the first."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
