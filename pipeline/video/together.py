"""Several sources at the same time on one engine: each has its own run and thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from pipeline.errors import UserError
from pipeline.video.inputs import Input
from pipeline.video.several import INTERRUPTED, Outcome

log = logging.getLogger(__name__)

_LOOK_S = 0.1  # between looks at the runs
_BEGIN_S = 0.5  # for a run that has not begun, to end


class Ending:
    """Ends all runs, as Ctrl-C does: the frames that were read are processed.

    Attributes:
        until: set when the runs should end.
        reason: error of a run that has not begun.
    """

    def __init__(self) -> None:
        self.until = threading.Event()
        self.reason = "interrupted before its first frame"

    def set(self, reason: str = "") -> None:
        """End all runs; the first reason counts."""
        if reason and not self.until.is_set():
            self.reason = reason
        self.until.set()


class Lane:
    """The run of one source, as the others and the main thread see it.

    Attributes:
        given: its source.
        until: when set, the run ends as after Ctrl-C.
        frames: number of frames that are done.
        outcome: outcome of the run; None: it still runs.
        failure: an exception of its thread that is not a UserError.
    """

    def __init__(self, given: Input, ending: Ending) -> None:
        self.given, self.until = given, ending.until
        self._ending = ending
        self.frames = 0
        self.outcome: Outcome | None = None
        self.failure: BaseException | None = None
        self._has_begun = False

    def __enter__(self) -> Lane:
        """Enter before anything is written. Raises KeyboardInterrupt if the runs should end already."""
        self._has_begun = True
        if self.until.is_set():
            raise KeyboardInterrupt
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing to do: :meth:`work` keeps the outcome."""

    def update(self, done: int) -> None:
        """Note how many frames are done."""
        self.frames = done

    def work(self, run: Callable[[Lane], Outcome]) -> None:
        """Run it, and keep its outcome."""
        shown = self.given.shown
        try:
            self.outcome = run(self)
        except UserError as error:
            log.error("error: %s", error)
            self.outcome = Outcome(shown, status=1, error=str(error), facts={"frames": self.frames})
        except KeyboardInterrupt:
            self.outcome = Outcome(shown, status=INTERRUPTED, error=self._ending.reason)
        except BaseException as error:
            self.failure = error
            self.outcome = Outcome(shown, status=1, error=f"{type(error).__name__}: {error}")

    @property
    def can_be_left(self) -> bool:
        """Whether it can be abandoned: it still waits for its source, and has written nothing."""
        return self.outcome is None and not self._has_begun


def run_together(
    inputs: Sequence[Input],
    run: Callable[[Lane], Outcome],
    *,
    strict: bool,
    progress: Callable[[int], None],
) -> list[Outcome]:
    """Run every input at the same time. A source that fails or ends does not end the others; Ctrl-C ends all of them
    cleanly.

    Args:
        run: one run; raises UserError if its source or one of its targets cannot be used.
        strict: end all runs if one fails.
        progress: called at times with the number of frames done in all runs together.

    Returns:
        The outcome of each run, in the order of the inputs.
    """
    ending = Ending()
    lanes = [Lane(given, ending) for given in inputs]
    threads = [
        threading.Thread(target=lane.work, args=(run,), name=f"segpress-source-{number}", daemon=True)
        for number, lane in enumerate(lanes, 1)
    ]
    waiting = iter(threads)
    ended_at: float | None = None
    while True:
        try:
            for thread in waiting:  # here, so that Ctrl-C between two of them ends those that run
                if not ending.until.is_set():
                    thread.start()
            is_late = ended_at is not None and time.monotonic() - ended_at > _BEGIN_S
            if all(lane.outcome or (is_late and lane.can_be_left) for lane in lanes):
                break
            time.sleep(_LOOK_S)
            progress(sum(lane.frames for lane in lanes))
            has_failed = any(lane.outcome and lane.outcome.status == 1 for lane in lanes)
            if (strict and has_failed) or any(lane.failure for lane in lanes):
                ending.set("ended before its first frame, because another source failed")
        except KeyboardInterrupt:
            ending.set()
        if ending.until.is_set():
            ended_at = ended_at or time.monotonic()
    for lane in lanes:
        if lane.failure is not None:
            raise lane.failure
    return [lane.outcome or Outcome(lane.given.shown, status=INTERRUPTED, error=ending.reason) for lane in lanes]
