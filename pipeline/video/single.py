"""One run of ``stages/infer.py`` over one source."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from pipeline.artifact import Artifact, dump_json
from pipeline.errors import EXIT_DAMAGED, UserError, closest
from pipeline.labels import LabelSpec
from pipeline.runtimes import Engine
from pipeline.video.drawing.overlay import Overlay
from pipeline.video.engines import rate_alone
from pipeline.video.inputs import Input
from pipeline.video.loop import segment
from pipeline.video.outputs import STANDARD_OUTPUT, Outputs
from pipeline.video.places import of_name, of_source
from pipeline.video.progress import Progress
from pipeline.video.rule_file import read_rules
from pipeline.video.selection import Selection
from pipeline.video.several import Outcome
from pipeline.video.sinks import EventSink, StreamSink
from pipeline.video.smoothing import Smoother
from pipeline.video.sources import StreamOptions
from pipeline.video.staged import StagedText
from pipeline.video.together import Lane
from pipeline.video.view import Looking, Region
from pipeline.video.zone_file import read_zones
from pipeline.video.zones import Zones

Opened = tuple[list[Engine], Artifact]
EnginesFor = Callable[[bool], Opened]  # the argument: whether the source is live


def chosen_ids(labels: LabelSpec, text: str | None) -> list[int] | None:
    """Train ids of class names that are separated by commas. Raises UserError for an unknown class."""
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
    read: Sequence[Path] | None,
    engines_for: EnginesFor,
    lane: Lane | None = None,
) -> Outcome:
    """One run.

    Args:
        given: the source.
        args: see :mod:`pipeline.video.arguments`.
        wanted: paths of the results, before the name of the source is inserted.
        read: the files of all runs; None: this is the only run.
        engines_for: opens the engines, or returns the open ones.
        lane: the lane of this run if several sources run at the same time; None: it runs alone.

    Raises:
        UserError: the source or a target cannot be used.
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
        if source.live and several and lane is None:
            raise UserError(f"{source.name}: is live and never ends; add --serve to run all sources at the same time")
        engines, facts = engines_for(source.live)
        only = chosen_ids(facts.labels, args.only)
        name = given.name or source.stem
        marked = read_zones(of_name(args.zones, name)) if args.zones else []
        zones = Zones(marked, ignore_index=facts.labels.ignore_index) if marked else None
        rules = read_rules(of_name(args.events, name), labels=facts.labels, zones=marked) if args.events else []
        overlay = Overlay(
            facts.labels,
            alpha=args.alpha,
            legend=args.legend,
            only=only,
            side_by_side=args.side_by_side,
            zones=zones,
            uncertainty=args.uncertainty,
        )
        selection = Selection(start=args.start, duration=args.duration, every=args.every, limit=args.limit)
        looking = Looking(args.resize, Region.parse(args.region) if args.region else None)
        smoother = Smoother(frames=args.smooth, ignore_index=facts.labels.ignore_index) if args.smooth else None
        named = "/".join(facts.path.resolve().parts[-2:])
        frames = selection.expected(source)
        places = of_source(wanted, name, several=several, read=read or [], expected=frames)
        places = replace(places, rules=rules)
        sinks = places.sinks(source, labels=facts.labels, engine=named, only=only)
        if args.uncertainty and not any(sink.wants_picture for sink in sinks):
            raise UserError("--uncertainty changes the overlay, and this run writes and shows none; add --out PATH")
        report = None
        if args.json and args.json != STANDARD_OUTPUT and not several:
            report = stack.enter_context(StagedText(args.json))
        alone = [rate_alone(engines)] if args.benchmark else []
        with Progress(frames, sys.stderr) if lane is None else lane as progress:
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
                engines_wait=engines[0].on_gpu or lane is not None,
                until=lane.until if lane is not None else None,
                progress=progress.update,
            )
        if args.benchmark:
            alone.append(rate_alone(engines))
        status = EXIT_DAMAGED if source.skipped or summary.damage else 0
        if summary.interrupted and not source.live:
            status = 130
        values = {**summary.to_meta(), "engine": facts.hash, "source": source.name, "contexts": len(engines)}
        values["status"] = status
        if source.skipped:
            values["skipped"] = list(source.skipped)
        if alone:
            values["engine_alone_fps"] = round(sum(alone) / len(alone), 2)
        noted = []
        for sink in sinks:
            if isinstance(sink, (EventSink, StreamSink)):
                values["events" if isinstance(sink, EventSink) else "stream"] = sink.to_meta()
                noted.append(sink.describe())
        if report:
            report.put(dump_json(values))
    written = [sink.written for sink in sinks if sink.written]
    return Outcome(source.name, summary=summary, status=status, written=written, facts=values, noted=noted)


def describe(outcome: Outcome, *, args: Namespace) -> str:
    """The summary of one run as text."""
    assert outcome.summary is not None
    lines = [outcome.summary.describe(verbose=args.benchmark)]
    if args.benchmark:
        rate = outcome.facts["engine_alone_fps"]
        share = outcome.summary.fps / rate if rate else 0.0
        lines += ["", f"engine alone, before and after: {rate:.1f} fps; this run: {share:.2f} of it"]
    skipped = outcome.facts.get("skipped", [])
    lines += ["", f"images that could not be read and were skipped: {len(skipped)}"] if skipped else []
    lines += ["", *outcome.noted] if outcome.noted else []
    paths = [*outcome.written, *([args.json] if args.json and args.json != STANDARD_OUTPUT else [])]
    lines += ["", *(f"written: {path}" for path in paths)] if paths else []
    return "\n".join(lines)
