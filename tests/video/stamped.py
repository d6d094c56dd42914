"""Videos whose frames have given timestamps, and their times in a source, an overlay video and lines."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.video.sources import open_source
from tests.video.fakes import quarters

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
    """A video of frames with these timestamps, in units; with ``sound_s`` seconds of silent sound from 0 on.

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
    """Copy the packets of a video; ``change`` may change them, and leaves one out if it returns False."""
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


def overlay_times(path: str | Path) -> list[float]:
    with av.open(str(path)) as container:
        return [frame.time for frame in container.decode(video=0)]


def line_times(path: str | Path) -> list[float]:
    return [json.loads(line)["time_s"] for line in Path(path).read_text().splitlines()]
