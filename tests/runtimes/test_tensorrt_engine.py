"""The TensorRT engine without a GPU: CUDA is played by host memory, the engine by numpy."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.runtimes import _cuda
from pipeline.runtimes._tensorrt import TensorRTEngine

SHAPE, LABELS = (1, 4, 6, 3), (1, 2, 3)
TRT = SimpleNamespace(TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"))


class HostCuda:
    """libcudart on host memory: copies are counted, frees too, and an allocation can be made to fail."""

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}
        self.streams = 0
        self.copies: list[tuple[int, int]] = []
        self.status = 0

    def cudaMalloc(self, pointer: Any, size: Any) -> int:
        if self.status:
            return self.status
        block = ctypes.create_string_buffer(size.value)
        address = ctypes.addressof(block)
        self.memory[address] = block
        pointer._obj.value = address
        return 0

    def cudaFree(self, pointer: Any) -> int:
        del self.memory[pointer.value]
        return 0

    def cudaMemcpyAsync(self, target: Any, source: Any, size: Any, direction: int, stream: Any) -> int:
        device = target if direction == _cuda.HOST_TO_DEVICE else source
        assert len(self.memory[device.value]) == size.value
        self.copies.append((direction, size.value))
        ctypes.memmove(target, source, size.value)
        return 0

    def cudaStreamCreate(self, handle: Any) -> int:
        self.streams += 1
        handle._obj.value = 77
        return 0

    def cudaStreamSynchronize(self, handle: Any) -> int:
        assert handle.value == 77
        return 0

    def cudaStreamDestroy(self, handle: Any) -> int:
        self.streams -= 1
        return 0


class HalvingEngine:
    """What deserialize_cuda_engine returns; its network takes every second pixel of the green channel / 64."""

    def __init__(self, tensors: dict[str, tuple[str, tuple[int, ...]]]) -> None:
        self.tensors = tensors
        self.num_io_tensors = len(tensors)
        self.address: dict[str, int] = {}
        self.succeeds = True

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> str:
        return self.tensors[name][0]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name][1]

    def create_execution_context(self) -> HalvingEngine:
        return self

    def set_tensor_address(self, name: str, address: int) -> None:
        self.address[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 77
        frames = np.frombuffer(ctypes.string_at(self.address["frames"], int(np.prod(SHAPE))), np.uint8).reshape(SHAPE)
        labels = np.ascontiguousarray(frames[:, ::2, ::2, 1] // 64)
        ctypes.memmove(self.address["labels"], labels.ctypes.data, labels.nbytes)
        return self.succeeds


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> HostCuda:
    library = HostCuda()
    monkeypatch.setattr(_cuda, "runtime", lambda: library)
    return library


@pytest.fixture
def make(cuda: HostCuda) -> Callable[[], tuple[TensorRTEngine, HalvingEngine]]:
    def build() -> tuple[TensorRTEngine, HalvingEngine]:
        inner = HalvingEngine({"labels": ("out", LABELS), "frames": ("in", SHAPE)})  # outputs may come first
        return TensorRTEngine(TRT, inner), inner  # type: ignore[arg-type]

    return build


def test_frames_go_in_and_labels_come_out(make: Any, cuda: HostCuda) -> None:
    engine, _ = make()
    assert (engine.input_size, engine.output_size) == ((4, 6), (2, 3))
    rng = np.random.default_rng(0)
    results = []
    for _ in range(3):
        frames = rng.integers(0, 256, SHAPE, dtype=np.uint8)
        results.append((engine.run(frames), frames[:, ::2, ::2, 1] // 64))
    for labels, expected in results:  # compared last: a later run must not write into an earlier result
        assert labels.dtype == np.uint8
        assert np.array_equal(labels, expected)
    assert cuda.copies == [(_cuda.HOST_TO_DEVICE, 72), (_cuda.DEVICE_TO_HOST, 6)] * 3


def test_frames_that_are_not_contiguous_are_copied_right(make: Any) -> None:
    engine, _ = make()
    wide = np.random.default_rng(1).integers(0, 256, (1, 4, 12, 3), dtype=np.uint8)
    frames = wide[:, :, ::2, ::-1]
    assert not frames.flags["C_CONTIGUOUS"]
    assert np.array_equal(engine.run(frames), frames[:, ::2, ::2, 1] // 64)


@pytest.mark.parametrize(
    "frames", [np.zeros((1, 4, 5, 3), np.uint8), np.zeros((2, 4, 6, 3), np.uint8), np.zeros(SHAPE, np.float32)]
)
def test_frames_that_do_not_fit_are_refused(make: Any, cuda: HostCuda, frames: Any) -> None:
    engine, _ = make()
    with pytest.raises(UserError, match=r"this engine takes \(1, 4, 6, 3\) uint8; resize them"):
        engine.run(frames)
    assert not cuda.copies


def test_a_run_that_fails_is_no_result(make: Any) -> None:
    engine, inner = make()
    inner.succeeds = False
    with pytest.raises(UserError, match="could not run the engine"):
        engine.run(np.zeros(SHAPE, np.uint8))


def test_close_frees_the_device(make: Any, cuda: HostCuda) -> None:
    engine, _ = make()
    assert (len(cuda.memory), cuda.streams) == (2, 1)
    engine.close()
    assert (len(cuda.memory), cuda.streams) == (0, 0)


@pytest.mark.parametrize(
    "tensors",
    [
        {"frames": ("in", SHAPE)},
        {"frames": ("in", SHAPE), "labels": ("out", LABELS), "logits": ("out", LABELS)},
        {"frames": ("in", SHAPE), "size": ("in", (2,)), "labels": ("out", LABELS)},
    ],
)
def test_what_is_no_deploy_graph_is_refused(cuda: HostCuda, tensors: Any) -> None:
    with pytest.raises(UserError, match=r"not a deploy graph: \d inputs, \d outputs; needed: one each"):
        TensorRTEngine(TRT, HalvingEngine(tensors))  # type: ignore[arg-type]
    assert not cuda.memory


def test_cuda_errors_say_what_failed(cuda: HostCuda) -> None:
    def text(status: int) -> bytes:
        return b"out of memory" if status == 2 else b"?"

    cuda.cudaGetErrorString = text  # type: ignore[attr-defined]
    cuda.status = 2
    with pytest.raises(UserError, match=r"CUDA: allocating 100 bytes failed: out of memory \(error 2\)"):
        _cuda.Buffer(100)


def test_a_missing_cuda_runtime_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    _cuda.runtime.cache_clear()
    with pytest.raises(UserError, match="libcudart was not found; install the CUDA runtime"):
        _cuda.runtime()
    assert _cuda.device() is None
