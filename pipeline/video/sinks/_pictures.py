"""The newest picture as JPEG, encoded once for all viewers, and only while somebody watches."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import cv2

from pipeline.video.drawing.picture import Picture


class Pictures:
    """Encodes in its own thread; :meth:`offer` only stores a reference.

    Args:
        side: largest height or width of a picture.
        rate: largest number of pictures per second.
        quality: of the JPEG, 0 to 100; 80 is 1 bit per pixel of street scenes, without visible blocks.
    """

    def __init__(self, *, side: int, rate: float, quality: int = 80) -> None:
        self._side, self._interval, self._quality = side, 1 / rate, quality
        self._newest: Picture | None = None
        self._encoded: Picture | None = None
        self._jpeg = b""
        self._number = 0  # of the JPEG; 0: there is none yet
        self._watchers = 0
        self._changed = threading.Condition()  # guards the four above
        self._wake, self._ending = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="page pictures", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def offer(self, picture: Picture) -> None:
        """Set the newest picture, which must not change any more."""
        self._newest = picture
        if self._watchers and not self._wake.is_set():
            self._wake.set()

    def finish(self) -> None:
        """Encode the last picture for later viewers, and end the thread."""
        self._ending.set()
        self._wake.set()
        self._thread.join()

    @contextmanager
    def watching(self) -> Iterator[int]:
        """While entered, pictures are encoded. Yields the number to ask :meth:`after` for first."""
        with self._changed:
            self._watchers += 1
            stale = self._encoded is not self._newest and not self._ending.is_set()
            number = self._number if stale else 0
        self._wake.set()
        try:
            yield number
        finally:
            with self._changed:
                self._watchers -= 1

    def after(self, number: int, *, seconds: float) -> tuple[int, bytes] | None:
        """Number and JPEG of the newest picture later than ``number``; None when there is none within ``seconds``."""
        with self._changed:
            self._changed.wait_for(lambda: self._number > number, seconds)
            return (self._number, self._jpeg) if self._number > number else None

    def snapshot(self, number: int, *, seconds: float) -> tuple[int, bytes] | None:
        """Like :meth:`after`, for viewers of single pictures: they count as watching only during this call.

        Args:
            number: of the picture that the viewer has; a number that was never given (from an earlier run) counts as 0.
        """
        with self.watching() as first:
            return self.after(max(first, number if number <= self._number else 0), seconds=seconds)

    @property
    def watchers(self) -> int:
        return self._watchers

    def _run(self) -> None:
        while not self._ending.is_set():
            self._wake.wait()
            self._wake.clear()
            self._encode()
            self._ending.wait(self._interval)
        self._encode()

    def _encode(self) -> None:
        newest = self._newest
        if newest is None or newest is self._encoded or not (self._watchers or self._ending.is_set()):
            return
        options = [cv2.IMWRITE_JPEG_QUALITY, self._quality]
        done, data = cv2.imencode(".jpg", newest.within((self._side, self._side)), options)
        assert done, "OpenCV refused to encode a JPEG"
        with self._changed:
            self._encoded, self._jpeg = newest, data.tobytes()
            self._number += 1
            self._changed.notify_all()
