"""Freed memory stays: page faults of a process that allocates a large block again and again."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from pipeline.training import allocator

SIZE = 40_000_000  # more than the 32 MiB up to which glibc adapts its threshold
LOOP = """
import resource, sys
from pipeline.training.allocator import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()
block = b"x" * int(sys.argv[2])
del block
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    block = b"x" * int(sys.argv[2])
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", LOOP, mode, str(SIZE)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_memory_is_used_again_without_the_kernel() -> None:
    assert 2 * faults("kept") < faults("returned")


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert not allocator.keep_freed_memory()
