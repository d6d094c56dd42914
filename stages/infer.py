"""Segment a video, a camera, a stream or images with an engine: overlays, label maps and figures.

Runs on the device: needs an engine folder and no training library, DVC or params.yaml.
"""

from __future__ import annotations

import importlib.util
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until main() begins, Ctrl-C ends this without a traceback

if importlib.util.find_spec("pipeline") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2

from pipeline.artifact import Artifact, dump_json
from pipeline.errors import EXIT_DAMAGED, UserError, closest, command
from pipeline.labels import LabelSpec
from pipeline.runtimes import Engine
from pipeline.video.arguments import parse
from pipeline.video.engines import on_gpu, open_engines, rate_alone
from pipeline.video.inputs import Input, inputs_of
from pipeline.video.loop import segment
from pipeline.video.outputs import STANDARD_OUTPUT, Outputs
from pipeline.video.overlay import Overlay
from pipeline.video.places import check_several, of_source
from pipeline.video.progress import Progress
from pipeline.video.rule_file import read_rules
from pipeline.video.selection import Selection
from pipeline.video.several import Outcome, run_each, status_of, table
from pipeline.video.sinks import EventSink, StreamSink, check_address
from pipeline.video.smoothing import Smoother
from pipeline.video.sources import StreamOptions
from pipeline.video.staged import StagedText
from pipeline.video.view import Looking, Region
from pipeline.video.zone_file import Zone, read_zones
from pipeline.video.zones import Zones

Opened = tuple[list[Engine], Artifact]
EnginesFor = Callable[[bool], Opened]  # of a source that is live, or not


def chosen_ids(labels: LabelSpec, text: str | None) -> list[int] | None:
    """Train ids of class names with commas between them. Raises UserError for a name that is no class."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in labels.names:
            raise UserError(f"--only: '{name}' is no class of this engine; {closest(name, labels.names)}")
    return [labels.names.index(name) for name in names]


def run_one(
    given: Input,
    *,
    args: Namespace,
    wanted: Outputs,
    marked: Sequence[Zone],
    read: Sequence[Path] | None,
    engines_for: EnginesFor,
) -> Outcome:
    """One run. Raises UserError when nothing came of it.

    Args:
        marked: zones that the user gave.
        read: the files of all runs, where there are several; None: this is the only one.
    """
    several = read is not None
    reading = StreamOptions(number=args.number, tone_map=args.tone_map, deinterlace=args.deinterlace)
    with ExitStack() as stack:
        source = given.open(
            open_timeout=args.timeout,
            read_timeout=args.timeout,
            patience=args.patience,
            fps=args.fps,
            reading=reading,
            strict=args.strict,
        )
        stack.callback(source.close)
        reading.check(source)
        if source.live and several:
            raise UserError(f"{source.name}: is live and never ends; name it alone")
        engines, facts = engines_for(source.live)
        only = chosen_ids(facts.labels, args.only)
        zones = Zones(marked, ignore_index=facts.labels.ignore_index) if marked else None
        rules = read_rules(args.events, labels=facts.labels, zones=marked) if args.events else []
        overlay = Overlay(
            facts.labels,
            alpha=args.alpha,
            legend=args.legend,
            only=only,
            side_by_side=args.side_by_side,
            zones=zones,
        )
        selection = Selection(start=args.start, duration=args.duration, every=args.every, limit=args.limit)
        looking = Looking(args.resize, Region.parse(args.region) if args.region else None)
        smoother = Smoother(frames=args.smooth, ignore_index=facts.labels.ignore_index) if args.smooth else None
        named = "/".join(args.engine.resolve().parts[-2:])
        frames = selection.expected(source)
        places = of_source(wanted, given.name or source.stem, several=several, read=read or [], expected=frames)
        places = replace(places, rules=rules)
        sinks = places.sinks(source, labels=facts.labels, engine=named, only=only)
        report = None
        if args.json and args.json != STANDARD_OUTPUT and not several:
            report = stack.enter_context(StagedText(args.json))
        alone = [rate_alone(engines)] if args.benchmark else []
        with Progress(frames, sys.stderr) as progress:
            summary = segment(
                source,
                engines,
                labels=facts.labels,
                sinks=sinks,
                overlay=overlay if any(sink.wants_picture for sink in sinks) else None,
                smoother=smoother,
                zones=zones,
                looking=looking,
                selection=selection,
                engines_wait=on_gpu(facts),
                progress=progress.update,
            )
        if args.benchmark:
            alone.append(rate_alone(engines))
        status = EXIT_DAMAGED if source.skipped or summary.damage else 0
        if summary.interrupted and not source.live:
            status = 130
        found = {**summary.to_meta(), "engine": facts.hash, "source": source.name, "contexts": len(engines)}
        found["status"] = status
        if source.skipped:
            found["skipped"] = list(source.skipped)
        if alone:
            found["engine_alone_fps"] = round(sum(alone) / len(alone), 2)
        noted = []
        for sink in sinks:
            if isinstance(sink, (EventSink, StreamSink)):
                found["events" if isinstance(sink, EventSink) else "stream"] = sink.to_meta()
                noted.append(sink.describe())
        if report:
            report.put(dump_json(found))
    written = [sink.written for sink in sinks if sink.written]
    return Outcome(source.name, summary=summary, status=status, written=written, found=found, noted=noted)


def tell(outcome: Outcome, *, args: Namespace) -> str:
    """What one run showed, as a person reads it."""
    assert outcome.summary is not None
    said = [outcome.summary.describe(verbose=args.benchmark)]
    if args.benchmark:
        rate = outcome.found["engine_alone_fps"]
        share = outcome.summary.fps / rate if rate else 0.0
        said += ["", f"engine alone, before and after: {rate:.1f} fps; this run: {share:.2f} of it"]
    skipped = outcome.found.get("skipped", [])
    said += ["", f"images that could not be read and were passed over: {len(skipped)}"] if skipped else []
    said += ["", *outcome.noted] if outcome.noted else []
    paths = [*outcome.written, *([args.json] if args.json and args.json != STANDARD_OUTPUT else [])]
    said += ["", *(f"written: {path}" for path in paths)] if paths else []
    return "\n".join(said)


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
