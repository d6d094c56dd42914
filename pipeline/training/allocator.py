"""The process keeps the memory that a step frees, so that the next step need not request it from the kernel again."""

from __future__ import annotations

import ctypes

#: Options of glibc's mallopt (malloc.h).
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
LARGEST = 2**31 - 1  # of a C int


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, until it ends; False where the C library is not glibc.

    By default glibc returns the memory of a large tensor to the kernel when it is freed. The kernel clears each page
    (4 KiB) when it is used again: 40,000 pages per step of DeepLabV3+ ResNet-18, an eighth of the step's time
    (docs/results/training_speed.md). No value changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all(mallopt(option, value) == 1 for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, LARGEST)))
