"""Several sources at the same time on one engine: a run for each, in a thread of its own."""

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
_BEGIN_S = 0.5  # that a run which has not begun may take to end


class Lane:
    """The run of one source, as the others and the main thread see it.

    Attributes:
        given: its source.
        until: set: the run ends as after Ctrl-C, what was read is finished.
        frames: that are done.
        outcome: how it ended; None: it runs.
        failure: an error that is no user's, from its thread.
    """

    def __init__(self, given: Input, until: threading.Event) -> None:
        self.given, self.until = given, until
        self.frames = 0
        self.outcome: Outcome | None = None
        self.failure: BaseException | None = None
        self._has_begun = False

    def __enter__(self) -> Lane:
        """Enter before anything is written. Raises KeyboardInterrupt where the runs were ended meanwhile."""
        self._has_begun = True
        if self.until.is_set():
            raise KeyboardInterrupt
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing to do: :meth:`work` notes how it ended."""

    def update(self, done: int) -> None:
        """Note how many frames are done."""
        self.frames = done

    def work(self, run: Callable[[Lane], Outcome]) -> None:
        """Run it, and keep how it ended."""
        shown = self.given.shown
        try:
            self.outcome = run(self)
        except UserError as error:
            log.error("error: %s", error)
            self.outcome = Outcome(shown, status=1, error=str(error))
        except KeyboardInterrupt:
            self.outcome = Outcome(shown, status=INTERRUPTED, error="interrupted before its first frame")
        except BaseException as error:
            self.failure = error
            self.outcome = Outcome(shown, status=1, error=f"{type(error).__name__}: {error}")

    def can_be_left(self) -> bool:
        """Whether it has not begun: it waits for its source and has written nothing."""
        return self.outcome is None and not self._has_begun


def run_together(
    inputs: Sequence[Input],
    run: Callable[[Lane], Outcome],
    *,
    strict: bool,
    progress: Callable[[int], None],
) -> list[Outcome]:
    """Run every input at the same time. A source that fails or ends does not end the others; Ctrl-C ends all in good
    order.

    Args:
        run: one run; raises UserError where its source or one of its targets is bad.
        strict: end all when one fails.
        progress: called now and then with the number of frames done, of all runs together.

    Returns:
        how each run ended, in the order of the inputs.
    """
    until = threading.Event()
    lanes = [Lane(given, until) for given in inputs]
    threads = [
        threading.Thread(target=lane.work, args=(run,), name=f"segpress-source-{number}", daemon=True)
        for number, lane in enumerate(lanes, 1)
    ]
    for thread in threads:
        thread.start()
    ended_at: float | None = None
    while not all(lane.outcome for lane in lanes):
        try:
            is_late = ended_at is not None and time.monotonic() - ended_at > _BEGIN_S
            if is_late and all(lane.outcome or lane.can_be_left() for lane in lanes):
                break
            time.sleep(_LOOK_S)
            progress(sum(lane.frames for lane in lanes))
            failed = any(lane.outcome and lane.outcome.status == 1 for lane in lanes)
            if not until.is_set() and ((strict and failed) or any(lane.failure for lane in lanes)):
                raise KeyboardInterrupt  # ends the others
        except KeyboardInterrupt:
            until.set()
            ended_at = ended_at or time.monotonic()
    for lane in lanes:
        if lane.failure is not None:
            raise lane.failure
    waiting = "interrupted before its first frame"
    return [lane.outcome or Outcome(lane.given.shown, status=INTERRUPTED, error=waiting) for lane in lanes]
