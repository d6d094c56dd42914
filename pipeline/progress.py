"""Progress bars for stages; they need rich."""

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
    """A bar with description, count, elapsed time and ETA. If disabled, it prints nothing, not even other lines."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=Console(quiet=disable), disable=disable)


class Bars:
    """Several named bars; a bar appears at its first step.

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
        """Advance the bar ``name`` by one of ``total``."""
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(name, total=total)
        self.progress.advance(self.tasks[name])

    def reach(self, name: str, done: int, total: int) -> None:
        """Set the bar ``name`` to ``done`` of ``total``."""
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(name, total=total)
        self.progress.update(self.tasks[name], completed=done)

    def counter(self, name: str, total: int) -> Callable[[], None]:
        """:meth:`step` for one bar, as a function without arguments."""
        return partial(self.step, name, total)
