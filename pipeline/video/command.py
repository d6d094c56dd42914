"""What ``stages/infer.py`` does with its arguments: one run, runs one after the other, or all sources at once."""

from __future__ import annotations

import logging
import os
import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any, NamedTuple, NoReturn, TextIO

import cv2

from pipeline.artifact import dump_json
from pipeline.labels import LabelSpec
from pipeline.video.confidence import check_gives
from pipeline.video.engines import open_engines
from pipeline.video.inputs import Input, inputs_of
from pipeline.video.outputs import STANDARD_OUTPUT, Outputs
from pipeline.video.places import check_several, of_name
from pipeline.video.progress import Progress
from pipeline.video.rule_file import read_rules
from pipeline.video.several import Outcome, run_each, status_of, table
from pipeline.video.single import Opened, describe, run_one
from pipeline.video.sinks import check_address
from pipeline.video.sinks.page import parse_address
from pipeline.video.sinks.tiles import SharedPage
from pipeline.video.staged import StagedText
from pipeline.video.together import Lane, run_together
from pipeline.video.turns import Turns
from pipeline.video.zone_file import read_zones

log = logging.getLogger(__name__)


class Ending(NamedTuple):
    """The end of all runs.

    Attributes:
        status: exit status.
        text: the summary for a person.
        stream: where to print the text: standard error if standard output holds JSON.
        printed: JSON for standard output; empty if nobody asked for it.
    """

    status: int
    text: str
    stream: TextIO
    printed: str


def infer(args: Namespace) -> Ending:
    """Do what the arguments say.

    Args:
        args: see :mod:`pipeline.video.arguments`.

    Raises:
        UserError: a source, an option or a target cannot be used.
    """
    check_address(args.stream)
    inputs = inputs_of(args.sources)
    together = len(inputs) > 1 and (args.serve is not None or any(given.is_live for given in inputs))
    wanted = _outputs(args)
    read = [path for given in inputs for path in ([given.path] if given.path else given.images)]
    check_several(wanted, len(inputs), read if len(inputs) > 1 else [], together=together)
    with ExitStack() as stack:
        engines = _Engines(args, stack, sources=len(inputs) if together else 1)

        def run(
            given: Input, *, wanted: Outputs = wanted, engines_for: Any = engines.open, lane: Any = None
        ) -> Outcome:
            several = read if len(inputs) > 1 else None
            return run_one(given, args=args, wanted=wanted, read=several, engines_for=engines_for, lane=lane)

        if len(inputs) == 1:
            outcome = run(inputs[0])
            status, facts, text = outcome.status, outcome.facts, describe(outcome, args=args)
        else:
            report = stack.enter_context(StagedText(args.json)) if args.json and args.json != STANDARD_OUTPUT else None
            if together:
                outcomes, facts = _run_together(inputs, run, args=args, wanted=wanted, engines=engines, stack=stack)
            else:
                _check_files(args, inputs, engines.open(live=False)[1].labels)  # nothing starts without an engine
                outcomes, facts = run_each(inputs, run, strict=args.strict), {}
            status = status_of(outcomes, expected=len(inputs), strict=args.strict)
            facts = {**facts, "status": status, "sources": [outcome.to_meta() for outcome in outcomes]}
            text = table(outcomes, expected=len(inputs), live=together)
            if together:
                text += f"\nall together: {facts['frames']} frames, {facts['fps']:.1f} fps"
            if report:
                report.put(dump_json(facts))
                text += f"\nwritten: {args.json}"
    stream = sys.stderr if STANDARD_OUTPUT in (args.lines, args.json) else sys.stdout
    return Ending(status, text, stream, dump_json(facts) if args.json == STANDARD_OUTPUT else "")


class _Engines:
    """The engines of all runs, opened with the first source that can be read."""

    def __init__(self, args: Namespace, stack: ExitStack, *, sources: int) -> None:
        self._args, self._stack, self._sources = args, stack, sources
        self._opened: Opened | None = None

    def open(self, live: bool) -> Opened:
        """Engines and their facts.

        Raises:
            UserError: the engine was not built on this machine, or lacks the confidence that an option needs.
        """
        if self._opened is None:
            args = self._args
            how = {"threads": args.threads, "contexts": args.contexts, "live": live, "sources": self._sources}
            self._opened = open_engines(args.engine, **how)
            for engine in self._opened[0]:
                self._stack.callback(engine.close)
            needing = {"--uncertainty": args.uncertainty, "--confidence": bool(args.confidence)}
            check_gives(self._opened[0], options=needing)
            # the cores belong to the engine and the codecs; small pictures gain nothing from OpenCV's threads
            cv2.setNumThreads(1)
        return self._opened


def _run_together(
    inputs: Sequence[Input],
    run: Callable[..., Outcome],
    *,
    args: Namespace,
    wanted: Outputs,
    engines: _Engines,
    stack: ExitStack,
) -> tuple[list[Outcome], Mapping[str, Any]]:
    """The outcome of each run, and the figures of all runs together."""
    opened, facts = engines.open(live=True)
    _check_files(args, inputs, facts.labels)
    turns = Turns(opened)
    log.info("%d sources at the same time on one engine", len(inputs))
    page: SharedPage | None = None
    if args.serve is not None:
        names = [str(given.name) for given in inputs]
        page = SharedPage(*parse_address(args.serve), names=names, hosts=args.allow_host, embed=args.embed)
        wanted = replace(wanted, page=stack.enter_context(page))

    def run_lane(lane: Lane) -> Outcome:
        try:
            return run(lane.given, wanted=wanted, engines_for=lambda live: ([turns.seat()], facts), lane=lane)
        except Exception:
            if page is not None:
                page.fail(str(lane.given.name))
            raise

    with Progress(None, sys.stderr) as progress:
        outcomes = run_together(inputs, run_lane, strict=args.strict, progress=progress.update)
    summaries = [outcome.summary for outcome in outcomes if outcome.summary]
    frames, seconds = sum(each.frames for each in summaries), max((each.seconds for each in summaries), default=0.0)
    rate = frames / seconds if seconds else 0.0
    return outcomes, {"frames": frames, "fps": round(rate, 2), "frames_per_engine_run": round(turns.mean_batch, 3)}


def _check_files(args: Namespace, inputs: Sequence[Input], labels: LabelSpec) -> None:
    """Read the zones and rules of all sources, so that a problem of one source appears before any run starts."""
    for given in inputs:
        zones = read_zones(of_name(args.zones, given.name)) if args.zones else []
        if args.events:
            read_rules(of_name(args.events, given.name), labels=labels, zones=zones)


def leave(status: int) -> NoReturn:
    """End the process. If a thread hangs in a driver or a library, end it at once: the thread would crash when Python
    frees what it uses. All files are complete by then."""
    hangs = any(thread.name.startswith("segpress") for thread in threading.enumerate())
    if hangs:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(status)
    sys.exit(status)


def _outputs(args: Namespace) -> Outputs:
    return Outputs(
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
