"""Segment a video, a camera, a stream or images with an engine: overlays, label maps and figures.

Runs on the device: needs an engine folder and no training library, DVC or params.yaml.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

if importlib.util.find_spec("pipeline") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2

from pipeline.artifact import dump_json
from pipeline.errors import UserError, closest, command
from pipeline.labels import LabelSpec
from pipeline.video.engines import open_engines, rate_alone
from pipeline.video.loop import Looking, segment
from pipeline.video.outputs import STANDARD_OUTPUT, Outputs
from pipeline.video.overlay import Overlay
from pipeline.video.progress import Progress
from pipeline.video.selection import Selection
from pipeline.video.sinks.h264 import PRESETS
from pipeline.video.smoothing import Smoother
from pipeline.video.sources import open_source
from pipeline.video.staged import StagedText
from pipeline.video.view import POLICIES, Region

EPILOG = """examples:
  infer.py ENGINE drive.mp4                                   -> overlay.mp4
  infer.py ENGINE drive.mp4 --masks masks --ids original      label maps for a test server
  infer.py ENGINE "frames/*.png" --out overlays               images -> images
  infer.py ENGINE rtsp://camera/1 --serve 8080                watch it at http://127.0.0.1:8080
  infer.py ENGINE 0 --window                                  first camera, on the screen
  infer.py ENGINE drive.mp4 --benchmark                       where the time goes; writes nothing

ENGINE is a folder that was built on this machine, such as artifacts/engines/kd/int8. Ctrl-C ends a run in good order:
what was read is finished and written. Live sources drop frames that come too early and count them; files never do."""


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


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Segment a video, a camera, a stream or images with an engine.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s ENGINE SOURCE [options]",
    )
    parser.add_argument("engine", type=Path, metavar="ENGINE", help="engine folder")
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="video, image, folder of images, pattern ('frames/*.png'), camera (0), address (rtsp://, http://), or "
        "GStreamer pipeline ('... ! appsink')",
    )
    add = parser.add_argument_group(
        "what is written (default: overlay.mp4, or NAME-overlay.png for one image)"
    ).add_argument
    add(
        "--out", type=Path, metavar="PATH", help="overlays: .mp4 (H.264), a folder for PNGs, or .png/.jpg for one image"
    )
    add("--masks", type=Path, metavar="DIR", help="label maps: PNGs of the frames' size")
    add("--ids", choices=("train", "original"), default="train", help="numbers in them; original: the data set's own")
    add(
        "--lines",
        type=Path,
        metavar="FILE",
        help="a line of JSON for each frame: class shares, latency, age; - prints them",
    )
    add("--json", type=Path, metavar="FILE", help="the summary that is printed at the end")
    add("--serve", metavar="[HOST:]PORT", help="a web page with the live overlay; on 127.0.0.1 unless HOST is given")
    add("--window", action="store_true", help="a window on this screen; q closes it")
    add("--benchmark", action="store_true", help="write nothing; measure steps, and the engine alone beside them")
    add = parser.add_argument_group("what is drawn").add_argument
    add("--alpha", type=float, default=0.5, help="opacity of the class colours, 0 to 1; default: %(default)s")
    add("--only", metavar="CLASS,...", help="tint these classes only")
    add("--side-by-side", action="store_true", help="the frame as it is on the left")
    add("--no-legend", dest="legend", action="store_false", help="no names of classes in the picture")
    add("--crf", type=int, default=20, help="quality of H.264, 0 (lossless) to 51; default: %(default)s")
    add("--preset", choices=PRESETS, default="ultrafast", help="effort of H.264; slower ones make smaller files")
    add("--fps", type=float, help="frame rate of a video made of images; default: 25")
    add = parser.add_argument_group("which frames, and how the engine looks at them").add_argument
    add("--start", type=seconds, default=0.0, metavar="S", help="pass over the first seconds of a video")
    add("--duration", type=seconds, metavar="S", help="take so many seconds")
    add("--every", type=positive, default=1, metavar="N", help="take every N-th frame")
    add("--limit", type=positive, metavar="N", help="stop after N frames")
    add("--region", metavar="X,Y,W,H", help="look at this part only: pixels, or percent (0%%,40%%,100%%,60%%)")
    add("--resize", choices=POLICIES, default="stretch", help="to the engine's shape; default, as in `check`: stretch")
    add("--smooth", action="store_true", help="steady the label maps over time")
    add = parser.add_argument_group("engine and source").add_argument
    add("--threads", type=positive, metavar="N", help="threads of the engine on a CPU; default: as it was built")
    add("--contexts", type=positive, metavar="N", help="frames in work at a time; default: what suits the source")
    add("--timeout", type=seconds, default=10.0, metavar="S", help="for a stream to answer; default: %(default)g")
    add("--patience", type=seconds, default=60.0, metavar="S", help="for a lost stream to return; default: %(default)g")
    return parser.parse_args()


def chosen_ids(labels: LabelSpec, text: str | None) -> list[int] | None:
    """Train ids of class names with commas between them. Raises UserError for a name that is no class."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in labels.names:
            raise UserError(f"--only: '{name}' is no class of this engine; {closest(name, labels.names)}")
    return [labels.names.index(name) for name in names]


