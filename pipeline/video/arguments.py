"""The command line of ``segpress infer`` and ``stages/infer.py``."""

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
  %(prog)s ENGINE drive.mp4                                   -> drive-overlay.mp4
  %(prog)s ENGINE "drives/*.mp4" --lines "{name}.jsonl"       one run per video: NAME-overlay.mp4, NAME.jsonl
  %(prog)s ENGINE drive.mp4 --masks masks --ids original      label maps for a test server
  %(prog)s ENGINE "frames/*.png" --out overlays               images -> images
  %(prog)s ENGINE rtsp://camera/1 --serve 8080                watch it at http://127.0.0.1:8080
  %(prog)s ENGINE 0 --out rtsp://server:8554/front            a camera with its overlay, for other players
  %(prog)s ENGINE 0 --window                                  first camera, on the screen
  %(prog)s ENGINE drive.mp4 --benchmark                       where the time goes; writes nothing

Ctrl-C ends a run cleanly: frames that were read are processed and written. Frames of live sources that come too fast
are dropped and counted; frames of files never are. More: docs/video.md

exit status: 0 all was processed; 1 error; 2 wrong options; 3 some input was damaged or skipped; 130 interrupted"""


def number(kind: Callable[[str], float], least: float, what: str) -> Callable[[str], float]:
    """Parser of an argument of type ``kind``, at least ``least``; ``what`` describes it in the error."""

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
    """The texts between commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


Add = Callable[..., argparse.Action]


def parse() -> argparse.Namespace:
    """The arguments of this process. Exits with status 2 if they are invalid."""
    parser = argparse.ArgumentParser(
        description="Segment videos, images, a camera or a stream with an engine.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s ENGINE SOURCE... [options]",
    )
    parser.add_argument(
        "engine",
        type=Path,
        metavar="ENGINE",
        help="folder of an engine that was built on this machine, or of its variants: the fastest one is used",
    )
    parser.add_argument(
        "sources",
        metavar="SOURCE",
        nargs="+",
        help="video, image, folder or pattern ('frames/*.png'), - (standard input), camera (0), address (rtsp://, "
        "http://) or GStreamer pipeline ('... ! appsink'); several videos: one run per video",
    )
    for title, arguments in (
        ("write files (default: NAME-overlay.mp4, or NAME-overlay.png for one image)", _files),
        ("watch the overlay", _watching),
        ("draw the overlay", _drawing),
        ("count in zones, react to events", _zones),
        ("choose frames", _frames),
        ("prepare frames for the engine, smooth its labels", _seeing),
        ("speed and waiting", _engine),
    ):
        arguments(parser.add_argument_group(title).add_argument)
    given = parser.parse_intermixed_args()
    streamed = given.out is not None and is_address(given.out)
    given.stream = given.out if streamed else None  # a Path would replace its two slashes by one
    given.out = Path(given.out) if given.out is not None and not streamed else None
    return given


def _files(add: Add) -> None:
    add(
        "--out",
        metavar="PATH",
        help="overlays: .mp4, .m3u8 (HLS), a folder of PNGs, .png or .jpg for one image, or an address to stream to "
        "(rtsp://, rtmp://, udp://, srt://)",
    )
    add("--masks", type=Path, metavar="DIR", help="label maps: PNGs of the size of the frames")
    add("--confidence", type=Path, metavar="DIR", help="how sure each label is: PNGs, 0 to 255 for 0 to 100 %%")
    add("--ids", choices=("train", "original"), default="train", help="ids in the masks; original: of the data set")
    add(
        "--lines",
        type=Path,
        metavar="FILE",
        help="a line of JSON per frame: class shares, confidence, latency; - prints them",
    )
    add("--json", type=Path, metavar="FILE", help="the summary; - prints it")
    add(
        "--fps", type=rate, metavar="N", help="rate of images (default: 25), or of a video that has a wrong one or none"
    )
    add("--audio", action="store_true", help="copy the sound of a video file into the overlay video")
    add("--crf", type=int, default=20, metavar="Q", help="quality of H.264, 0 (lossless) to 51; default: %(default)s")
    add("--preset", choices=PRESETS, default="ultrafast", metavar="P", help=f"of H.264: {', '.join(PRESETS)}")


def _watching(add: Add) -> None:
    add("--serve", metavar="[HOST:]PORT", help="on a web page; only this machine sees it unless HOST is given")
    add("--allow-host", type=names, default=[], metavar="NAME,...", help="host names that a proxy sends to the page")
    add("--embed", type=names, default=[], metavar="ORIGIN,...", help="sites that may show the page in a frame")
    add("--window", action="store_true", help="in a window on this screen; q closes it")


def _drawing(add: Add) -> None:
    add("--alpha", type=float, default=0.5, metavar="A", help="opacity of the colours, 0 to 1; default: %(default)s")
    add("--uncertainty", action="store_true", help="show where the network is unsure instead of the classes")
    add("--only", metavar="CLASS,...", help="tint these classes only")
    add("--side-by-side", action="store_true", help="add the frame without colours on the left")
    add("--no-legend", dest="legend", action="store_false", help="leave out the names of the classes, or the scale")


def _zones(add: Add) -> None:
    add("--zones", type=Path, metavar="FILE", help="polygons (JSON or YAML): count classes in each, or ignore it")
    add("--events", type=Path, metavar="FILE", help="rules (JSON or YAML): write a line and a clip, call a URL")
    add("--event-dir", type=Path, metavar="DIR", help="folder for these lines and clips; default: events")


def _frames(add: Add) -> None:
    add("--start", type=seconds, default=0.0, metavar="S", help="skip the first seconds of a video")
    add("--duration", type=seconds, metavar="S", help="stop after S seconds of a video")
    add("--every", type=positive, default=1, metavar="N", help="take every N-th frame")
    add("--limit", type=positive, metavar="N", help="stop after N frames")
    add(
        "--stream",
        dest="number",
        type=number(int, 0, "a whole number from 0"),
        metavar="N",
        help="number of the video stream, where a file has several",
    )
    add("--strict", action="store_true", help="stop at the first image or source that cannot be read")


def _seeing(add: Add) -> None:
    add("--region", metavar="X,Y,W,H", help="a part of the frame: pixels, or percent (0%%,40%%,100%%,60%%)")
    add("--resize", choices=POLICIES, default="stretch", help="to the input size; default, as in check: stretch")
    add("--no-tone-map", dest="tone_map", action="store_false", help="keep HDR (PQ, HLG); default: make it SDR")
    add("--no-deinterlace", dest="deinterlace", action="store_false", help="keep interlaced frames as they are")
    add(
        "--smooth",
        nargs="?",
        type=positive,
        const=FRAMES,
        metavar="FRAMES",
        help="labels follow the motion, and change after FRAMES frames (2 to 60, without a number %(const)s); for 10 "
        "frames per second or more",
    )


def _engine(add: Add) -> None:
    add("--threads", type=positive, metavar="N", help="threads of the engine on a CPU; default: as it was built")
    add("--contexts", type=positive, metavar="N", help="frames that are processed at the same time")
    add(
        "--timeout",
        type=seconds,
        default=10.0,
        metavar="S",
        help="wait for an answer of a stream; default: %(default)g",
    )
    add("--patience", type=seconds, default=60.0, metavar="S", help="wait for a lost stream; default: %(default)g")
    add("--benchmark", action="store_true", help="write nothing; measure each step, and the engine alone")
