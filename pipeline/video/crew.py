"""Threads whose first error reaches the caller."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pipeline.video.flow import Closed


class Crew:
    """Threads that hand things on through channels: one that fails closes what it takes from and ends what it gives to,
    and so all come to an end; what was on its way arrives. None works before all are there: see :meth:`begin`.

    Attributes:
        error: the first one, None while there is none.
    """

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self._lock = threading.Lock()
        self._gate = threading.Event()
        self._called_off = False

    def start(self, name: str, work: Callable[[], None]) -> threading.Thread:
        """Run ``work`` in a thread after :meth:`begin`; :class:`Closed` is its end, other exceptions are failures."""
        # a thread that hangs in a driver must not keep the program from ending
        thread = threading.Thread(target=self._run, args=(work,), name=f"segpress-{name}", daemon=True)
        thread.start()
        return thread

    def begin(self) -> None:
        """Let all work."""
        self._gate.set()

    def call_off(self) -> None:
        """End the threads that were not let to work; nothing happens after :meth:`begin`."""
        if not self._gate.is_set():
            self._called_off = True
            self._gate.set()

    def _run(self, work: Callable[[], None]) -> None:
        self._gate.wait()
        if self._called_off:
            return
        try:
            work()
        except Closed:
            pass
        except BaseException as error:
            with self._lock:
                self.error = self.error or error
