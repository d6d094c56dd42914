"""Segment a video, an image or a folder of images with an engine: overlays, masks and statistics.

Runs on the device: needs an engine folder and no training library, DVC or params.yaml.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from contextlib import ExitStack
from pathlib import Path

if importlib.util.find_spec("pipeline") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.artifact import dump_json
from pipeline.errors import command
from pipeline.runtimes import open_engine
from pipeline.video.loop import segment
from pipeline.video.outputs import choose_sinks
from pipeline.video.overlay import Overlay
from pipeline.video.progress import Progress, expected
from pipeline.video.sources import open_source
from pipeline.video.staged import StagedText

OUT_HELP = (
    "where overlays go: an .mp4 file (H.264), a folder for PNGs, or, for one image, a .png or .jpg file; default: "
    "overlay.mp4, or NAME-overlay.png for one image, in the current folder; no overlays when only --masks is given"
)


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}; allowed: a whole number from 1")
    return int(text)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Segment a video, an image or a folder of images with an engine.",
        epilog="example: python stages/infer.py artifacts/engines/NAME drive.mp4 --out overlay.mp4 --masks masks",
    )
    add = parser.add_argument
    add("engine", type=Path, help="engine folder, built on this machine by: dvc repro convert")
    add("source", type=Path, help="video file, image, or folder of images (taken in order of their names)")
    add("--out", type=Path, metavar="PATH", help=OUT_HELP)
    add("--masks", type=Path, metavar="DIR", help="write label maps (PNG, train ids, frame size) to this folder")
    add("--alpha", type=float, default=0.5, help="opacity of the class colours, 0 to 1; default: %(default)s")
    add("--legend", action=argparse.BooleanOptionalAction, default=True, help="name the classes in the picture")
    add("--fps", type=float, help="frame rate of a video made from a folder of images; default: 25")
    add("--limit", type=positive, metavar="N", help="stop after N frames")
    add("--threads", type=positive, metavar="N", help="threads of the engine; default: as it was built")
    add("--json", type=Path, metavar="FILE", help="write the summary as JSON, too")
    return parser.parse_args()


@command
def main() -> None:
    args = parse()
    source = open_source(args.source)
    draws = args.out is not None or args.masks is None
    engine, facts = open_engine(args.engine, options={"threads": args.threads} if args.threads else None)
    with ExitStack() as stack:
        stack.callback(engine.close)
        report = stack.enter_context(StagedText(args.json)) if args.json else None
        sinks = choose_sinks(source, out=args.out, masks=args.masks, labels=facts.labels, fps=args.fps)
        progress = stack.enter_context(Progress(expected(source.count, args.limit), sys.stderr))
        summary = segment(
            source,
            engine,
            labels=facts.labels,
            sinks=sinks,
            overlay=Overlay(facts.labels, alpha=args.alpha, legend=args.legend) if draws else None,
            limit=args.limit,
            progress=progress.update,
        )
        if report:
            report.put(dump_json({**summary.to_meta(), "engine": facts.hash, "source": args.source.name}))
    paths = [sink.path for sink in sinks] + ([args.json] if args.json else [])
    print(summary.describe(), "", *(f"written: {path}" for path in paths), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
