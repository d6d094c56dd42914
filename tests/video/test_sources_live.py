"""Live sources with connections of this file: dropped frames, reconnections and timeouts."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import cv2
import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.video.drawing.picture import Picture
from pipeline.video.sources import open_source
from pipeline.video.sources._container import ReadError, Timeouts
from pipeline.video.sources._live import LiveSource, Patience

QUICK = Patience(Timeouts(open=0.1, read=0.3), total=1.0, first_wait=0.05, longest_wait=0.2)


class Script:
    """A connection whose pictures are what its script yields: numbers as grey, seconds to wait, or errors."""

    fps = 30.0
    stream: int | None = None

    def __init__(self, steps: Iterator[int | float | Exception]) -> None:
        self.steps = steps
        self.closed = False

    def read(self) -> Picture:
        for step in self.steps:
            if isinstance(step, Exception):
                raise step
            if isinstance(step, int):
                return Picture.of_bgr(np.full((2, 2, 3), step, np.uint8))
            time.sleep(step)
        raise ReadError("the stream ended")

    def close(self) -> None:
        self.closed = True


def live(*scripts: Callable[[], Iterator[int | float | Exception]], patience: Patience = QUICK) -> LiveSource:
    """A source whose connections follow the scripts in turn; the open ones are in ``made``."""
    waiting = list(scripts)
    connections: list[Script] = []

    def connect() -> Script:
        if not waiting:
            raise ReadError("refused", "check the address")
        connections.append(Script(waiting.pop(0)()))
        return connections[-1]

    source = LiveSource(connect, name="cam", stem="cam", patience=patience)
    source.made = connections  # type: ignore[attr-defined]
    return source


def steady() -> Iterator[int | float]:
    for number in range(10_000):
        yield number % 250
        yield 0.01


def grey(picture: Picture) -> int:
    return int(picture.bgr()[0, 0, 0])


def test_frames_have_times_of_arrival() -> None:
    source = live(steady)
    assert (source.live, source.is_video, source.fps, source.count) == (True, True, 30.0, None)
    frames = []
    for frame in source.frames():
        frames.append(frame)
        if len(frames) == 20:
            break
    source.close()
    assert [f.name for f in frames] == [f"cam-{i:06d}" for i in range(20)]
    times = [f.timestamp for f in frames]
    assert times[0] == 0.0
    assert times == pytest.approx([f.arrived - frames[0].arrived for f in frames])
    assert all(0.005 < later - earlier < 0.2 for earlier, later in pairwise(times[1:]))
    assert source.made[0].closed  # type: ignore[attr-defined]


def test_a_late_reader_gets_the_newest_frame() -> None:
    """Also while the engine is loaded, between opening and the first frame."""
    source = live(steady)
    time.sleep(0.3)
    begin = time.perf_counter()
    frames = source.frames()
    first = next(frames)
    assert grey(first.picture) > 10
    assert first.timestamp == 0.0
    assert begin - first.arrived < 0.15
    time.sleep(0.3)
    next(frames)  # this one was waiting
    third = next(frames)
    assert time.perf_counter() - third.arrived < 0.15
    source.close()


def test_not_opened_at_first_is_an_error_at_once() -> None:
    begin = time.perf_counter()
    with pytest.raises(UserError, match=r"^cam: cannot be opened \(refused\); check the address$"):
        live()
    assert time.perf_counter() - begin < 0.2
    with pytest.raises(UserError, match=r"cannot be opened \(no frame for 1\.0 s\); check that it is sending"):
        live(lambda: iter([9.0]))


def test_errors_that_are_ours_keep_their_type() -> None:
    with pytest.raises(ZeroDivisionError):
        live(lambda: iter([ZeroDivisionError()]))
    source = live(lambda: iter([1, 0.1, ZeroDivisionError()]))
    with pytest.raises(ZeroDivisionError):
        list(source.frames())


def test_connects_again_after_an_end_and_after_silence(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    ends = lambda: iter([1, 0.05, 2, 0.05])  # noqa: E731
    silent = lambda: iter([3, 0.05, 0.8, 4])  # noqa: E731
    source = live(ends, silent, steady)
    seen = []
    for frame in source.frames():
        seen.append(frame)
        if len(seen) == 8:
            break
    source.close()
    assert [grey(f.picture) for f in seen[:4]] == [1, 2, 3, 0], "a frame that came too late is dropped"
    times = [f.timestamp for f in seen]
    assert times == sorted(times), "one clock over all connections"
    assert [f.name for f in seen] == [f"cam-{i:06d}" for i in range(8)]
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 4, messages
    assert messages[0] == "cam: the stream ended; connecting again, for 1 s at most"
    assert messages[2].startswith("cam: no frame for 0.3 s; connecting again")
    assert messages[1].startswith(messages[3][: len("cam: frames again, after ")])


def test_gives_up_after_its_patience(caplog: pytest.LogCaptureFixture) -> None:
    source = live(lambda: iter([1]))
    frames = source.frames()
    next(frames)
    begin = time.perf_counter()
    with pytest.raises(UserError, match=r"^cam: no frame for 1 s, the last reason: refused; check the address$"):
        next(frames)
    assert 0.9 < time.perf_counter() - begin < 1.5
    assert len(caplog.records) == 1, "each outage has one warning, for any number of attempts"


def test_waits_grow() -> None:
    attempts: list[float] = []

    def connect() -> Script:
        attempts.append(time.perf_counter())
        if len(attempts) > 1:
            raise ReadError("refused")
        return Script(iter([1]))

    patience = Patience(Timeouts(0.2, 0.2), total=1.2, first_wait=0.1, longest_wait=0.4)
    with pytest.raises(UserError):
        list(LiveSource(connect, name="cam", stem="cam", patience=patience).frames())
    waits = np.diff(attempts)
    assert waits[:4] == pytest.approx([0.1, 0.2, 0.4, 0.4], abs=0.08)


@pytest.mark.parametrize("where", ["reading", "between attempts", "before frames"])
def test_stop_wakes_every_wait(where: str) -> None:
    script = [1] if where == "between attempts" else [1, 60.0]
    patience = Patience(Timeouts(60, 60), total=600, first_wait=60, longest_wait=60)
    source = live(lambda: iter(script), patience=patience)
    if where == "before frames":
        source.stop()
        assert list(source.frames()) == []
        return
    timer = threading.Timer(0.3, source.stop)
    timer.start()
    begin = time.perf_counter()
    assert len(list(source.frames())) == 1
    assert 0.2 < time.perf_counter() - begin < 1
    begin = time.perf_counter()
    source.close()
    assert time.perf_counter() - begin < 1.5


def test_live_has_no_start() -> None:
    source = live(steady)
    with pytest.raises(UserError, match="cam: a live source starts now"):
        source.frames(start=2.0)
    source.close()


class FakeCapture:
    """cv2.VideoCapture of a camera that gives ``good`` frames, then blocks or fails."""

    good = 5
    blocks = False
    image: Array = np.full((4, 6, 3), 7, np.uint8)
    opened: list[tuple[object, ...]] = []  # noqa: RUF012
    works = True

    def __init__(self, *args: object) -> None:
        self.opened.append(args)
        self.left = self.good

    def isOpened(self) -> bool:
        return self.works

    def get(self, what: int) -> float:
        return 30.0 if what == cv2.CAP_PROP_FPS else 0.0

    def set(self, what: int, value: float) -> bool:
        return True

    def read(self) -> tuple[bool, Array | None]:
        self.left -= 1
        time.sleep(0.02)
        if self.left >= 0:
            return True, self.image
        if self.blocks:
            time.sleep(2)
        return False, None

    def release(self) -> None:
        pass


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> type[FakeCapture]:
    class Camera(FakeCapture):
        opened: list[tuple[object, ...]] = []  # noqa: RUF012

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    return Camera


def test_camera(camera: type[FakeCapture]) -> None:
    source = open_source("3")
    assert (source.name, source.stem, source.fps, source.live) == ("camera 3", "camera3", 30.0, True)
    first = next(source.frames())
    assert np.array_equal(first.picture.bgr(), camera.image)
    source.close()
    assert camera.opened == [(3,)]


@pytest.mark.parametrize("blocks", [True, False])
def test_camera_that_stops_is_opened_again(
    blocks: bool, camera: type[FakeCapture], caplog: pytest.LogCaptureFixture
) -> None:
    camera.blocks = blocks
    source = open_source("0", open_timeout=0.2, read_timeout=0.2, patience=5)
    for index, _ in enumerate(source.frames()):
        if len(camera.opened) > 1 and index > 5:
            break
    source.close()
    assert len(camera.opened) == 2
    assert ("no frame for 0.2 s" if blocks else "no more frames arrive") in caplog.text


def test_grey_and_transparent_cameras(camera: type[FakeCapture]) -> None:
    for image in (np.full((4, 6), 7, np.uint8), np.full((4, 6, 1), 7, np.uint8), np.full((4, 6, 4), 7, np.uint8)):
        camera.image = image
        source = open_source("0")
        assert np.array_equal(next(source.frames()).picture.bgr(), np.full((4, 6, 3), 7))
        source.close()
    camera.image = np.zeros((4, 6, 2), np.uint8)
    with pytest.raises(UserError, match="frames of 2 channels, uint8, are not read here"):
        open_source("0")


def test_camera_that_does_not_open(camera: type[FakeCapture]) -> None:
    camera.works = False
    with pytest.raises(UserError, match=r"camera 0: cannot be opened \(OpenCV cannot open it\); cameras here: "):
        open_source("0")
