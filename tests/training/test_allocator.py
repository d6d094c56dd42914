"""Freed memory stays: page faults of a process that allocates the same large arrays again and again."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from pipeline.training import allocator

LOOP = """
import resource, sys
import numpy as np
from pipeline.training.allocator import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()
np.ones(2 ** 22).sum()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(2 ** 22).sum()  # 32 MiB: 8192 pages
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", LOOP, mode], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_memory_is_used_again_without_the_kernel() -> None:
    assert faults("kept") < 1000 < faults("returned")


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert not allocator.keep_freed_memory()