@command
def main() -> int:
    args = parse()
    with ExitStack() as stack:
        source = open_source(args.source, open_timeout=args.timeout, read_timeout=args.timeout, patience=args.patience)
        stack.callback(source.close)
        engines, facts = open_engines(args.engine, threads=args.threads, contexts=args.contexts, live=source.live)
        for engine in engines:
            stack.callback(engine.close)
        # the cores belong to the engine and the codecs; small pictures gain nothing from OpenCV's threads
        cv2.setNumThreads(1)
        only = chosen_ids(facts.labels, args.only)
        overlay = Overlay(facts.labels, alpha=args.alpha, legend=args.legend, only=only, side_by_side=args.side_by_side)
        selection = Selection(start=args.start, duration=args.duration, every=args.every, limit=args.limit)
        looking = Looking(args.resize, Region.parse(args.region) if args.region else None)
        report = stack.enter_context(StagedText(args.json)) if args.json else None
        wanted = Outputs(
            out=args.out,
            masks=args.masks,
            original_ids=args.ids == "original",
            lines=args.lines,
            window=args.window,
            serve=args.serve,
            fps=args.fps,
            crf=args.crf,
            preset=args.preset,
        )
        named = "/".join(args.engine.resolve().parts[-2:])
        sinks = [] if args.benchmark else wanted.sinks(source, labels=facts.labels, engine=named, only=only)
        alone = [rate_alone(engines)] if args.benchmark else []
        with Progress(selection.expected(source), sys.stderr) as progress:
            summary = segment(
                source,
                engines,
                labels=facts.labels,
                sinks=sinks,
                overlay=overlay if any(sink.wants_picture for sink in sinks) else None,
                smoother=Smoother() if args.smooth else None,
                looking=looking,
                selection=selection,
                progress=progress.update,
            )
        if args.benchmark:
            alone.append(rate_alone(engines))
        found = {**summary.to_meta(), "engine": facts.hash, "source": source.name, "contexts": len(engines)}
        if alone:
            found["engine_alone_fps"] = round(sum(alone) / len(alone), 2)
        if report:
            report.put(dump_json(found))
    said = [summary.describe(verbose=args.benchmark)]
    if alone:
        rate = sum(alone) / len(alone)
        said += ["", f"engine alone, before and after: {rate:.1f} fps; this run: {summary.fps / rate:.2f} of it"]
    paths = [sink.written for sink in sinks if sink.written] + ([args.json] if args.json else [])
    said += ["", *(f"written: {path}" for path in paths)] if paths else []
    print(*said, sep="\n", file=sys.stderr if args.lines == STANDARD_OUTPUT else sys.stdout)
    return 130 if summary.interrupted and not source.live else 0


if __name__ == "__main__":
    sys.exit(main())
