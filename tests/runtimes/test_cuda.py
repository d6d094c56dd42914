"""The CUDA runtime library itself, as far as a machine without a GPU can tell."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.runtimes import _cuda

no_gpu = pytest.mark.skipif(_cuda.device() is not None, reason="this machine has a GPU; the test is about its absence")


@pytest.fixture
def packaged(monkeypatch: pytest.MonkeyPatch) -> Iterator[ctypes.CDLL]:
    """libcudart of the pip package that torch installs; the system's is hidden."""
    files = _cuda.packaged()
    if not files:
        pytest.skip("needs NVIDIA's pip package of the CUDA runtime")
    load = ctypes.CDLL

    def only_files(name: str) -> ctypes.CDLL:
        if "/" not in name:
            raise OSError(name)
        return load(name)

    monkeypatch.setattr(ctypes, "CDLL", only_files)
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    _cuda.runtime.cache_clear()
    yield _cuda.runtime()
    _cuda.runtime.cache_clear()


def test_the_library_has_every_call_that_is_used(packaged: ctypes.CDLL) -> None:
    assert packaged._name in _cuda.packaged()
    used = set(re.findall(r"runtime\(\)\.(cuda\w+)", Path(_cuda.__file__).read_text(encoding="utf-8")))
    assert {"cudaGraphInstantiateWithFlags", "cudaHostAlloc", "cudaEventRecordWithFlags"} <= used
    assert not [name for name in used if not hasattr(packaged, name)]
    assert not hasattr(packaged, "cudaNoSuchCall")


@no_gpu
@pytest.mark.usefixtures("packaged")
@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: _cuda.Buffer(100), "allocating 100 bytes"),
        (lambda: _cuda.Pinned(100), "allocating 100 bytes of page-locked memory"),
        (_cuda.Stream, "creating a stream"),
        (_cuda.Event, "creating an event"),
    ],
)
def test_without_a_driver_each_call_says_what_failed(make: Any, what: str) -> None:
    for _ in range(2):
        with pytest.raises(UserError, match=rf"CUDA: {what} failed: [a-zA-Z -]+ \(error \d+\)"):
            make()


def test_pip_packages_are_searched_newest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["nvidia/cuda_runtime/lib/libcudart.so.12", "nvidia/cu13/lib/libcudart.so.13"]
    for name in (*names, "nvidia/cublas/lib/libcublas.so.13", "other/lib/libcudart.so.13"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    monkeypatch.setattr(sys, "path", ["no such folder", str(tmp_path)])
    assert _cuda.packaged() == [str(tmp_path / name) for name in reversed(names)]


def test_a_missing_cuda_runtime_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    _cuda.runtime.cache_clear()
    with pytest.raises(UserError, match="libcudart was not found; install the CUDA runtime"):
        _cuda.runtime()
    assert _cuda.device() is None
