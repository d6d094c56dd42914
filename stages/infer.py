"""Segment a video, a camera, a stream or images with an engine: overlays, label maps and figures.

Runs on the device: needs an engine folder and no training library, DVC or params.yaml.
"""

from __future__ import annotations

import importlib.util
import signal
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until main() begins, Ctrl-C ends this without a traceback

if importlib.util.find_spec("pipeline") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2

from pipeline.artifact import dump_json
from pipeline.errors import command
from pipeline.video.arguments import parse
from pipeline.video.confidence import check_gives
from pipeline.video.engines import open_engines
from pipeline.video.inputs import Input, inputs_of
from pipeline.video.outputs import STANDARD_OUTPUT, Outputs
from pipeline.video.places import check_several
from pipeline.video.several import Outcome, run_each, status_of, table
from pipeline.video.single import Opened, run_one, tell
from pipeline.video.sinks import check_address
from pipeline.video.staged import StagedText
from pipeline.video.zone_file import read_zones


@command
def main() -> int:
    args = parse()
    check_address(args.stream)
    inputs = inputs_of(args.sources)
    marked = read_zones(args.zones) if args.zones else []
    several = len(inputs) > 1
    wanted = Outputs(
        out=args.out,
        masks=args.masks,
        confidence=args.confidence,
        original_ids=args.ids == "original",
        lines=args.lines,
        window=args.window,
        serve=args.serve,
        allow_hosts=args.allow_host,
        embed=args.embed,
        fps=args.fps,
        crf=args.crf,
        preset=args.preset,
        event_dir=args.event_dir,
        stream=args.stream,
        timeout=args.timeout,
        patience=args.patience,
        audio=args.audio,
        every=args.every,
        report=args.json,
        benchmark=args.benchmark,
    )
    read = [path for given in inputs for path in ([given.path] if given.path else given.images)] if several else None
    check_several(wanted, len(inputs), read or [])
    opened: list[Opened] = []
    with ExitStack() as stack:

        def engines_for(live: bool) -> Opened:
            """The engines, opened with the first source that can be read."""
            if not opened:
                opened.append(open_engines(args.engine, threads=args.threads, contexts=args.contexts, live=live))
                for engine in opened[0][0]:
                    stack.callback(engine.close)
                needing = {"--uncertainty": args.uncertainty, "--confidence": bool(args.confidence)}
                check_gives(opened[0][0], options=needing)
                # the cores belong to the engine and the codecs; small pictures gain nothing from OpenCV's threads
                cv2.setNumThreads(1)
            return opened[0]

        def run(given: Input) -> Outcome:
            return run_one(given, args=args, wanted=wanted, marked=marked, read=read, engines_for=engines_for)

        if several:
            engines_for(False)  # without an engine nothing is begun
            report = stack.enter_context(StagedText(args.json)) if args.json and args.json != STANDARD_OUTPUT else None
            outcomes = run_each(inputs, run, strict=args.strict)
            status = status_of(outcomes, expected=len(inputs))
            found: Mapping[str, Any] = {"status": status, "sources": [outcome.to_meta() for outcome in outcomes]}
            said = table(outcomes, expected=len(inputs))
            if report:
                report.put(dump_json(found))
                said += f"\nwritten: {args.json}"
        else:
            outcome = run(inputs[0])
            status, found, said = outcome.status, outcome.found, tell(outcome, args=args)
    print(said, file=sys.stderr if STANDARD_OUTPUT in (args.lines, args.json) else sys.stdout)
    if args.json == STANDARD_OUTPUT:
        print(dump_json(found), end="")
    return status


if __name__ == "__main__":
    sys.exit(main())
