"""Segment a video, a camera, a stream or images with an engine: overlays, label maps and figures.

Runs on the device: needs an engine folder and no training library, DVC or params.yaml.
"""

from __future__ import annotations

import importlib.util
import sys
from contextlib import ExitStack
from pathlib import Path

if importlib.util.find_spec("pipeline") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2

from pipeline.artifact import dump_json
from pipeline.errors import UserError, closest, command
from pipeline.labels import LabelSpec
from pipeline.video.arguments import parse
from pipeline.video.engines import on_gpu, open_engines, rate_alone
from pipeline.video.loop import segment
from pipeline.video.outputs import STANDARD_OUTPUT, Outputs
from pipeline.video.overlay import Overlay
from pipeline.video.progress import Progress
from pipeline.video.selection import Selection
from pipeline.video.sinks import StreamSink, check_address
from pipeline.video.smoothing import Smoother
from pipeline.video.sources import open_source
from pipeline.video.staged import StagedText
from pipeline.video.view import Looking, Region


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
    check_address(args.stream)
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
        smoother = Smoother(frames=args.smooth, ignore_index=facts.labels.ignore_index) if args.smooth else None
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
            report=args.json,
            stream=args.stream,
            timeout=args.timeout,
            patience=args.patience,
            benchmark=args.benchmark,
        )
        named = "/".join(args.engine.resolve().parts[-2:])
        sinks = wanted.sinks(source, labels=facts.labels, engine=named, only=only)
        report = stack.enter_context(StagedText(args.json)) if args.json else None
        alone = [rate_alone(engines)] if args.benchmark else []
        with Progress(selection.expected(source), sys.stderr) as progress:
            summary = segment(
                source,
                engines,
                labels=facts.labels,
                sinks=sinks,
                overlay=overlay if any(sink.wants_picture for sink in sinks) else None,
                smoother=smoother,
                looking=looking,
                selection=selection,
                engines_wait=on_gpu(facts),
                progress=progress.update,
            )
        if args.benchmark:
            alone.append(rate_alone(engines))
        found = {**summary.to_meta(), "engine": facts.hash, "source": source.name, "contexts": len(engines)}
        if alone:
            found["engine_alone_fps"] = round(sum(alone) / len(alone), 2)
        streams = [sink for sink in sinks if isinstance(sink, StreamSink)]
        for sink in streams:
            found["stream"] = sink.to_meta()
        if report:
            report.put(dump_json(found))
    said = [summary.describe(verbose=args.benchmark)]
    if alone:
        rate = sum(alone) / len(alone)
        said += ["", f"engine alone, before and after: {rate:.1f} fps; this run: {summary.fps / rate:.2f} of it"]
    for sink in streams:
        said += ["", sink.describe()]
    paths = [sink.written for sink in sinks if sink.written] + ([args.json] if args.json else [])
    said += ["", *(f"written: {path}" for path in paths)] if paths else []
    print(*said, sep="\n", file=sys.stderr if args.lines == STANDARD_OUTPUT else sys.stdout)
    return 130 if summary.interrupted and not source.live else 0


if __name__ == "__main__":
    sys.exit(main())
