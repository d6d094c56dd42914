"""HLS: a playlist that can be read during and after the run, and the segments that stay."""

from __future__ import annotations

import re
import resource
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.video.drawing.picture import Picture
from pipeline.video.sinks import PlaylistSink, Result

av = pytest.importorskip("av", reason="playlists are written with PyAV")


@pytest.fixture
def bright(make_result: Callable[..., Result]) -> Callable[..., Result]:
    """A result whose grey value is its number, at 25 frames per second; ``arrived`` has the same clock."""

    def make(index: int) -> Result:
        picture = Picture.of_bgr(np.full((48, 64, 3), index % 256, np.uint8))
        return make_result(index, picture=picture, timestamp=index / 25, arrived=1000 + index / 25)

    return make


def decoded(path: Path) -> list[tuple[float, float]]:
    """(seconds from the first, grey value) of the frames of a playlist from its beginning."""
    with av.open(str(path), options={"live_start_index": "0"}) as container:
        frames = [(frame.time, float(frame.to_ndarray(format="bgr24").mean())) for frame in container.decode(video=0)]
    return [(seconds - frames[0][0], grey) for seconds, grey in frames]


def listed(path: Path) -> list[str]:
    return re.findall(r"^\S+\.ts$", path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", ["live.m3u8", "100%d ä/a: %03d.m3u8"])
def test_a_file_keeps_all_segments(tmp_path: Path, bright: Callable[..., Result], name: str) -> None:
    path = tmp_path / name
    with PlaylistSink(path, live=False) as sink:
        assert (sink.patient, sink.waits, sink.written) == (True, False, path)
        begin = time.perf_counter()
        for index in range(250):
            sink.write(bright(index))
    assert time.perf_counter() - begin < 5, "as fast as it comes, not in real time"
    frames = decoded(path)
    assert [seconds for seconds, _ in frames] == pytest.approx([n / 25 for n in range(250)], abs=1e-3)
    assert [grey for _, grey in frames] == pytest.approx(list(range(250)), abs=3)
    assert len(listed(path)) == 5
    assert sorted(p.name for p in path.parent.iterdir()) == sorted([*listed(path), path.name])
    text = path.read_text()
    assert "#EXT-X-PLAYLIST-TYPE:EVENT" in text
    assert text.endswith("#EXT-X-ENDLIST\n")
    assert sink.to_meta() == {"to": str(path), "sent": 250, "dropped": 0, "connections": 1}


def test_while_it_is_written(tmp_path: Path, bright: Callable[..., Result]) -> None:
    """At any time the folder has a complete playlist and complete segments."""
    path = tmp_path / "live.m3u8"
    over = threading.Event()
    wrong: list[str] = []
    counts: set[int] = set()

    def watch() -> None:
        while not over.is_set():
            if path.is_file():
                text = path.read_text()
                names = re.findall(r"^\S+\.ts$", text, re.MULTILINE)
                counts.add(len(names))
                if not text.startswith("#EXTM3U\n") or not text.endswith("\n") or text.count("#EXTINF") != len(names):
                    wrong.append(text)
                wrong.extend(name for name in names if not (tmp_path / name).stat().st_size)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    with PlaylistSink(path, live=False) as sink:
        for index in range(130):
            sink.write(bright(index))
        while not path.is_file() or len(listed(path)) < 2:
            time.sleep(0.01)
        copy = tmp_path / "then"
        copy.mkdir()
        for name in [*listed(path), path.name]:
            shutil.copy(tmp_path / name, copy)
        assert "#EXT-X-ENDLIST" not in path.read_text()
        (copy / path.name).write_text(path.read_text() + "#EXT-X-ENDLIST\n")  # otherwise FFmpeg waits for more
        assert len(decoded(copy / path.name)) == 100
    over.set()
    watcher.join(60)
    assert not wrong
    assert counts >= {2, 3}
    assert len(decoded(path)) == 130


def test_a_live_source_keeps_the_last_half_minute(tmp_path: Path, bright: Callable[..., Result]) -> None:
    path = tmp_path / "live.m3u8"
    with PlaylistSink(path, live=True) as sink:
        assert (sink.patient, sink.waits) == (False, True)
        for index in range(0, 25 * 100, 5):
            sink.write(bright(index))
    names = listed(path)
    assert len(names) == 15
    assert len(list(tmp_path.glob("*.ts"))) <= 15 + 6, "a disk does not fill up"
    assert set(names) <= {p.name for p in tmp_path.glob("*.ts")}
    frames = decoded(path)
    assert frames[-1][0] == pytest.approx(30 - 0.2, abs=1e-3)
    assert frames[-1][1] == pytest.approx((25 * 100 - 5) % 256, abs=3)


def test_a_second_run_takes_the_place_of_the_first(tmp_path: Path, bright: Callable[..., Result]) -> None:
    path = tmp_path / "live.m3u8"
    (tmp_path / "live-holiday.ts").write_text("mine")
    for count in (250, 60):
        older = listed(path) if path.is_file() else []
        with PlaylistSink(path, live=False) as sink:
            for index in range(count):
                sink.write(bright(index))
            assert {p.name for p in tmp_path.iterdir()} >= {*older}, "the old one plays until the new one is there"
        assert not set(listed(path)) & set(older)
        assert len(decoded(path)) == count
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["live-holiday.ts", "live.m3u8", *listed(path)])
    for name in listed(path):
        assert int(name[5:-3]) > int(older[-1][5:-3]), "players see that the numbers continue"


def test_no_frame_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), PlaylistSink(tmp_path / "live.m3u8", live=False):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_failed_run_leaves_a_complete_playlist(tmp_path: Path, bright: Callable[..., Result]) -> None:
    path = tmp_path / "live.m3u8"
    with pytest.raises(RuntimeError), PlaylistSink(path, live=False) as sink:
        for index in range(60):
            sink.write(bright(index))
        raise RuntimeError
    assert len(decoded(path)) == 60
    assert path.read_text().endswith("#EXT-X-ENDLIST\n")


def test_a_full_disk(tmp_path: Path, bright: Callable[..., Result]) -> None:
    """FFmpeg would continue, and leave an empty playlist."""
    path = tmp_path / "live.m3u8"
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, kept[1]))  # no file may be larger
    try:
        with (
            pytest.raises(UserError, match=r"cannot be written \(File too large\); free the place or name another"),
            PlaylistSink(path, live=False) as sink,
        ):
            for index in range(2000):
                result = bright(index)
                picture = Picture.of_bgr(np.roll(noise, 7 * index)) if index >= 60 else result.picture
                sink.write(replace(result, picture=picture))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)
    assert len(listed(path)) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*listed(path), path.name])
    path.write_text(path.read_text() + "#EXT-X-ENDLIST\n")
    assert len(decoded(path)) == 50


def test_places_that_cannot_be_written(tmp_path: Path, bright: Callable[..., Result]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        PlaylistSink(tmp_path / "file/live.m3u8", live=False).__enter__()
    (tmp_path / "live.m3u8").mkdir()
    with pytest.raises(UserError, match=r"is a folder; name a file in it, as .*live\.m3u8/live\.m3u8"):
        PlaylistSink(tmp_path / "live.m3u8", live=False).__enter__()
    folder = tmp_path / "gone"
    with pytest.raises(UserError, match="cannot be written"), PlaylistSink(folder / "live.m3u8", live=False) as sink:
        folder.rmdir()
        for index in range(200):
            sink.write(bright(index))
