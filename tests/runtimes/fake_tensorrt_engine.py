"""Imitations of a deserialised engine and its context, with numpy on an imitation of CUDA."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np

from pipeline.frames import Array
from tests.runtimes.fake_cuda import HostCuda

SHAPE, LABELS = (1, 4, 6, 3), (1, 2, 3)


def expected(frames: Array) -> Array:
    return np.ascontiguousarray(frames[:, ::2, ::2, 1] // 64)


def expected_confidence(frames: Array) -> Array:
    return np.ascontiguousarray(frames[:, ::2, ::2, 2])


class HalvingEngine:
    """The object that deserialize_cuda_engine returns. Its network takes every second pixel of the green channel / 64,
    and of the red channel as confidence, if it has that output."""

    def __init__(self, cuda: HostCuda, tensors: dict[str, tuple[str, tuple[int, ...], str]], largest: int = 1) -> None:
        self.cuda = cuda
        self.tensors = tensors
        self.num_io_tensors = len(tensors)
        self.largest = largest
        self.contexts: list[HalvingContext] = []
        self.succeeds = self.makes_contexts = self.takes_addresses = True
        self.capture = "works"  # or is refused, or spoils it
        self.milliseconds = 1.0

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> str:
        return self.tensors[name][0]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name][1]

    def get_tensor_dtype(self, name: str) -> str:
        return self.tensors[name][2]

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        assert (name, index) == ("frames", 0)
        return [(2, *SHAPE[1:]), (3, *SHAPE[1:]), (self.largest, *SHAPE[1:])]

    def create_runtime_config(self) -> SimpleNamespace:
        return SimpleNamespace(cuda_graph_strategy="disabled")

    def create_execution_context(self, config: Any = None) -> HalvingContext | None:
        if not self.makes_contexts:
            return None
        self.contexts.append(HalvingContext(self, config))
        return self.contexts[-1]


class HalvingContext:
    """A context: addresses and an input shape of its own."""

    def __init__(self, engine: HalvingEngine, config: Any) -> None:
        self.engine, self.config = engine, config
        self.address: dict[str, int] = {}
        self.shapes: list[tuple[int, ...]] = []

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.address[name] = address
        return self.engine.takes_addresses

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "frames"
        self.shapes.append(shape)
        return shape[0] <= self.engine.largest

    def execute_async_v3(self, stream: int) -> bool:
        cuda = self.engine.cuda
        shape = self.shapes[-1] if self.shapes else self.engine.tensors["frames"][1]
        if stream in cuda.capturing and self.engine.capture != "works":
            cuda.capturing[stream] = None
            return self.engine.capture == "spoils it"

        def compute() -> None:
            frames = np.frombuffer(ctypes.string_at(self.address["frames"], int(np.prod(shape))), np.uint8)
            computed = {"labels": expected, "confidence": expected_confidence}
            for name, compute_one in computed.items():
                if name in self.address:
                    result = compute_one(frames.reshape(shape))
                    ctypes.memmove(self.address[name], result.ctypes.data, result.nbytes)
            cuda.clock[stream] += self.engine.milliseconds

        cuda.enqueue(stream, compute)
        return self.engine.succeeds
