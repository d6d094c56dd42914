"""Sound in the overlay video: a click and a flash at the same moment stay at the same moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.labels import LabelSpec
from pipeline.video.outputs import Outputs
from pipeline.video.selection import Selection
from pipeline.video.sinks import Result
from pipeline.video.sources import Source, open_source
from tests.video.fakes import Bars

av = pytest.importorskip("av", reason="PyAV makes the test videos")

RATE = 48_000
FPS = 25
EVENT = 1.0  # when it flashes and clicks, in seconds


def film(
    path: Path,
    *,
    codec: str = "aac",
    layout: str = "stereo",
    seconds: float = 2.0,
    late: float = 0.0,
    rate: int = RATE,
) -> Path:
    """Black and silent but for a flash of one frame and a click of 20 ms at :data:`EVENT`.

    Args:
        late: seconds by which the pictures begin later than the sound.
    """
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4" if path.suffix == ".avi" else "libx264", rate=FPS)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream(codec, rate=rate)
        audio.codec_context.layout = layout
        events: list[tuple[float, Any, Any]] = []
        for index in range(round(late * FPS), round(seconds * FPS)):
            image = np.full((48, 64, 3), 235 if index == round(EVENT * FPS) else 20, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            events.append((index / FPS, video, frame))
        wave = np.zeros(round(seconds * rate), np.float32)
        click = slice(round(EVENT * rate), round((EVENT + 0.02) * rate))
        wave[click] = 0.8 * np.sin(np.arange(click.stop - click.start) * 0.3)
        channels = 1 if layout == "mono" else 2
        for start in range(0, len(wave), 1024):
            samples = np.repeat(wave[None, start : start + 1024], channels, axis=0)
            sound = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
            sound.sample_rate, sound.time_base = rate, Fraction(1, rate)
            sound.pts = start
            events.append((start / rate, audio, sound))
        for _, stream, frame in sorted(events, key=lambda event: event[0]):
            container.mux(stream.encode(frame))
        for stream in (video, audio):
            container.mux(stream.encode(None))
    return path


def overlay(
    source: Source, out: Path, labels: LabelSpec, make_result: Callable[..., Result], **selection: Any
) -> tuple[float | None, float | None, Any]:
    """When it flashes and clicks in the overlay video of a source, and its audio stream; None where it does not."""
    chosen = Selection(**selection)
    (sink,) = Outputs(out=out, audio=True).sinks(source, labels=labels, engine="e")
    with sink:
        for index, frame in enumerate(chosen.frames(source)):
            sink.write(make_result(index, picture=frame.picture, timestamp=frame.timestamp))
    return when(out)


def when(path: Path) -> tuple[float | None, float | None, Any]:
    flash = click = None
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            if frame.to_ndarray(format="gray").mean() > 150:
                flash = frame.time
                break
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return flash, None, None
        stream = container.streams.audio[0]
        facts = (stream.codec_context.name, container.duration / av.time_base)
        for frame in container.decode(stream):
            samples = frame.to_ndarray()  # planar (channels, samples), or packed (1, samples x channels)
            step = 1 if frame.format.is_planar else frame.layout.nb_channels
            scale = 1 if samples.dtype.kind == "f" else np.iinfo(samples.dtype).max
            loud = np.flatnonzero(abs(samples[0, ::step] / scale) > 0.2)
            if len(loud):
                click = frame.time + loud[0] / frame.sample_rate
                break
    return flash, click, facts


@pytest.mark.parametrize(
    ("name", "codec", "written"),
    [
        ("a.mp4", "aac", "aac"),
        ("a.mov", "pcm_s16le", "aac"),
        ("a.mkv", "mp2", "aac"),
        ("a.mkv", "libopus", "opus"),
        ("a.mkv", "flac", "flac"),
        ("a.ts", "aac", "aac"),
        ("a.avi", "pcm_s16le", "aac"),
        ("a.mkv", "ac3", "ac3"),
        ("a.avi", "libmp3lame", "mp3"),
    ],
)
def test_in_step(
    tmp_path: Path, labels: LabelSpec, make_result: Callable[..., Result], name: str, codec: str, written: str
) -> None:
    source = open_source(str(film(tmp_path / name, codec=codec)))
    flash, click, facts = overlay(source, tmp_path / "o.mp4", labels, make_result)
    before = when(tmp_path / name)
    assert flash == pytest.approx(EVENT, abs=0.041), "AVI begins with a frame that lasts twice as long"
    assert flash is not None
    assert click is not None
    assert before[0] is not None
    assert before[1] is not None
    # encoders shift a click by some milliseconds, and do so in the source, too
    assert click - flash == pytest.approx(before[1] - before[0], abs=0.008)
    assert written in facts[0]
    assert facts[1] <= 2.05


@pytest.mark.parametrize(
    "selection", [{"start": 0.6}, {"start": 0.64, "duration": 1.0}, {"every": 5}, {"start": 0.2, "every": 2}]
)
@pytest.mark.parametrize("name", ["a.mp4", "a.ts"])
def test_part_of_a_video(
    tmp_path: Path, labels: LabelSpec, make_result: Callable[..., Result], name: str, selection: dict[str, Any]
) -> None:
    source = open_source(str(film(tmp_path / name)))
    first = next(source.frames()).timestamp  # MPEG-TS: the sound begins a little before the pictures
    assert first is not None and first < 0.03
    from_file = {**selection, "start": selection["start"] + first} if "start" in selection else selection
    flash, click, facts = overlay(source, tmp_path / "o.mp4", labels, make_result, **from_file)
    assert flash == pytest.approx(EVENT - selection.get("start", 0), abs=0.001)
    assert click == pytest.approx(flash, abs=0.03)
    assert facts[1] == pytest.approx(selection.get("duration", 2 - selection.get("start", 0)), abs=0.17)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_pictures_that_begin_late(
    tmp_path: Path, labels: LabelSpec, make_result: Callable[..., Result], name: str
) -> None:
    source = open_source(str(film(tmp_path / name, late=0.4)))
    flash, click, _ = overlay(source, tmp_path / "o.mp4", labels, make_result)
    assert flash is not None
    assert click == pytest.approx(flash, abs=0.03)


@pytest.mark.parametrize(("layout", "rate"), [("mono", 8_000), ("mono", 44_100), ("stereo", 192_000)])
def test_rates_and_channels(
    tmp_path: Path, labels: LabelSpec, make_result: Callable[..., Result], layout: str, rate: int
) -> None:
    source = open_source(str(film(tmp_path / "a.mov", codec="pcm_s16le", layout=layout, rate=rate)))
    flash, click, _ = overlay(source, tmp_path / "o.mp4", labels, make_result)
    assert click == pytest.approx(flash, abs=0.03)


def test_times_that_jump_end_the_sound(
    tmp_path: Path, labels: LabelSpec, make_result: Callable[..., Result], caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be kept in step is left out and told."""
    whole = tmp_path / "joined.ts"
    whole.write_bytes(film(tmp_path / "a.ts").read_bytes() * 2)
    flash, click, _ = overlay(open_source(str(whole)), tmp_path / "o.mp4", labels, make_result)
    assert click == pytest.approx(flash, abs=0.03)
    (text,) = [text for text in caplog.messages if "sound" in text]
    assert "the times of its sound jump from" in text
    assert text.endswith("the overlay video has no sound from there on")


