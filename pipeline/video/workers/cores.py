"""How many cores there are, and how many of them a codec may use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def codec_threads(*, alone: bool = False) -> int:
    """Threads of a decoder or an encoder: half of the cores, one at least and four at most, as others need them, too.

    With one thread a codec works in the thread that calls it, which is what a few cores do best: threads by frame take
    up to a tenth more of processor time, and each holds back a frame.

    Args:
        alone: there is no other codec, so this one would be what the rest waits for: up to four cores.
    """
    cores = usable_cores()
    return max(1, min(cores if alone else cores // 2, 4))
