"""The error class for problems that a user can fix, and the wrapper that turns it into an exit status.

Every other exception is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
import errno
import functools
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable
from types import FrameType

EXIT_DAMAGED = 3  # exit status of a run that finished, but some of its input was damaged or unreadable
#: Seconds that all processes but the first wait before they print an error.
LATER_S = 3.0
#: System errors about a path that the user chose: permissions, disk space, a file where a folder is needed.
BLOCKED = frozenset(
    [errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST]
)


class UserError(ValueError):
    """A problem that the user can fix. The message says what, where, got, allowed and what to do next."""


class Problems:
    """Collect all problems of one input, then raise them as a single :class:`UserError`.

    Args:
        subject: name of the input, for the first line of the message.
        limit: number of problems to print; the rest are only counted.

    Example:
        >>> problems = Problems("params.yaml")
        >>> problems.add("seed: got 'x'; allowed: an integer")
        >>> problems.raise_if_any()
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
        """Raise :class:`UserError` if a problem was added; ``advice`` becomes the last line."""
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
    """The most similar allowed name as a question, or all allowed names if none is similar.

    Example:
        >>> closest("temprature", ["temperature", "weight"])
        "did you mean 'temperature'?"
    """
    names = sorted(allowed)
    matches = difflib.get_close_matches(got, names, n=1)
    return f"did you mean '{matches[0]}'?" if matches else f"allowed: {', '.join(names) or 'nothing'}"


def command(main: Callable[[], int | None]) -> Callable[[], int]:
    """Wrap a script's ``main``: a user error becomes one message and status 1, an interruption status 130."""

    @functools.wraps(main)
    def run() -> int:
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
        old_handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number, handler in old_handlers.items():
            if handler in (signal.SIG_DFL, signal.default_int_handler):  # a background job keeps ignoring SIGINT
                signal.signal(number, _as_interrupt)
        try:
            status = main() or 0
            sys.stdout.flush()
            return status
        except UserError as error:
            return _print_error(f"error: {error}", status=1)
        except OSError as error:
            if isinstance(error, BrokenPipeError) and _reader_ended():
                return 128 + signal.SIGPIPE  # as the shell reports it, for example of `segpress show | head -1`
            if error.errno not in BLOCKED:
                raise
            message = f"error: {error.filename or 'a file'}: {error.strerror}; fix this and run the command again"
            return _print_error(message, status=1)
        except KeyboardInterrupt:
            message = "interrupted: no partial files remain; run the same command again"
            return _print_error(message, status=130)
        finally:
            for number, handler in old_handlers.items():
                signal.signal(number, handler)

    return run


def _reader_ended() -> bool:
    """Whether the reader of standard output, a pipe, has ended. If so, what is still buffered is dropped."""
    output = sys.stdout.fileno()
    poll = select.poll()
    poll.register(output, 0)  # POLLERR is always reported
    ended = bool(poll.poll(0))
    if ended:
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return ended


def _print_error(message: str, *, status: int) -> int:
    """Print a message and return ``status``.

    In a training with several processes, all of them have the same error: the first one prints it, and the launcher
    ends the others while they wait.
    """
    try:
        if os.environ.get("RANK", "0") != "0":
            time.sleep(LATER_S)
        print(message, file=sys.stderr)
    except KeyboardInterrupt:
        pass
    return status


def _as_interrupt(signum: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, and ignore later signals: a second Ctrl-C must not stop the cleanup."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
