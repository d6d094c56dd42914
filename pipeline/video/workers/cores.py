"""The number of cores, and the number of threads for a codec."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def codec_threads(*, alone: bool = False) -> int:
    """Threads of a decoder or an encoder: half of the cores, at least one and at most four, because other steps need
    cores, too.

    With one thread a codec works in the thread of its caller, which is best for few cores: frame threads take up to a
    tenth more processor time, and each delays one frame.

    Args:
        alone: there is no other codec, so this one would be the slowest step: up to four cores.
    """
    cores = usable_cores()
    return max(1, min(cores if alone else cores // 2, 4))
