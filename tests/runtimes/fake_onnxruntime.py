"""Sessions of ONNX Runtime on the CPU that claim to compute on CUDA."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar

import onnxruntime
import pytest

from pipeline.runtimes import _cuda
from pipeline.runtimes._onnxruntime import engine
from tests.runtimes.fake_cuda import HostCuda

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
#: Options of the runtime plugin.
CHOSEN = {"provider": "cuda", "threads": 1}


class CudaSession(onnxruntime.InferenceSession):
    """Computes on the CPU, in host memory; its providers and its profile say CUDA if CUDA was requested.

    Attributes:
        cuda_requests: options of the CUDA provider, of each session with it.
        unknown: options that it refuses, as an older version does.
        on_cpu: operators that its profile leaves on the CPU.
        on_cpu_with: the same, of sessions with this option.
        fails: error of a run with a binding.
        threads: name of the thread of each run with a binding.
    """

    cuda_requests: ClassVar[list[dict[str, str]]]
    unknown: ClassVar[set[str]]
    on_cpu: ClassVar[Collection[str]]
    on_cpu_with: ClassVar[dict[str, Collection[str]]]
    fails: ClassVar[str]
    threads: ClassVar[list[str]]

    def __init__(self, path: str, options: Any, *, providers: list[Any], enable_fallback: int = 0) -> None:
        self.named = [provider if isinstance(provider, str) else provider[0] for provider in providers]
        self.left = set(self.on_cpu)
        if self.named[0] == CUDA:
            self.cuda_requests.append(providers[0][1])
            self.left.update(*(self.on_cpu_with.get(option, ()) for option in providers[0][1]))
            if strange := self.unknown.intersection(providers[0][1]):
                raise RuntimeError(f"Unknown provider option: {', '.join(sorted(strange))}")
        super().__init__(path, options, providers=[CPU], enable_fallback=enable_fallback)

    def run_with_iobinding(self, iobinding: Any, run_options: Any = None) -> None:
        self.threads.append(threading.current_thread().name)
        if self.fails:
            raise RuntimeError(self.fails)
        super().run_with_iobinding(iobinding, run_options)

    def get_providers(self) -> list[str]:
        return self.named

    def end_profiling(self) -> str:
        file = str(super().end_profiling())
        events = json.loads(Path(file).read_text())
        for details in (event["args"] for event in events if "provider" in event.get("args", {})):
            if self.named[0] == CUDA and details["op_name"] not in self.left:
                details["provider"] = CUDA
        Path(file).write_text(json.dumps(events))
        return file


def install(monkeypatch: pytest.MonkeyPatch) -> tuple[type[CudaSession], HostCuda]:
    """Replace ONNX Runtime's sessions and libcudart; there is a GPU."""
    cuda = HostCuda()
    monkeypatch.setattr(onnxruntime, "InferenceSession", CudaSession)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    start = {"cuda_requests": [], "unknown": set(), "on_cpu": (), "on_cpu_with": {}, "fails": "", "threads": []}
    for name, value in start.items():
        monkeypatch.setattr(CudaSession, name, value, raising=False)
    monkeypatch.setattr(engine, "DEVICE", "cpu")
    monkeypatch.setattr(_cuda, "runtime", lambda: cuda)
    monkeypatch.setattr(_cuda, "device", lambda: {"gpu": "NVIDIA H200", "compute_capability": "9.0"})
    return CudaSession, cuda
