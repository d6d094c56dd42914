"""The command line of ``stages/infer.py``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

from pipeline.video.sinks._destination import is_address
from pipeline.video.sinks.h264 import PRESETS
from pipeline.video.smoothing import FRAMES
from pipeline.video.view import POLICIES

EPILOG = """examples:
  infer.py ENGINE drive.mp4                                   -> drive-overlay.mp4
  infer.py ENGINE "drives/*.mp4" --lines "{name}.jsonl"       a run for each: NAME-overlay.mp4, NAME.jsonl
  infer.py ENGINE drive.mp4 --masks masks --ids original      label maps for a test server
  infer.py ENGINE "frames/*.png" --out overlays               images -> images
  infer.py ENGINE rtsp://camera/1 --serve 8080                watch it at http://127.0.0.1:8080
  infer.py ENGINE 0 --out rtsp://server:8554/front            a camera with its overlay, for other players
  infer.py ENGINE 0 --window                                  first camera, on the screen
  infer.py ENGINE drive.mp4 --benchmark                       where the time goes; writes nothing

ENGINE is a folder that was built on this machine, such as artifacts/engines/kd/int8. Ctrl-C ends a run in good order:
what was read is finished and written. Live sources drop frames that come too early and count them; files never do.

exit status: 0 everything was processed; 1 an error; 2 wrong options; 3 the run ended, but some input was damaged or
could not be read; 130 interrupted."""


def number(kind: Callable[[str], float], least: float, what: str) -> Callable[[str], float]:
    """Parser of an argument: ``kind`` from ``least`` on, called ``what`` when it is not."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = float("nan")
        if not least <= value < 1e9:
            raise argparse.ArgumentTypeError(f"got {text!r}; allowed: {what}")
        return value

    return parse


positive = number(int, 1, "a whole number from 1")
seconds = number(float, 0, "seconds, from 0")


def rate(text: str) -> float:
    """Parser of a frame rate: ``25``, ``29.97`` or ``30000/1001``."""
    try:
        value = float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        value = float("nan")
    if not 0 < value <= 1000:
        raise argparse.ArgumentTypeError(f"got {text!r}; allowed: above 0, at most 1000, as 25 or 30000/1001")
    return value


