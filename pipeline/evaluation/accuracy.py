"""An engine over a split, at the labels' original size."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from pipeline.frames import Array, resize_frame, resize_label_map
from pipeline.prepared import Split
from pipeline.runtimes import Engine

#: Fewest frames that are decoded and wait while the engine runs.
AHEAD = 4


def predicted(engine: Engine, split: Split, indices: Sequence[int]) -> Iterator[tuple[int, Array, Array]]:
    """Run frames of a split through an engine as on a device: resize, run, resize the label map back.

    Yields:
        index, label and prediction at the label's size, in order.

    Raises:
        UserError: a frame or label cannot be read.
    """
    for index, frame, label in read_ahead(split, indices, engine.input_size):
        prediction = engine.run(frame[np.newaxis])[0]
        yield index, label, resize_label_map(prediction, (label.shape[0], label.shape[1]))


def read_ahead(
    split: Split, indices: Sequence[int], input_size: tuple[int, int], *, threads: int = 1
) -> Iterator[tuple[int, Array, Array]]:
    """Read frames of a split; the next ones are decoded and resized meanwhile.

    Args:
        input_size: (height, width) of the frames.
        threads: number of threads that read.

    Yields:
        index, frame (H, W, 3) and label at its own size, in order.

    Raises:
        UserError: a frame or label cannot be read.
    """
    ahead = max(AHEAD, 2 * threads)

    def read(index: int) -> tuple[int, Array, Array]:
        frame, label = split[index]
        return index, resize_frame(frame, input_size), label

    with ThreadPoolExecutor(max_workers=threads) as pool:
        waiting: deque[Future[tuple[int, Array, Array]]] = deque()
        try:
            for index in indices:
                waiting.append(pool.submit(read, index))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