def test_sound_that_is_gone_at_the_end_does_not_cost_the_video(
    tmp_path: Path, labels: LabelSpec, make_result: Callable[..., Result], caplog: pytest.LogCaptureFixture
) -> None:
    path = film(tmp_path / "a.mp4")
    source = open_source(str(path))
    frames = list(source.frames())
    (sink,) = Outputs(out=tmp_path / "o.mp4", audio=True).sinks(source, labels=labels, engine="e")
    with sink:
        for index, frame in enumerate(frames):
            sink.write(make_result(index, picture=frame.picture, timestamp=frame.timestamp))
        path.unlink()
    flash, _, facts = when(tmp_path / "o.mp4")
    assert (flash, facts) == (pytest.approx(EVENT), None)
    assert len(caplog.messages) == 1
    assert f"{path}: its sound could not be copied" in caplog.messages[0]


def test_sound_that_mp4_cannot_hold_does_not_cost_the_video(
    tmp_path: Path, labels: LabelSpec, make_result: Callable[..., Result], caplog: pytest.LogCaptureFixture
) -> None:
    """As when a codec lacks the facts that MP4 writes in front: here PCM that is taken for AAC."""
    source = open_source(str(film(tmp_path / "a.avi", codec="pcm_s16le")))
    assert source.sound is not None
    source.sound = replace(source.sound, codec="aac")
    flash, _, facts = overlay(source, tmp_path / "o.mp4", labels, make_result)
    assert (flash, facts) == (pytest.approx(EVENT, abs=0.05), None)
    assert len(caplog.messages) == 1
    assert "its sound could not be copied" in caplog.messages[0]