def names(text: str) -> list[str]:
    """What stands between commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def parse() -> argparse.Namespace:
    """The arguments of this process. Exits with status 2 where they are not understood."""
    parser = argparse.ArgumentParser(
        description="Segment a video, a camera, a stream or images with an engine.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s ENGINE SOURCE... [options]",
    )
    parser.add_argument("engine", type=Path, metavar="ENGINE", help="engine folder")
    parser.add_argument(
        "sources",
        metavar="SOURCE",
        nargs="+",
        help="video, image, folder or pattern of either ('frames/*.png'), - (standard input), camera (0), address "
        "(rtsp://, http://), or GStreamer pipeline ('... ! appsink'); several videos: a run for each",
    )
    add = parser.add_argument_group(
        "what is written (default: NAME-overlay.mp4, or NAME-overlay.png for one image)"
    ).add_argument
    add(
        "--out",
        metavar="PATH",
        help="overlays: .mp4 (H.264), .m3u8 (HLS), a folder for PNGs, .png/.jpg for one image, or where to stream to: "
        "rtsp://, rtmp://, udp://, srt:// (a file goes out in real time, of something live the newest frame)",
    )
    add("--masks", type=Path, metavar="DIR", help="label maps: PNGs of the frames' size")
    add("--ids", choices=("train", "original"), default="train", help="numbers in them; original: the data set's own")
    add(
        "--lines",
        type=Path,
        metavar="FILE",
        help="a line of JSON for each frame: class shares, latency, age; - prints them",
    )
    add("--json", type=Path, metavar="FILE", help="the summary that is printed at the end; - prints it")
    add("--serve", metavar="[HOST:]PORT", help="a web page with the live overlay; on 127.0.0.1 unless HOST is given")
    add(
        "--allow-host", type=names, default=[], metavar="NAME,...", help="names that a proxy in front of the page sends"
    )
    add("--embed", type=names, default=[], metavar="ORIGIN,...", help="pages that may show it: https://dashboard.lan")
    add("--window", action="store_true", help="a window on this screen; q closes it")
    add(
        "--events",
        type=Path,
        metavar="FILE",
        help="JSON or YAML with rules (class, zone, share, seconds): a line, a clip and a call of a URL for each event",
    )
    add("--event-dir", type=Path, metavar="DIR", help="where the lines and clips of events go; default: events")
    add("--benchmark", action="store_true", help="write nothing; measure steps, and the engine alone beside them")
    add = parser.add_argument_group("what is drawn").add_argument
    add(
        "--alpha",
        type=float,
        default=0.5,
        metavar="A",
        help="opacity of the colours, 0 to 1; default: %(default)s",
    )
    add("--only", metavar="CLASS,...", help="tint these classes only")
    add("--side-by-side", action="store_true", help="the frame as it is on the left")
    add("--no-legend", dest="legend", action="store_false", help="no names of classes in the picture")
    add("--crf", type=int, default=20, metavar="Q", help="quality of H.264, 0 (lossless) to 51; default: %(default)s")
    add("--preset", choices=PRESETS, default="ultrafast", help="effort of H.264; slower ones make smaller files")
    add(
        "--fps",
        type=rate,
        metavar="N",
        help="frame rate: of images (default: 25), or of a video file that says a wrong one or none (.h264)",
    )
    add("--audio", action="store_true", help="copy the sound of a video file into the overlay video")
    add = parser.add_argument_group("which frames, and how the engine looks at them").add_argument
    add("--start", type=seconds, default=0.0, metavar="S", help="pass over the first seconds of a video")
    add("--duration", type=seconds, metavar="S", help="take so many seconds")
    add("--every", type=positive, default=1, metavar="N", help="take every N-th frame")
    add("--limit", type=positive, metavar="N", help="stop after N frames")
    add("--region", metavar="X,Y,W,H", help="look at this part only: pixels, or percent (0%%,40%%,100%%,60%%)")
    add("--resize", choices=POLICIES, default="stretch", help="to the engine's shape; default, as in `check`: stretch")
    add(
        "--smooth",
        nargs="?",
        type=positive,
        const=FRAMES,
        metavar="FRAMES",
        help="steady the label maps of a video: labels follow its motion, and a settled one changes after "
        "FRAMES frames against it (2 to 60; without a number %(const)s); for 10 frames a second or more",
    )
    add(
        "--zones",
        type=Path,
        metavar="FILE",
        help="JSON or YAML with polygons: classes are counted in each zone too, and ignored zones count nowhere",
    )
    add = parser.add_argument_group("engine and source").add_argument
    add("--threads", type=positive, metavar="N", help="threads of the engine on a CPU; default: as it was built")
    add("--contexts", type=positive, metavar="N", help="frames in work at a time; default: what suits the source")
    add(
        "--timeout",
        type=seconds,
        default=10.0,
        metavar="S",
        help="for a stream, in or out, to answer; default: %(default)g",
    )
    add("--patience", type=seconds, default=60.0, metavar="S", help="for a lost stream to return; default: %(default)g")
    add(
        "--stream",
        dest="number",
        type=number(int, 0, "a whole number from 0"),
        metavar="N",
        help="video stream of a file that has several",
    )
    add("--no-tone-map", dest="tone_map", action="store_false", help="leave HDR (PQ, HLG) as it is; default: to SDR")
    add("--no-deinterlace", dest="deinterlace", action="store_false", help="leave interlaced video as it is")
    add("--strict", action="store_true", help="stop at the first image or source that cannot be read")
    given = parser.parse_intermixed_args()
    streamed = given.out is not None and is_address(given.out)
    given.stream = given.out if streamed else None  # a Path would make one of its two slashes
    given.out = Path(given.out) if given.out is not None and not streamed else None
    return given
