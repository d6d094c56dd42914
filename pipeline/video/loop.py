"""The sequential loop: read, resize, infer, draw, write; one frame after the other, none dropped."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np

from pipeline.frames import resize_frame
from pipeline.labels import LabelSpec
from pipeline.runtimes import Engine
from pipeline.video.overlay import Overlay, count_ids
from pipeline.video.sinks import Result, Sink
from pipeline.video.sources import Source
from pipeline.video.summary import StepTime, Summary

STEPS = ("read", "resize", "infer", "draw", "write")


def segment(
    source: Source,
    engine: Engine,
    *,
    labels: LabelSpec,
    sinks: Sequence[Sink],
    overlay: Overlay | None = None,
    limit: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Summary:
    """Segment every frame of ``source`` and hand the results to ``sinks``.

    The sinks are entered before the engine first runs, so a target that cannot be written fails early, and they are
    left together: after an error or an interruption none of them keeps anything. The engine runs once on a black
    frame before the clock starts.

    Args:
        labels: what the engine's ids mean.
        overlay: draws the picture of every result; None when no sink wants one.
        limit: stop after so many frames.
        progress: called with the number of frames done after each of them.

    Raises:
        UserError: a frame cannot be read or a result cannot be written.
    """
    times: dict[str, array[float]] = {step: array("d") for step in STEPS}
    pixels = np.zeros(256, np.int64)
    done = 0
    with ExitStack() as stack:
        for sink in sinks:
            stack.enter_context(sink)
        engine.run(np.zeros((1, *engine.input_size, 3), np.uint8))
        start = time.perf_counter()
        frames = iter(source)
        while limit is None or done < limit:
            begin = time.perf_counter()
            frame = next(frames, None)
            if frame is None:
                break
            read = time.perf_counter()
            fitted = resize_frame(frame.image, engine.input_size)
            resized = time.perf_counter()
            label_map = engine.run(fitted[None])[0]  # (1, H, W, 3) -> (h, w)
            inferred = time.perf_counter()
            picture = overlay.draw(frame.image, label_map) if overlay else None
            pixels += count_ids(label_map)
            drawn = time.perf_counter()
            size = (frame.image.shape[0], frame.image.shape[1])
            for sink in sinks:
                sink.write(Result(frame.name, frame.timestamp, size, label_map, picture))
            written = time.perf_counter()
            marks = (begin, read, resized, inferred, drawn, written)
            for step, earlier, later in zip(STEPS, marks, marks[1:], strict=False):
                times[step].append(later - earlier)
            done += 1
            if progress:
                progress(done)
        assert done, "a source gives at least one frame and limit is positive"
    # the clock includes the last flush of the encoder, which the step times do not
    seconds = time.perf_counter() - start
    shares = pixels / pixels.sum()
    return Summary(
        frames=done,
        seconds=seconds,
        steps={step: StepTime.of(values) for step, values in times.items()},
        shares={name: float(share) for name, share in zip(labels.names, shares, strict=False)},
        other=float(shares[labels.num_classes :].sum()),
    )
