"""Rules of a car, results with and without it, and the lines and clips of its events."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.video.drawing.picture import Picture
from pipeline.video.rules import Rule, Span
from pipeline.video.sinks import EventSink, Result
from tests.video.fakes import SIZE

av = pytest.importorskip("av", reason="clips need PyAV")
FPS = 25
RULE = Rule("car", ("car",), (1,), None, 0.5, above=True, until=0.5, seconds=0.2, pause=0.4, clip=Span(1.0, 0.6))
SILENT = Rule("car", ("car",), (1,), None, 0.5, above=True, until=0.5, seconds=0.2, pause=0.4, clip=None)
ALL_CAR = np.bincount([1], minlength=256)
NO_CAR = np.bincount([0], minlength=256)


def level(index: int) -> int:
    """Brightness of the picture of a frame, unique within 25 frames."""
    return 20 + 8 * (index % 25)


@pytest.fixture
def feed(make_result: Callable[..., Result]) -> Callable[..., None]:
    """Gives a sink results 40 ms apart, with a car in the frames of ``cars``."""

    def give(sink: EventSink, frames: Iterable[int], cars: Iterable[int], **changes: object) -> None:
        there = set(cars)
        for index in frames:
            picture = Picture.of_bgr(np.full((*SIZE, 3), level(index), np.uint8))
            pixels = ALL_CAR if index in there else NO_CAR
            sink.write(make_result(index, pixels=pixels, picture=picture, **changes))

    return give


def make(folder: Path, *rules: Rule, **options: Any) -> EventSink:
    return EventSink(folder, rules, source="drive.mp4", run="r", **{"fps": FPS, "crf": 4, **options})


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def clips(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.mp4"))


def shown(path: Path) -> tuple[list[int], list[float]]:
    """Frames of a clip (by ``level``), and their times in it."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    means = [frame.to_ndarray(format="bgr24").mean() for frame in frames]
    return [round((mean - 20) / 8) for mean in means], [frame.time for frame in frames]
