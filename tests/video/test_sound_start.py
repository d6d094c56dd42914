"""Sound of an overlay video that begins late in its source: the file is read from that place, with the same packets."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.video import sound
from pipeline.video.sources import open_source
from tests.video.films import RATE, av, film

SECONDS = 24.0


class Counted:
    """An av container that counts the packets of its sound.

    Args:
        seek: replaces the seconds to which it seeks; None: it cannot seek.
    """

    def __init__(self, container: Any, *, seek: Any = lambda seconds: seconds) -> None:
        self.packets = 0
        self._container = container
        self._seek = seek

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def __enter__(self) -> Counted:
        return self

    def __exit__(self, *failed: object) -> None:
        self._container.close()

    def seek(self, offset: int) -> None:
        if self._seek is None:
            raise av.error.FFmpegError(1, "Operation not permitted")
        self._container.seek(round(self._seek(offset / 1e6) * 1e6))

    def demux(self, stream: Any) -> Any:
        for packet in self._container.demux(stream):
            self.packets += 1
            yield packet


def copied(path: Path, start: float, **options: Any) -> tuple[list[tuple[Any, ...]], int]:
    """Times and bytes of the sound of 2 s from ``start`` on, and the number of packets that were read for them."""
    opened: list[Counted] = []
    given = open_source(str(path)).sound
    assert given is not None

    def reopen() -> Counted:
        opened.append(Counted(given.reopen(), **options))
        return opened[-1]

    with av.open(io.BytesIO(), "w", format="mp4", options={"movflags": "empty_moov+frag_keyframe"}) as target:
        target.add_stream("libx264", rate=25)
        packets = [
            (packet.pts * packet.time_base, packet.dts * packet.time_base, packet.duration, bytes(packet))
            for packet in replace(given, reopen=reopen).into(target, origin=start, end=2.0)
        ]
    return packets, sum(container.packets for container in opened)


@pytest.mark.parametrize("start", [3.0, 20.02])
@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "aac"), ("a.mkv", "libopus"), ("a.ts", "aac"), ("a.flv", "aac"), ("a.mov", "pcm_s16le")],
)
def test_the_same_packets_as_from_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, codec: str, start: float
) -> None:
    path = film(tmp_path / name, codec=codec, seconds=SECONDS, noise=True)
    packets, read = copied(path, start)
    monkeypatch.setattr(sound, "_LEADS_S", ())
    expected, read_all = copied(path, start)
    assert packets == expected
    assert len({data for *_, data in packets}) == len(packets) > 1.9 * RATE / 1024
    assert read < 0.6 * read_all if start > 10 else read <= read_all


@pytest.mark.parametrize(
    "seek",
    [
        pytest.param(None, id="cannot seek"),
        pytest.param(lambda seconds: seconds + 15, id="lands too late"),
        pytest.param(lambda seconds: SECONDS + 5, id="lands at the end"),
    ],
)
def test_a_file_in_which_seeking_fails_is_read_from_its_start(tmp_path: Path, seek: Any) -> None:
    path = film(tmp_path / "a.ts", seconds=SECONDS, noise=True)
    expected, _ = copied(path, 20.0)
    packets, read = copied(path, 20.0, seek=seek)
    assert packets == expected
    assert read > 20 * RATE / 1024


def test_sound_stored_far_after_the_pictures(tmp_path: Path) -> None:
    """The first seek leads to sound that is too late; the second one goes back further, but not to the start."""
    path = film(tmp_path / "a.ts", seconds=SECONDS, noise=True)
    expected, _ = copied(path, 20.0)
    packets, read = copied(path, 20.0, seek=lambda seconds: seconds + 5)
    assert packets == expected
    assert read < 14 * RATE / 1024


def test_avi_is_read_from_its_start(tmp_path: Path) -> None:
    """Its sound has no times."""
    _, read = copied(film(tmp_path / "a.avi", codec="libmp3lame", seconds=SECONDS), 20.0)
    assert read > 20 * RATE / 1152


def test_sound_that_begins_after_the_start(tmp_path: Path) -> None:
    """There is no packet before the start, so the first seek leads to one that is too late."""
    whole = film(tmp_path / "whole.mkv", codec="libopus", seconds=SECONDS, noise=True)
    path = tmp_path / "late.mkv"
    with av.open(str(whole)) as old, av.open(str(path), "w") as new:
        streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            if packet.size and (packet.stream.type == "video" or packet.pts * packet.time_base >= 21):
                packet.stream = streams[packet.stream.index]
                new.mux(packet)
    packets, _ = copied(path, 20.0)
    assert float(packets[0][0]) == pytest.approx(1.0, abs=0.02)
    assert float(packets[-1][0]) == pytest.approx(1.98, abs=0.02)
