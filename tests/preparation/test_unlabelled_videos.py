"""Frames without labels from videos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.prepared import Prepared, Unlabelled
from pipeline.video.selection import Selection
from pipeline.video.sources import open_source
from tests.preparation.conftest import scene
from tests.preparation.unlabelled_run import lines, run

Film = Callable[..., Path]


def seconds(out: Path) -> list[float]:
    return [line["seconds"] for line in lines(out)]


@pytest.mark.parametrize(
    ("times", "every", "expected"),
    [
        (np.arange(0, 3, 0.04), "auto", [0.0, 1.0, 2.0]),
        (np.arange(0, 3, 0.04), 30, [0.0, 1.2, 2.4]),
        (np.arange(0.0, 2.2, 1 / 29.97), "auto", [0.0, 1.001, 2.002]),
        ([0.0, 0.1, 0.2, 2.7, 2.8, 3.1, 3.2, 9.0, 9.9], "auto", [0.0, 2.7, 3.1, 9.0]),
        ([0.0, 0.1, 0.2, 2.7, 2.8, 3.1], 2, [0.0, 0.2, 2.8]),
        ([0.0, 5.0, 10.0], "auto", [0.0, 5.0, 10.0]),
    ],
    ids=["25 fps", "25 fps, every 30", "29.97 fps", "variable rate", "variable rate, every 2", "slow"],
)  # fmt: skip
def test_which_frames_of_a_video_are_read(
    tmp_path: Path, labelled: Prepared, film: Film, times: Sequence[float], every: Any, expected: list[float]
) -> None:
    video = film("clip.mp4", [scene(100 + n) for n in range(len(times))], list(times))
    run(labelled, tmp_path / "out", video, every=every)
    assert seconds(tmp_path / "out") == pytest.approx(expected, abs=0.021)


def test_frames_of_a_video_are_those_that_infer_reads(tmp_path: Path, labelled: Prepared, film: Film) -> None:
    """Rotation and colours too; numbers are those of the names that `segpress infer` gives to its results."""
    video = film("phone.mp4", [scene(60 + n) for n in range(6)], [n / 25 for n in range(6)], rotation=90)
    run(labelled, tmp_path / "out", video, every=2)
    source = open_source(str(video))
    expected = {frame.name.rpartition("-")[2]: frame.picture.bgr() for frame in Selection(every=2).frames(source)}
    split = Unlabelled(tmp_path / "out").split()
    assert split.names == [f"phone.mp4/{number}" for number in expected] and len(expected) == 3
    for number, frame in enumerate(expected.values()):
        assert frame.shape == (96, 64, 3) and np.array_equal(split.frame(number), frame)


def test_damage_of_a_video_is_one_warning_and_part_of_the_artifact(
    tmp_path: Path, labelled: Prepared, film: Film, caplog: pytest.LogCaptureFixture
) -> None:
    video = film("clip.mp4", [scene(70 + n) for n in range(60)], [n / 25 for n in range(60)])
    data = bytearray(video.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = bytes(4000)
    video.write_bytes(bytes(data))
    counts, warnings = run(labelled, tmp_path / "out", video, every=1)
    assert 0 < counts["read"] <= 60 and not [text for text in warnings if "damaged" in text]
    assert [record.getMessage() for record in caplog.records] == [f"{video}: damaged: {counts['damaged']['clip.mp4']}"]
    assert "packets could not be decoded" in counts["damaged"]["clip.mp4"]
