"""Videos with sound: a flash and a click at the same moment, and the times of both in an overlay video."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.labels import LabelSpec
from pipeline.video.outputs import Outputs
from pipeline.video.selection import Selection
from pipeline.video.sinks import Result
from pipeline.video.sources import Source

av = pytest.importorskip("av", reason="PyAV makes the test videos")

RATE = 48_000
FPS = 25
EVENT = 1.0  # time of the flash and the click, in seconds


def film(
    path: Path,
    *,
    codec: str = "aac",
    layout: str = "stereo",
    seconds: float = 2.0,
    late: float = 0.0,
    gap: tuple[float, float] = (0, 0),
    rate: int = RATE,
    noise: bool = False,
) -> Path:
    """A black and silent video, except for a flash of one frame and a click of 20 ms at :data:`EVENT`.

    Args:
        late: seconds by which the pictures begin later than the sound.
        gap: between these seconds there is no picture.
        noise: the sound is noise, so that no two packets are equal.
    """
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4" if path.suffix == ".avi" else "libx264", rate=FPS)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream(codec, rate=rate)
        audio.codec_context.layout = layout
        events: list[tuple[float, Any, Any]] = []
        for index in range(round(late * FPS), round(seconds * FPS)):
            if gap[0] <= index / FPS < gap[1]:
                continue
            image = np.full((48, 64, 3), 235 if index == round(EVENT * FPS) else 20, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            events.append((index / FPS, video, frame))
        wave = np.zeros(round(seconds * rate), np.float32)
        if noise:
            wave[:] = np.random.default_rng(0).uniform(-0.1, 0.1, len(wave))
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
    """Times of the flash and the click in the overlay video of a source, and its audio stream; None for a missing
    one."""
    chosen = Selection(**selection)
    (sink,) = Outputs(out=out, audio=True).sinks(source, labels=labels, engine="e")
    with sink:
        for index, frame in enumerate(chosen.frames(source)):
            sink.write(make_result(index, picture=frame.picture, timestamp=frame.timestamp))
    return when(out)


def when(path: Path) -> tuple[float | None, float | None, Any]:
    """Times of the flash and the click in a video, and (codec, seconds) of its sound if it has any."""
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
