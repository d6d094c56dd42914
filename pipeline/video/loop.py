"""The overlapped loop: source -> resize and engine -> overlay -> sinks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from threading import Event

import numpy as np

from pipeline.labels import LabelSpec
from pipeline.runtimes import Engine
from pipeline.video.drawing.overlay import Overlay
from pipeline.video.run import Run
from pipeline.video.selection import Selection
from pipeline.video.sinks import Sink
from pipeline.video.smoothing import Smoother
from pipeline.video.sources import Source
from pipeline.video.summary import Summary
from pipeline.video.view import Looking
from pipeline.video.zones import Zones

_AS_CHECK = Looking()
_ALL = Selection()


def segment(
    source: Source,
    engines: Sequence[Engine],
    *,
    labels: LabelSpec,
    sinks: Sequence[Sink] = (),
    overlay: Overlay | None = None,
    smoother: Smoother | None = None,
    zones: Zones | None = None,
    looking: Looking = _AS_CHECK,
    selection: Selection = _ALL,
    engines_wait: bool = False,
    until: Event | None = None,
    progress: Callable[[int], None] | None = None,
) -> Summary:
    """Segment the frames of ``source`` and hand the results to ``sinks``.

    The sinks are entered before the engines first run, so a target that cannot be written fails early. Ctrl-C ends the
    run cleanly: the frames that were read are processed, sinks complete their files, and the summary reports it. Every
    engine runs once on a black frame before the clock starts.

    Args:
        engines: copies of one engine, one for each frame that is processed at the same time.
        labels: meaning of the engine's ids.
        overlay: draws the picture of every result; None if no sink needs one.
        smoother: smooths label maps; None: they stay as the engine gives them.
        zones: zones that are counted separately, and ignored zones.
        engines_wait: the engines do not use the cores (see :attr:`Engine.on_gpu`), or wait for their turn (see
            :mod:`pipeline.video.turns`).
        until: ends the run like Ctrl-C when another thread sets it.
        progress: called at times with the number of frames done.

    Raises:
        UserError: a frame cannot be read or a result cannot be written; sinks keep their incomplete files under another
            name.
        KeyboardInterrupt: interrupted before the first result.
    """
    run = Run(
        source,
        engines,
        sinks,
        overlay=overlay,
        smoother=smoother,
        zones=zones,
        looking=looking,
        selection=selection,
        engines_wait=engines_wait,
        until=until or Event(),
    )
    with ExitStack() as stack:
        for sink in sinks:
            stack.enter_context(sink)
        for engine in engines:
            engine.run(np.zeros((engine.batches[0], *engine.input_size, 3), np.uint8))
        start = time.perf_counter()
        run.go(progress or (lambda done: None))
    # the clock includes the last flush of the encoder, which the step times do not
    return run.summary(labels, seconds=time.perf_counter() - start)
