"""Progress bars of the stages that run where rich is installed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def make(*, disable: bool = False) -> Progress:
    """Description, bar, count, elapsed time and ETA; nothing at all, printed lines included, when disabled."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=Console(quiet=disable), disable=disable)


class Bars:
    """Several named bars that appear when they are first stepped.

    Example:
        >>> with Bars() as bars:  # doctest: +SKIP
        ...     bars.step("train", 100)
    """

    def __init__(self) -> None:
        self.progress = make()
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def step(self, name: str, total: int) -> None:
        """One more of ``total`` is done for ``name``."""
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(name, total=total)
        self.progress.advance(self.tasks[name])

    def reach(self, name: str, done: int, total: int) -> None:
        """``done`` of ``total`` are done for ``name``."""
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(name, total=total)
        self.progress.update(self.tasks[name], completed=done)

    def counter(self, name: str, total: int) -> Callable[[], None]:
        """:meth:`step` of one bar as a call without arguments."""
        return partial(self.step, name, total)
