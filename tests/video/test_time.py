"""Times, rates and names of frames: one clock that only rises, for every reader, sink and line."""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.video.loop import segment
from pipeline.video.outputs import Outputs
from pipeline.video.overlay import Overlay
from pipeline.video.selection import Selection
from pipeline.video.sinks import H264Sink, LinesSink
from pipeline.video.sources import open_source
from pipeline.video.sources._decoder import Decoder
from pipeline.video.sources._timing import Clock, rate_of
from tests.video import test_infer
from tests.video.fakes import Bars, BrightnessEngine, quarters

infer = test_infer.infer  # the fixture
av = pytest.importorskip("av", reason="PyAV makes the test videos")

STEP = 1 / 25


def encode(
    path: Path,
    stamps: Sequence[int],
    *,
    codec: str = "libx264",
    unit: Fraction = Fraction(1, 1000),
    rate: Fraction | int = 25,
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
    sound_s: float = 0.0,
    noise: bool = False,
) -> Path:
    """A video of frames with these timestamps, in units; with silence of ``sound_s`` seconds from 0 on.

    Args:
        noise: pictures are random, so that packets are large.
    """
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", options=muxer or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = unit
        if sound_s:
            sound = container.add_stream("aac", rate=8000)
            for start in range(0, round(sound_s * 8000), 1024):
                quiet = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                quiet.rate, quiet.pts = 8000, start
                container.mux(sound.encode(quiet))
            container.mux(sound.encode(None))
        for index, stamp in enumerate(stamps):
            image = rng.integers(0, 256, (48, 64, 3), np.uint8) if noise else quarters(index)
            picture = av.VideoFrame.from_ndarray(image, format="bgr24")
            picture.time_base, picture.pts = unit, stamp
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def remux(source: Path, target: Path, change: Callable[[int, Any], bool | None], **muxer: str) -> Path:
    """Packets of a video as they are or as ``change`` makes them; False leaves one out."""
    with av.open(str(source)) as old, av.open(str(target), "w", options=muxer) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        number = itertools.count()
        for packet in old.demux(video=0):
            if packet.size and change(next(number), packet) is not False:
                packet.stream = stream
                new.mux(packet)
    return target


def times(path: Path, **options: Any) -> list[float | None]:
    return [frame.timestamp for frame in open_source(str(path), **options).frames()]


def evenly(count: int, step: float = STEP, first: float = 0.0) -> Any:
    return pytest.approx([first + index * step for index in range(count)], abs=1.1e-3)


# rates


@pytest.mark.parametrize(("name", "codec"), [("x.h264", "libx264"), ("x.hevc", "libx265"), ("x.m4v", "mpeg4")])
@pytest.mark.parametrize("rate", [60, 30])
def test_streams_without_timestamps_have_the_rate_of_their_codec(
    name: str, codec: str, rate: int, tmp_path: Path
) -> None:
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    path = encode(tmp_path / name, range(20), codec=codec, unit=Fraction(1, rate), rate=rate, options=options)
    assert open_source(str(path)).fps == rate
    assert times(path) == evenly(20, 1 / rate)


