"""Several runs, one after the other. Bad input is reported and skipped; a table shows how each run ended."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import EXIT_DAMAGED, UserError
from pipeline.video.inputs import Input
from pipeline.video.summary import Summary

log = logging.getLogger(__name__)

#: System errors after which the next run would also fail.
_NO_ROOM = frozenset([errno.ENOSPC, errno.EDQUOT, errno.EROFS])
_NAME_WIDTH = 40  # characters of a source in the table
#: Status of a run that Ctrl-C ended before its source did.
INTERRUPTED = 130


@dataclass(frozen=True)
class Outcome:
    """The outcome of one run.

    Attributes:
        source: its name for messages.
        summary: None if the run failed.
        status: 0; :data:`pipeline.errors.EXIT_DAMAGED` if a part of the input was damaged or skipped; 130 if it was
            interrupted; 1 if it failed.
        written: paths of its results.
        facts: plain values for JSON.
        noted: lines for a person, about its events.
        error: why it failed, in one line or more; empty if it did not.
    """

    source: str
    summary: Summary | None = None
    status: int = 0
    written: Sequence[Path] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    noted: Sequence[str] = ()
    error: str = ""

    def to_meta(self) -> dict[str, Any]:
        """Plain values for JSON."""
        if self.summary is None:
            return {**self.facts, "source": self.source, "status": self.status, "error": self.error}
        return {**self.facts, "status": self.status, "written": [str(path) for path in self.written]}


def run_each(inputs: Sequence[Input], run: Callable[[Input], Outcome], *, strict: bool) -> list[Outcome]:
    """Run every input. A bad input is reported and skipped; an interruption or a full disk ends all runs.

    Args:
        run: one run; raises UserError if its source or one of its targets cannot be used.
        strict: end all runs at the first bad input.
    """
    outcomes: list[Outcome] = []
    for number, given in enumerate(inputs, 1):
        log.info("[%d/%d] %s", number, len(inputs), given.shown)
        try:
            outcome = run(given)
        except UserError as error:
            log.error("error: %s", error)
            outcomes.append(Outcome(given.shown, status=1, error=str(error)))
            if strict or getattr(error.__cause__, "errno", None) in _NO_ROOM:
                break
            continue
        except KeyboardInterrupt:
            outcomes.append(Outcome(given.shown, status=INTERRUPTED, error="interrupted before its first frame"))
            break
        outcomes.append(outcome)
        if outcome.status == INTERRUPTED:
            break
    return outcomes


def status_of(outcomes: Sequence[Outcome], *, expected: int, strict: bool = False) -> int:
    """The exit status of all runs together.

    1: no input was processed, the last one was not reached, or one failed and ``strict`` is set. 130: interrupted.
    EXIT_DAMAGED: an input failed, or was damaged or skipped in part. 0: everything was processed.
    """
    states = [outcome.status for outcome in outcomes]
    if strict and 1 in states:
        return 1
    if INTERRUPTED in states:
        return INTERRUPTED
    if all(state == 1 for state in states) or len(states) < expected:
        return 1
    return EXIT_DAMAGED if any(states) else 0


def table(outcomes: Sequence[Outcome], *, expected: int, live: bool = False) -> str:
    """One line per run, and the number of runs that were processed.

    Args:
        live: also show the dropped frames, and the median age of a frame when it was written.
    """
    names = [_short(outcome.source) for outcome in outcomes]
    width = max(map(len, [*names, "source"]))
    more = f"{'dropped':>9}{'age ms':>9}" if live else ""
    lines = [f"{'source':<{width}}{'frames':>9}{'fps':>9}{more}  result"]
    for name, outcome in zip(names, outcomes, strict=True):
        figures = f"{outcome.facts.get('frames') or '-':>9}" + f"{'-':>9}" * (3 if live else 1)
        if (summary := outcome.summary) is not None:
            figures = f"{summary.frames:>9}{summary.fps:>9.1f}"
            age = f"{summary.steps['age'].p50_ms:>9.1f}" if "age" in summary.steps else f"{'-':>9}"
            figures += f"{summary.dropped:>9}{age}" if live else ""
        lines.append(f"{name:<{width}}{figures}  {_result(outcome)}")
    failed = sum(outcome.summary is None for outcome in outcomes)
    flawed = sum(outcome.summary is not None and outcome.status == EXIT_DAMAGED for outcome in outcomes)
    counts = [f"{len(outcomes) - failed} of {expected} sources were processed"]
    counts += [f"{failed} failed"] if failed else []
    counts += [f"{flawed} in part: damaged, or files were skipped"] if flawed else []
    counts += [f"{expected - len(outcomes)} not started"] if expected > len(outcomes) else []
    return "\n".join([*lines, "", "; ".join(counts)])


def _result(outcome: Outcome) -> str:
    if outcome.error:
        first = outcome.error.partition("\n")[0].removeprefix(f"{outcome.source}: ")
        return f"failed: {first}" if outcome.status == 1 else first
    places = ", ".join(map(str, outcome.written)) or "nothing is written"
    state = {0: "", INTERRUPTED: "interrupted: ", EXIT_DAMAGED: "in part: "}.get(outcome.status, "")
    return state + places


def _short(name: str) -> str:
    return name if len(name) <= _NAME_WIDTH else "..." + name[3 - _NAME_WIDTH :]
