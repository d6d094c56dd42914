"""Cost of tone mapping and deinterlacing: time of one core to read a frame, with and without.

    python benchmarks/video_facts.py drive.mp4 --scale 720 1080 2160

The video is encoded anew at each height: as HLG of 10 bits in HEVC, as phones record it, and as interlaced H.264. Both
ways of reading take turns, so that a busy machine hits both alike; figures are medians of the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from pipeline.errors import command
from pipeline.video.sources import StreamOptions, open_source

HLG = 18
#: Name, codec, pixel format, options of the encoder, and how it is read otherwise.
KINDS = (
    ("tone mapping", "libx265", "yuv420p10le", {"crf": "26", "preset": "ultrafast"}, StreamOptions(tone_map=False)),
    ("deinterlacing", "libx264", "yuv420p", {"crf": "22", "flags": "+ildct+ilme"}, StreamOptions(deinterlace=False)),
)


def encoded(video: Path, height: int, path: Path, kind: int, *, count: int) -> Path:
    """The first frames of the video at another height, as one of :data:`KINDS`. Only the tags make it HDR."""
    _, codec, form, options, otherwise = KINDS[kind]
    with av.open(str(video)) as source, av.open(str(path), "w") as target:
        old = source.streams.video[0]
        new = target.add_stream(codec, rate=25, options=options)
        new.height, new.width, new.pix_fmt = height, round(old.width * height / old.height / 2) * 2, form
        if not otherwise.tone_map:
            context = new.codec_context
            context.colorspace, context.color_primaries, context.color_trc = 9, 9, HLG
        for index, frame in zip(range(count), source.decode(old), strict=False):
            picture = frame.reformat(new.width, new.height, form)
            if not otherwise.tone_map:
                picture.colorspace, picture.color_primaries, picture.color_trc = 9, 9, HLG
            picture.pts, picture.time_base, picture.pict_type = index, Fraction(1, 25), 0
            target.mux(new.encode(picture))
        target.mux(new.encode(None))
    return path


def cost(path: Path, reading: StreamOptions) -> float:
    """Milliseconds of one core per frame, decoding included."""
    source = open_source(str(path), reading=reading)
    start = time.process_time()
    count = sum(1 for _ in source.frames())
    return 1000 * (time.process_time() - start) / count


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("--scale", type=int, nargs="+", default=[720, 1080])
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    table = Table("lines", "what", "as it is, ms", "done, ms", "cost, ms")
    with tempfile.TemporaryDirectory() as folder:
        for height in args.scale:
            for number, (name, *_, otherwise) in enumerate(KINDS):
                path = encoded(args.video, height, Path(folder) / f"{number}.mp4", number, count=args.frames)
                rounds = np.array(
                    [[cost(path, otherwise), cost(path, StreamOptions())] for _ in range(args.rounds + 1)][1:]
                )
                without, done = (statistics.median(column) for column in rounds.T)
                table.add_row(str(height), name, f"{without:.2f}", f"{done:.2f}", f"{done - without:.2f}")
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