def test_dv_has_its_rate(tmp_path: Path) -> None:
    """Its container says 60000 frames a second."""
    path = tmp_path / "x.dv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("dvvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = 720, 576, "yuv420p"
        for index in range(30):
            image = np.full((576, 720, 3), 8 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
    source = open_source(str(path))
    assert (source.fps, source.count) == (25, 30)
    assert [f.name for f in source.frames(start=1)][:2] == ["x-000025", "x-000026"]


@pytest.mark.parametrize(
    ("own", "mean", "raw", "expected"),
    [
        (60, 25, True, 60),  # .h264
        (25, 60_000, False, 25),  # DV
        (25, 50, False, 25),  # AVI with dropped frames
        (90_000, 15, False, 15),  # a recording whose frames come when something moves
        (1000, 1000, False, 1000),  # slow motion
        (None, 24, False, 24),
        (30, None, False, 30),
        (None, None, True, None),
    ],
)
def test_which_rate_counts(own: int | None, mean: int | None, raw: bool, expected: int | None) -> None:
    container = SimpleNamespace(format=SimpleNamespace(flags=0x180 if raw else 0))
    stream = SimpleNamespace(guessed_rate=own and Fraction(own), average_rate=mean and Fraction(mean))
    assert rate_of(container, stream) == expected


def test_a_guessed_rate_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = encode(tmp_path / "x.mjpeg", range(5), codec="mjpeg", unit=Fraction(1, 10), rate=10)
    assert times(path) == evenly(5)
    assert "does not say its frame rate; 25 is assumed; --fps sets it" in caplog.text
    caplog.clear()
    assert times(path, fps=10.0) == evenly(5, 0.1)
    assert not caplog.records


def test_fps_of_the_user_replaces_rate_and_timestamps(reader: str, make_video: Callable[..., Path]) -> None:
    path = str(make_video(count=40))
    source = open_source(path, fps=10.0)
    assert source.fps == 10
    assert [f.timestamp for f in source.frames()] == evenly(40, 0.1)
    late = list(source.frames(start=1.52))
    assert (late[0].name, late[0].timestamp, len(late)) == ("drive-000015", pytest.approx(1.5), 25)


def test_fps_on_the_command_line(infer: Any, make_video: Callable[..., Path]) -> None:
    path = make_video(count=10)
    assert infer(path, "--fps", "30000/1001", "--out", "o.mp4", "--lines", "l.jsonl") == 0
    assert overlay_times("o.mp4") == evenly(10, 1001 / 30000)
    assert line_times("l.jsonl") == evenly(10, 1001 / 30000)
    for wrong in ("0", "-1", "nan", "1001", "x", "1/0"):
        with pytest.raises(SystemExit):
            infer(path, "--fps", wrong)


# one clock


def test_the_clock_follows_what_rises(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock("x", step=0.1, leap=10)
    stamps = [0.5, 0.6, 0.61, 5.0, 14.9]
    assert [clock.at(stamp) for stamp in stamps] == pytest.approx(stamps)
    assert not caplog.records


@pytest.mark.parametrize(
    ("stamps", "expected", "said"),
    [
        ([0, 0.1, 3600, 3600.1, 3600.3], [0, 0.1, 0.2, 0.3, 0.5], "leap by +3599.9 s at 0.10 s"),
        ([90, 90.1, 0, 0.1, 0.3], [90, 90.1, 90.2, 90.3, 90.5], "leap by -90.1 s at 90.10 s"),
        ([0, 0.1, 500, 0.3, 0.4], [0, 0.1, 0.2, 0.3, 0.4], "leap by +499.9 s at 0.10 s"),  # one wild timestamp
        ([0, 0.1, 10.1, 10.2], [0, 0.1, 0.2, 0.3], "leap by +10.0 s"),
        ([0, 0.1, 0.1, 0.3], [0, 0.1, 0.2, 0.3], "do not rise at 0.10 s"),
        ([0, 0.1, 0.05, 0.3], [0, 0.1, 0.2, 0.3], "do not rise at 0.10 s"),
        ([5, 5.1, 0, 0.1, 0.2], [5, 5.1, 5.2, 5.3, 5.4], "do not rise at 5.10 s"),
        ([None, None, None], [0, 0.1, 0.2], None),
        ([0.4, None, 0.6, None], [0.4, 0.5, 0.6, 0.7], None),
    ],
)
def test_the_clock_bridges_faults(
    stamps: list[float | None], expected: list[float], said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock("film", step=0.1, leap=10)
    assert [clock.at(stamp) for stamp in stamps] == pytest.approx(expected)
    assert [record.message.partition(":")[0] for record in caplog.records] == ["film"] * (said is not None)
    assert (said or "") in caplog.text


@pytest.mark.parametrize("offset_s", [3600, 20, -30])
@pytest.mark.parametrize("start", [0.0, 1.4, 3.0])
def test_joined_recordings(offset_s: int, start: float, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two MPEG-TS files one behind the other, the second with a clock that is ahead or behind."""
    parts = [
        encode(tmp_path / f"{first}.ts", range(first * 25, first * 25 + 50), unit=Fraction(1, 25), options={"g": "10"})
        for first in (100, 100 + offset_s)
    ]
    path = tmp_path / "join.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    got = [(f.name, f.timestamp) for f in open_source(str(path)).frames(start=start)]
    first = round(start * 25)
    assert [name for name, _ in got] == [f"join-{number:06d}" for number in range(first, 100)]
    assert [time for _, time in got] == evenly(100 - first, first=start)
    (record,) = caplog.records
    assert "timestamps leap by" in record.message
    assert "at 1.96 s; the gap counts as one frame" in record.message


def test_one_wild_timestamp_does_not_stretch_the_video(
    infer: Any, make_video: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = encode(  # every frame has a cluster, and its time there
        tmp_path / "x.mkv",
        range(100_000, 102_400, 40),
        options={"bf": "0"},
        muxer={"cluster_time_limit": "1"},
    )
    data = path.read_bytes()
    place = b"\xe7\x83" + (100_000 + 20 * 40).to_bytes(3, "big")
    assert data.count(place) == 1
    path.write_bytes(data.replace(place, b"\xe7\x83\xff\xff\xff"))
    assert infer(path, "--out", "o.mp4", "--lines", "l.jsonl") == 0
    assert overlay_times("o.mp4") == evenly(60)
    assert line_times("l.jsonl") == evenly(60)
    assert caplog.text.count("timestamps leap by") == 1


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize("start", [0.0, 1.2])
def test_avi_with_b_frames_rises(codec: str, start: float, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """AVI does not say in which order frames are shown."""
    options = {"bf": "3", "g": "12"} if codec == "libx264" else {"bf": "2"}
    path = encode(tmp_path / "x.avi", range(60), codec=codec, unit=Fraction(1, 25), options=options)
    got = list(open_source(str(path)).frames(start=start))
    first = round(25 * start)
    assert [f.name for f in got] == [f"x-{number:06d}" for number in range(first, 60)]
    assert [f.timestamp for f in got] == evenly(60 - first, first=start)
    assert not caplog.records


def test_without_pyav_times_are_those_of_the_file(
    make_video: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stamps = [0, 40, 500, 520, 2000, 2040]
    uneven_path = encode(tmp_path / "x.mp4", stamps)
    plain = encode(tmp_path / "plain.avi", range(60), codec="mpeg4", unit=Fraction(1, 25))
    dropped = remux(plain, tmp_path / "dropped.avi", lambda number, packet: number not in (10, 11, 12, 30))
    monkeypatch.setitem(sys.modules, "av", None)
    assert times(uneven_path) == pytest.approx([stamp / 1000 for stamp in stamps], abs=1e-3)
    late = [(f.name, f.timestamp) for f in open_source(str(uneven_path)).frames(start=2)]
    assert late[0] == ("x-000004", pytest.approx(2.0, abs=1e-3))
    assert times(dropped) == pytest.approx([n / 25 for n in range(60) if n not in (10, 11, 12, 30)], abs=1e-3)
    with pytest.raises(UserError, match=r"nothing from 9 s on, it ends at 2\.04 s; start earlier"):
        list(open_source(str(uneven_path)).frames(start=9))
    assert "timestamps" not in caplog.text


def test_a_file_with_times_of_decoding_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def decoding_only(number: int, packet: Any) -> None:
        packet.pts = packet.dts = 40 * number

    plain = encode(tmp_path / "plain.mkv", range(0, 2400, 40))
    path = remux(plain, tmp_path / "x.mkv", decoding_only)
    assert times(path) == evenly(60)
    assert not caplog.records


def test_equal_timestamps_follow_from_the_rate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def in_pairs(number: int, packet: Any) -> None:
        packet.pts = packet.dts = 80 * (number // 2)

    plain = encode(tmp_path / "plain.mkv", range(0, 1600, 40), options={"bf": "0"})
    path = remux(plain, tmp_path / "pairs.mkv", in_pairs)
    source = open_source(str(path))
    got = [f.timestamp for f in source.frames()]
    assert len(got) == 40
    assert all(b > a for a, b in itertools.pairwise(got) if a is not None and b is not None)
    assert "timestamps do not rise at 0.00 s; times there follow from 12.5 frames a second; --fps sets" in caplog.text
    assert times(path, fps=25.0) == evenly(40)
    assert [f.name for f in source.frames(start=1)][-1] == "pairs-000039"


def test_frames_far_apart_are_no_fault(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A time lapse of one frame in 15 s."""
    path = encode(tmp_path / "x.mp4", range(12), unit=Fraction(15), rate=Fraction(1, 15))
    assert times(path) == pytest.approx([15.0 * index for index in range(12)])
    assert not caplog.records


def test_all_sinks_have_the_times_of_a_source_that_goes_back(
    engine: BrightnessEngine, labels: LabelSpec, tmp_path: Path
) -> None:
    class Anew(Bars):
        def frames(self, *, start: float = 0.0) -> Any:
            for number, frame in enumerate(super().frames(start=start)):
                time = number / 25 if number < 20 else (number - 20) / 25 if number < 40 else 95_443.7 + number / 25
                yield replace(frame, timestamp=time)

    sinks = [H264Sink(tmp_path / "o.mp4"), LinesSink(tmp_path / "l.jsonl", labels=labels)]
    segment(Anew(60), [engine], labels=labels, sinks=sinks, overlay=Overlay(labels))
    assert overlay_times(tmp_path / "o.mp4") == evenly(60)
    assert line_times(tmp_path / "l.jsonl") == evenly(60)


def test_a_pause_of_something_live_stays(engine: BrightnessEngine) -> None:
    class Paused(Bars):
        def frames(self, *, start: float = 0.0) -> Any:
            for number, frame in enumerate(super().frames(start=start)):
                yield replace(frame, timestamp=number + 60.0 * (number > 1))

    got = [f.timestamp for f in Selection().frames(Paused(4, live=True))]
    assert got == [0, 1, 62, 63]


# where a video begins


@pytest.mark.parametrize("name", ["late.mp4", "late.mkv"])
def test_pictures_that_begin_after_the_sound(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = encode(tmp_path / name, range(1500, 3900, 40), sound_s=4, options={"g": "12"})
    source = open_source(str(path))
    got = list(source.frames())
    assert [f.timestamp for f in got] == evenly(60, first=1.5)
    assert got[0].name == "late-000000"
    (record,) = caplog.records
    assert "its first picture comes 1.50 s after the start of the file: times are those of the file" in record.message
    late = list(source.frames(start=3))
    assert (len(late), late[0].name, late[0].timestamp) == (23, "late-000037", pytest.approx(2.98, abs=2e-3))
    assert len(list(source.frames(start=1))) == 60


def test_sound_that_begins_later_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert times(encode(tmp_path / "x.mp4", range(0, 400, 40), sound_s=1)) == evenly(10)
    assert not caplog.records


def test_parts_that_follow_each_other_share_no_frame(tmp_path: Path) -> None:
    path = str(encode(tmp_path / "x.mkv", [round(1001 * n / 30) for n in range(150)], rate=Fraction(30000, 1001)))
    source = open_source(path)
    parts = [
        [f.name for f in Selection(start=start, duration=1.0).frames(source)] for start in (0.0, 1.0, 2.0, 3.0, 4.0)
    ]
    assert [*itertools.chain(*parts)] == [f.name for f in source.frames()]
    assert [len(part) for part in parts] == [30, 30, 30, 30, 30]


# names


def uneven(count: int) -> list[int]:
    """Timestamps in ms that are one, two or many frames apart."""
    steps = np.random.default_rng(5).choice([40, 80, 80, 200, 33], count - 1)
    return [0, *np.cumsum(steps).tolist()]


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("x.mp4", "libx264", {"g": "8"}),
        ("x.mp4", "libx264", {"g": "8", "x264-params": "open-gop=1:bframes=3:b-adapt=0"}),
        ("x.mkv", "libx264", {"g": "8"}),
        ("x.ts", "libx264", {"g": "8"}),
        ("x.webm", "libvpx", {"g": "8", "auto-alt-ref": "1", "lag-in-frames": "10"}),
        ("x.nut", "mpeg4", {"g": "8", "bf": "2"}),
        ("x.flv", "libx264", {"g": "8"}),
    ],
)
def test_a_frame_has_one_name_wherever_reading_begins(
    name: str, codec: str, options: dict[str, str], tmp_path: Path
) -> None:
    stamps = uneven(60)
    path = encode(tmp_path / name, stamps, codec=codec, options=options)
    whole = {f.name: (f.timestamp, f.picture.bgr()) for f in open_source(str(path)).frames()}
    assert list(whole) == [f"x-{number:06d}" for number in range(60)]
    for start in (0.05, 1.3, stamps[40] / 1000, stamps[59] / 1000):
        got = list(open_source(str(path)).frames(start=start))
        assert [f.name for f in got] == list(whole)[-len(got) :]
        for f in got[:3]:
            assert f.timestamp == whole[f.name][0]
            assert np.array_equal(f.picture.bgr(), whole[f.name][1])


def test_names_without_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a PyAV that cannot show the index of a file."""
    path = encode(tmp_path / "x.mp4", uneven(60), options={"g": "8"})
    expected = [(f.name, f.timestamp) for f in open_source(str(path)).frames(start=2)]
    monkeypatch.setattr("pipeline.video.sources._numbers._in_index", lambda *args, **options: pytest.fail("was used"))
    monkeypatch.setattr("pipeline.video.sources._numbers._INDEX", "absent")
    assert [(f.name, f.timestamp) for f in open_source(str(path)).frames(start=2)] == expected


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x.ts", "x.flv", "x.mpg"])
def test_what_lies_before_the_start_is_not_decoded(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = {".mpg": "mpeg2video"}.get(Path(name).suffix, "libx264")
    path = encode(tmp_path / name, range(100), codec=codec, unit=Fraction(1, 25), options={"g": "8", "bf": "2"})
    made: list[Decoder] = []
    real = Decoder.seek

    def seek(self: Decoder, start: float) -> Any:
        made.append(self)
        return real(self, start)

    monkeypatch.setattr(Decoder, "seek", seek)
    first = next(iter(open_source(str(path)).frames(start=3)))
    assert first.name == "x-000075"
    (decoder,) = made
    assert 1 <= decoder.decoded < 30


def test_damage_does_not_shift_names(tmp_path: Path) -> None:
    path = encode(tmp_path / "x.mp4", range(0, 8000, 40), options={"g": "10"})
    whole = {f.timestamp: f.name for f in open_source(str(path)).frames()}
    data = bytearray(path.read_bytes())
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    data[start + (end - start) // 4 : start + (end - start) // 3] = b"\xff" * ((end - start) // 3 - (end - start) // 4)
    path.write_bytes(data)
    source = open_source(str(path))
    left = {f.timestamp: f.name for f in source.frames()}
    assert 100 < len(left) < 200
    assert "could not be decoded" in source.damage
    assert set(left.values()) <= set(whole.values())
    assert {time: name for time, name in left.items() if time < 2 or time > 3}.items() <= whole.items()
    late = {f.timestamp: f.name for f in source.frames(start=6)}
    assert late.items() <= whole.items()
    assert len(late) == 50


# a pace


@pytest.mark.parametrize(("every", "fps", "length"), [(1, 25, 0.12), (3, 25, 0.12), (2, 10, 0.4)])
def test_images_keep_their_pace_with_every(infer: Any, folder: Path, every: int, fps: int, length: float) -> None:
    assert infer(folder, "--every", every, "--fps", fps, "--out", "o.mp4") == 0
    assert overlay_times("o.mp4") == evenly(math.ceil(3 / every), every / fps)
    with av.open("o.mp4") as container:
        assert container.duration / 1e6 == pytest.approx(length)


def test_every_of_images_and_of_a_video_last_equally(
    infer: Any, tmp_path: Path, make_video: Callable[..., Path]
) -> None:
    infer(make_video(count=40), "--out", "frames")
    infer("frames", "--every", 5, "--out", "a.mp4")
    infer(make_video(count=40), "--every", 5, "--out", "b.mp4")
    assert overlay_times("a.mp4") == overlay_times("b.mp4") == evenly(8, 0.2)
    for name in ("a.mp4", "b.mp4"):
        with av.open(name) as container:
            assert container.duration / 1e6 == pytest.approx(1.6)


def test_live_sources_have_no_rate_of_the_user(labels: LabelSpec) -> None:
    with pytest.raises(UserError, match=r"fps 10 cannot be used: frames of something live come when they come"):
        Outputs(fps=10.0).sinks(Bars(3, live=True), labels=labels, engine="e")


# damage


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x.webm", "x.avi", "x.flv", "fragments.mp4"])
def test_every_kind_that_tells_its_length_says_that_it_was_cut_off(
    reader: str, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    muxer = {"x.mp4": "faststart", "fragments.mp4": "frag_keyframe+empty_moov+default_base_moof"}.get(name)
    path = encode(
        tmp_path / name,
        range(80),
        codec={".webm": "libvpx", ".avi": "mpeg4"}.get(Path(name).suffix, "libx264"),
        unit=Fraction(1, 25),
        options={"g": "10"},
        muxer={"movflags": muxer} if muxer else None,
        noise=True,
    )
    whole = path.read_bytes()
    source = open_source(str(path))
    caplog.clear()  # of what the reader cannot see
    assert len(list(source.frames())) == 80
    assert not caplog.records
    for share in (0.5, 0.8):
        path.write_bytes(whole[: round(len(whole) * share)])
        source = open_source(str(path))
        caplog.clear()
        assert not source.damage
        count = len(list(source.frames()))
        assert 10 < count < 80
        (text,) = [text for text in caplog.messages if "PyAV is not installed" not in text]
        assert f"damaged: {count} frames were read; " in text
        assert "it was cut off" in text
        assert source.damage in text


def test_a_gif_without_its_end_was_cut_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "x.gif"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("gif", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb8"
        for index in range(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(quarters(index), format="bgr24")))
        container.mux(stream.encode(None))
    assert len(times(path)) == 20
    assert not caplog.records
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 5 < len(times(path)) < 20
    assert "it was cut off" in caplog.text


def test_an_edit_list_is_no_damage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A part that was cut out of a video without encoding it: its first frames are there, but are not shown."""

    def earlier(number: int, packet: Any) -> None:
        packet.pts -= 800
        packet.dts -= 800

    plain = encode(tmp_path / "plain.mkv", range(0, 2400, 40), options={"bf": "0", "g": "60"})
    path = remux(plain, tmp_path / "x.mp4", earlier, avoid_negative_ts="disabled")
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 60
    source = open_source(str(path))
    got = list(source.frames())
    assert [f.name for f in got] == [f"x-{number:06d}" for number in range(40)]
    assert [f.timestamp for f in got] == evenly(40)
    assert [f.name for f in source.frames(start=1)] == [f.name for f in got[25:]]
    assert (source.damage, source.count) == ("", 40)
    assert not caplog.records


def test_dropped_frames_of_an_avi_are_no_damage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = encode(tmp_path / "plain.avi", range(60), codec="mpeg4", unit=Fraction(1, 25))
    path = remux(plain, tmp_path / "x.avi", lambda number, packet: number not in (10, 11, 12, 30))
    source = open_source(str(path))
    got = [f.timestamp for f in source.frames()]
    assert got == pytest.approx([n / 25 for n in range(60) if n not in (10, 11, 12, 30)], abs=1e-3)
    assert source.damage == ""
    assert not caplog.records


def test_a_recording_that_begins_between_key_frames_is_no_damage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = encode(
        tmp_path / "x.ts", range(0, 2400, 40), options={"g": "20", "bf": "0"}, muxer={"mpegts_flags": "+resend_headers"}
    )
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    data = path.read_bytes()
    path.write_bytes(data[: 3 * 188] + data[places[7] :])
    source = open_source(str(path))
    names = [f.name for f in source.frames()]
    assert len(names) >= 40
    assert names == [f"x-{number:06d}" for number in range(len(names))]
    assert source.damage == ""
    assert "damaged" not in caplog.text
    assert [f.name for f in source.frames(start=1)] == names[-len(list(source.frames(start=1))) :]


def test_damage_has_its_own_exit_status(infer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = encode(tmp_path / "x.mkv", range(0, 2400, 40), options={"g": "10"})
    whole = path.read_bytes()
    assert infer(path, "--out", "o.mp4", "--json", "s.json") == 0
    found = json.loads(Path("s.json").read_text())
    assert (found["damage"], found["status"]) == (None, 0)
    assert "damaged" not in capsys.readouterr().out
    path.write_bytes(whole[: len(whole) // 2])
    assert infer(path, "--out", "o.mp4", "--json", "s.json") == 3
    found = json.loads(Path("s.json").read_text())
    assert found["status"] == 3
    assert found["frames"] == len(overlay_times("o.mp4")) > 10
    assert f"{len(whole) - len(whole) // 2} bytes or more are missing" in found["damage"]
    assert f"the source is damaged: {found['damage']}; exit status 3\n" in capsys.readouterr().out
    assert infer(path, "--limit", 5, "--out", "o.mp4") == 0, "what was asked for is there"
    with pytest.raises(SystemExit):
        infer("--help")
    assert "3 some input was damaged or skipped" in " ".join(capsys.readouterr().out.split())


def overlay_times(path: str | Path) -> list[float]:
    with av.open(str(path)) as container:
        return [frame.time for frame in container.decode(video=0)]


def line_times(path: str | Path) -> list[float]:
    return [json.loads(line)["time_s"] for line in Path(path).read_text().splitlines()]