def test_sound_that_is_left_is_told(
    tmp_path: Path, labels: LabelSpec, make_video: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = film(tmp_path / "a.mp4")
    out = tmp_path / "o.mp4"
    Outputs(out=out).sinks(open_source(str(path)), labels=labels, engine="e")
    assert caplog.messages == [f"{path}: its sound is not carried over to {out}; --audio copies it"]
    caplog.clear()
    Outputs(masks=tmp_path / "m").sinks(open_source(str(path)), labels=labels, engine="e")
    Outputs(out=out).sinks(open_source(str(make_video())), labels=labels, engine="e")
    assert not caplog.messages, "masks have no sound, and this video has none"


def test_a_video_without_sound(
    tmp_path: Path,
    labels: LabelSpec,
    make_video: Callable[..., Path],
    make_result: Callable[..., Result],
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = open_source(str(make_video()))
    _, _, facts = overlay(source, tmp_path / "o.mp4", labels, make_result)
    assert facts is None
    assert caplog.messages == [f"{source.name}: has no sound that can be copied; {tmp_path / 'o.mp4'} is silent"]


@pytest.mark.parametrize(
    ("out", "live", "message"),
    [
        ("pictures", False, r"--audio copies sound into an overlay video; name one with --out NAME\.mp4"),
        (None, False, "--audio copies sound into an overlay video"),
        ("o.mp4", True, "bars: is live, and sound is copied from files only; leave --audio out"),
    ],
)
def test_refusals(tmp_path: Path, labels: LabelSpec, out: str | None, live: bool, message: str) -> None:
    wanted = Outputs(out=tmp_path / out if out else None, masks=tmp_path / "m", audio=True)
    with pytest.raises(UserError, match=message):
        wanted.sinks(Bars(live=live), labels=labels, engine="e")


def test_images_have_no_sound(folder: Path, tmp_path: Path, labels: LabelSpec) -> None:
    with pytest.raises(UserError, match="images have no sound; leave --audio out"):
        Outputs(out=tmp_path / "o.mp4", audio=True).sinks(open_source(str(folder)), labels=labels, engine="e")


def test_the_benchmark_writes_no_sound(labels: LabelSpec) -> None:
    with pytest.raises(UserError, match="--benchmark writes nothing; leave"):
        Outputs(benchmark=True, audio=True).sinks(Bars(), labels=labels, engine="e")


def test_what_failed_keeps_its_sound(
    tmp_path: Path, labels: LabelSpec, frame: Array, make_result: Callable[..., Result]
) -> None:
    source = open_source(str(film(tmp_path / "a.mp4")))
    (sink,) = Outputs(out=tmp_path / "o.mp4", audio=True).sinks(source, labels=labels, engine="e")
    with pytest.raises(RuntimeError), sink:
        for index, given in enumerate(source.frames()):
            sink.write(make_result(index, picture=given.picture, timestamp=given.timestamp))
        raise RuntimeError
    (left,) = tmp_path.glob("o.partial-*")
    flash, click, _ = when(left)
    assert click == pytest.approx(flash, abs=0.03)
