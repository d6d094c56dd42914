"""Which engine of a folder runs, how many run in parallel, and their speed without the rest of the loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import artifact
from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.evaluation import fastest
from pipeline.runtimes import Engine, open_engine

log = logging.getLogger(__name__)

_ON_GPU = 2  # one copies and resizes while the other computes


def chosen(path: Path) -> Path:
    """The folder of one engine: ``path`` itself, or the fastest variant in it.

    If no record names the fastest variant of these engines (see :mod:`pipeline.evaluation.fastest`), it is ``int8``, or
    the least exact one that is there. A line in the log says which variant was chosen and why.

    Raises:
        UserError: a variant is no complete engine, or the record is not JSON.
    """
    present = [] if (path / artifact.META).is_file() else list(fastest.identities(path))
    if not present:
        return path
    name, why = fastest.recorded(path)
    place = path / (name or present[-1])
    log.log(logging.INFO if name else logging.WARNING, "%s is used: %s", place, why)
    return place


def open_engines(
    path: Path, *, threads: int | None = None, contexts: int | None = None, live: bool = False, sources: int = 1
) -> tuple[list[Engine], Artifact]:
    """Open an engine once for each frame that is processed at the same time.

    On a CPU the contexts share the threads: two contexts of one thread each process more frames per second, and one
    context of two threads finishes each frame sooner. So the default is one context per thread for files, and one
    context for live sources. On a GPU the default is two: one copies while the other computes.

    Args:
        path: engine folder, or a folder of variants, see :func:`chosen`.
        threads: of all contexts together, on a CPU; None: as it was built.
        contexts: how many; None: the default above.
        live: whether the source is live, so that latency counts.
        sources: number of sources that share the engines at the same time. Each gets a context if there are enough
            threads.

    Raises:
        UserError: the engine was not built on this machine, or there are more contexts than threads.
    """
    path = chosen(path)
    first, facts = open_engine(path, options={"threads": threads} if threads else None)
    options: dict[str, Any] = {**facts.meta["runtime_options"], **({"threads": threads} if threads else {})}
    total = _ON_GPU if first.on_gpu else int(options.get("threads", 1))
    wanted = contexts or (min(sources, total) if live or sources > 1 else total)
    if wanted > total and not first.on_gpu:
        first.close()
        raise UserError(f"{wanted} contexts share {total} threads; allowed: one context per thread; raise --threads")
    if wanted > 1 and not first.on_gpu:
        first.close()
        first, facts = open_engine(path, options={"threads": total // wanted})
    engines = [first]
    try:
        for _ in range(wanted - 1):
            engines.append(first.another())
    except BaseException:
        for engine in engines:
            engine.close()
        raise
    return engines, facts


def rate_alone(engines: Sequence[Engine], *, seconds: float = 2.0) -> float:
    """Frames per second of the engines alone, which all run for ``seconds`` on a black frame."""
    batch = np.zeros((engines[0].batches[1], *engines[0].input_size, 3), np.uint8)
    counts = [0] * len(engines)
    start = time.perf_counter()

    def work(number: int) -> None:
        while time.perf_counter() - start < seconds:
            engines[number].run(batch)
            counts[number] += len(batch)

    with ThreadPoolExecutor(len(engines)) as pool:
        list(pool.map(work, range(len(engines))))  # raises what an engine raised
    return sum(counts) / (time.perf_counter() - start)
