"""An imitation of libcudart that uses host memory."""

from __future__ import annotations

import ctypes
import functools
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from pipeline.runtimes import _cuda


def call(method: Any) -> Any:
    """Count a CUDA call; it fails if its number, from 1, is the one in ``fails``."""
    name = method.__name__

    @functools.wraps(method)
    def counted(self: HostCuda, *arguments: Any) -> int:
        with self.lock:
            self.calls[name] += 1
            status = 2 if self.fails.get(name) == self.calls[name] else int(method(self, *arguments) or 0)
            if status:
                self.errors[threading.get_ident()] = status
            return status

    return counted


class HostCuda:
    """libcudart on host memory: it records allocations, runs captured work at its launch, and calls can fail.

    Its clock counts the milliseconds that the engine states for each run.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.calls: Counter[str] = Counter()
        self.fails: dict[str, int] = {}
        self.memory: dict[int, Any] = {}
        self.pinned: dict[int, Any] = {}
        self.alive: dict[int, str] = {}  # streams, events, captured graphs, graphs
        self.work: dict[int, list[Callable[[], None]]] = {}  # of captured graphs and graphs
        self.capturing: dict[int, list[Callable[[], None]] | None] = {}  # by stream; None: spoilt
        self.recorded: dict[int, float] = {}
        self.clock: dict[int, float] = {}  # by stream
        self.copies: list[tuple[int, int]] = []
        self.errors: dict[int, int] = {}  # the last one by thread, until that thread reads it
        self.names = iter(range(77, 100_000))

    @property
    def held(self) -> int:
        return len(self.memory) + len(self.pinned) + len(self.alive)

    def new(self, handle: Any, kind: str) -> int:
        handle._obj.value = name = next(self.names)
        self.alive[name] = kind
        return name

    def enqueue(self, stream: int, work: Callable[[], None]) -> int:
        """Do the work now, or store it for the graph."""
        assert self.alive[stream] == "stream"
        captured = self.capturing.get(stream, [])
        if captured is None:
            return 901  # cudaErrorStreamCaptureInvalidated
        if stream in self.capturing:
            captured.append(work)
        else:
            work()
        return 0

    @call
    def cudaMalloc(self, pointer: Any, size: Any) -> None:
        block = ctypes.create_string_buffer(size.value)
        pointer._obj.value = ctypes.addressof(block)
        self.memory[ctypes.addressof(block)] = block

    @call
    def cudaFree(self, pointer: Any) -> None:
        del self.memory[pointer.value]

    @call
    def cudaHostAlloc(self, pointer: Any, size: Any, flags: Any) -> None:
        block = ctypes.create_string_buffer(size.value)
        pointer._obj.value = ctypes.addressof(block)
        self.pinned[ctypes.addressof(block)] = block

    @call
    def cudaFreeHost(self, pointer: Any) -> None:
        del self.pinned[pointer.value]

    @call
    def cudaMemcpyAsync(self, target: Any, source: Any, size: Any, direction: int, stream: Any) -> int:
        device, host = (target, source) if direction == _cuda.HOST_TO_DEVICE else (source, target)
        assert len(self.memory[device.value]) >= size.value
        assert len(self.pinned[host.value]) >= size.value  # ordinary memory would be copied twice
        places = target.value, source.value, size.value

        def copy() -> None:
            self.copies.append((direction, places[2]))
            ctypes.memmove(*places)

        return self.enqueue(stream.value, copy)

    @call
    def cudaStreamCreateWithFlags(self, handle: Any, flags: Any) -> None:
        self.clock[self.new(handle, "stream")] = 0.0

    @call
    def cudaStreamSynchronize(self, handle: Any) -> None:
        assert self.alive[handle.value] == "stream"
        assert handle.value not in self.capturing

    @call
    def cudaStreamDestroy(self, handle: Any) -> None:
        assert self.alive.pop(handle.value) == "stream"

    @call
    def cudaEventCreate(self, handle: Any) -> None:
        self.new(handle, "event")

    @call
    def cudaEventRecordWithFlags(self, event: Any, stream: Any, flags: Any) -> int:
        name, where, in_graph = event.value, stream.value, stream.value in self.capturing
        if flags.value and not in_graph:
            return 1  # cudaErrorInvalidValue
        if flags.value or not in_graph:  # without the flag a graph does not record it
            return self.enqueue(where, lambda: self.recorded.update({name: self.clock[where]}))
        return 0

    @call
    def cudaEventElapsedTime(self, elapsed: Any, start: Any, end: Any) -> int:
        if not {start.value, end.value} <= set(self.recorded):
            return 400
        elapsed._obj.value = self.recorded[end.value] - self.recorded[start.value]
        return 0

    @call
    def cudaEventDestroy(self, handle: Any) -> None:
        assert self.alive.pop(handle.value) == "event"

    @call
    def cudaStreamBeginCapture(self, stream: Any, mode: int) -> None:
        assert mode == 1 and stream.value not in self.capturing
        self.capturing[stream.value] = []

    @call
    def cudaStreamEndCapture(self, stream: Any, graph: Any) -> int:
        captured = self.capturing.pop(stream.value)
        if captured is None:
            return 901  # cudaErrorStreamCaptureInvalidated
        self.work[self.new(graph, "captured")] = captured
        return 0

    @call
    def cudaGraphInstantiateWithFlags(self, handle: Any, captured: Any, flags: Any) -> None:
        self.work[self.new(handle, "graph")] = list(self.work[captured.value])

    @call
    def cudaGraphDestroy(self, handle: Any) -> None:
        assert self.alive.pop(handle.value) == "captured"

    @call
    def cudaGraphLaunch(self, handle: Any, stream: Any) -> None:
        assert self.alive[handle.value] == "graph"
        for work in self.work[handle.value]:
            self.enqueue(stream.value, work)

    @call
    def cudaGraphExecDestroy(self, handle: Any) -> None:
        assert self.alive.pop(handle.value) == "graph"

    def cudaGetLastError(self) -> int:
        return self.errors.pop(threading.get_ident(), 0)

    class cudaGetErrorString:  # a function with a restype
        def __new__(cls, status: int) -> Any:
            return b"out of memory" if status == 2 else b"another error"
