from __future__ import annotations

import io

import pytest

from pipeline.video.progress import Progress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_every_ten_seconds_without_a_terminal() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress(6000, stream, clock=clock) as progress:
        for second in range(1, 26):
            clock.now = float(second)
            progress.update(second * 20)
    assert stream.getvalue() == "200/6000 frames, 20.0 fps, 4:50 left\n400/6000 frames, 20.0 fps, 4:40 left\n"


def test_one_line_on_a_terminal() -> None:
    clock, stream = Clock(), Terminal()
    with pytest.raises(KeyboardInterrupt), Progress(None, stream, clock=clock) as progress:
        for done in range(1, 4):
            clock.now = float(done * 3600)
            progress.update(done)
        raise KeyboardInterrupt
    assert stream.getvalue().count("\r") == 3
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().endswith("3 frames, 0.0 fps\n")


def test_a_short_run_prints_nothing() -> None:
    stream = io.StringIO()
    with Progress(3, stream) as progress:
        progress.update(3)
    assert stream.getvalue() == ""


def test_hours_and_wrong_totals() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress(100_000, stream, clock=clock) as progress:
        clock.now = 10.0
        progress.update(100)
        progress.total = 50
        clock.now = 20.0
        progress.update(200)
    assert stream.getvalue().splitlines() == [
        "100/100000 frames, 10.0 fps, 2:46:30 left",
        "200/50 frames, 10.0 fps, 0:00 left",
    ]
