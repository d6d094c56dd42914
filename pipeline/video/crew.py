"""Threads whose first error reaches the caller."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pipeline.video.flow import Closed


class Crew:
    """Threads that hand things on through channels: one that fails closes what it takes from and ends what it gives to,
    and so all come to an end; what was on its way arrives.

    Attributes:
        error: the first one, None while there is none.
    """

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self._lock = threading.Lock()

    def start(self, name: str, work: Callable[[], None]) -> threading.Thread:
        """Run ``work`` in a thread; :class:`Closed` is its end, any other exception its failure."""
        # a thread that hangs in a driver must not keep the program from ending
        thread = threading.Thread(target=self._run, args=(work,), name=f"segpress-{name}", daemon=True)
        thread.start()
        return thread

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Closed:
            pass
        except BaseException as error:
            with self._lock:
                self.error = self.error or error
