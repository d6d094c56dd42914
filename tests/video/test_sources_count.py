"""The expected number of frames of a file: None if its clock jumps or it has too few bytes."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.video.sources import open_source
from pipeline.video.sources._jumps import clock_jumps
from pipeline.video.sources._timing import expected_frames
from tests.video.stamped import encode, remux

WRAP_S = 2**33 / 90_000


def part(path: Path, first_s: float, *, frames: int = 100) -> bytes:
    """An MPEG file of 4 s whose clock begins at ``first_s``."""
    begin = round(first_s * 25)
    codec = "mpeg2video" if path.suffix == ".mpg" else "libx264"
    encode(path, range(begin, begin + frames), codec=codec, unit=Fraction(1, 25), options={"g": "10"}, noise=True)
    return path.read_bytes()


@pytest.mark.parametrize("suffix", [".ts", ".m2ts", ".mpg"])
@pytest.mark.parametrize("starts", [(100, 100), (100, 130), (100, 3700), (3700, 100), (90_000, 100), (0, 40, 80)])
def test_joined_files(tmp_path: Path, suffix: str, starts: tuple[int, ...]) -> None:
    path = tmp_path / f"joined{suffix}"
    path.write_bytes(b"".join(part(tmp_path / f"{index}{suffix}", first) for index, first in enumerate(starts)))
    assert clock_jumps(path)
    assert open_source(str(path)).count is None


@pytest.mark.parametrize("suffix", [".ts", ".m2ts", ".mpg"])
@pytest.mark.parametrize("frames", [3, 100, 500])
@pytest.mark.parametrize("first_s", [0, 90_000])
def test_one_recording(tmp_path: Path, suffix: str, frames: int, first_s: int) -> None:
    path = tmp_path / f"whole{suffix}"
    part(path, first_s, frames=frames)
    assert not clock_jumps(path)
    assert open_source(str(path)).count == pytest.approx(frames, abs=1)


def test_a_clock_that_wraps_does_not_jump(tmp_path: Path) -> None:
    """It has 33 bits: 26.5 hours."""
    path = tmp_path / "wraps.ts"
    part(path, WRAP_S - 2)
    assert not clock_jumps(path)
    assert open_source(str(path)).count == pytest.approx(100, abs=1)
    assert len(list(open_source(str(path)).frames())) == 100


def test_quiet_scenes_are_no_jump(tmp_path: Path) -> None:
    """Half of the video needs few bytes."""
    noisy, path = tmp_path / "noisy.ts", tmp_path / "quiet.ts"
    part(noisy, 0, frames=200)
    remux(noisy, path, lambda number, packet: number < 100 or number % 4 == 0)
    assert not clock_jumps(path)


@pytest.mark.parametrize("data", [b"", b"G", b"G" * 5000, b"\0\0\1\xba" * 3, bytes(2000), b"\0\0\1\xbaD"])
def test_other_bytes(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.ts"
    path.write_bytes(data)
    assert not clock_jumps(path)
    assert not clock_jumps(tmp_path / "absent.ts")


@pytest.mark.parametrize(
    ("format_name", "size", "expected"),
    [
        ("mpegts", 188 * 1000, 1000),
        ("mpegts", 188 * 1000 - 1, None),
        ("matroska,webm", 8000, 1000),
        ("matroska,webm", 7999, None),
        ("hls", -1, 1000),  # its size is unknown
    ],
)
def test_too_few_bytes(format_name: str, size: int, expected: int | None) -> None:
    container = SimpleNamespace(format=SimpleNamespace(name=format_name, flags=0), size=size, duration=40_000_000)
    rate = Fraction(25)
    stream = SimpleNamespace(duration=None, time_base=None, guessed_rate=rate, average_rate=rate)
    assert expected_frames(container, stream) == expected
