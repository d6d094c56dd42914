"""The few CUDA calls that an engine needs, through ctypes: no package, the same symbols in CUDA 12 and 13."""

from __future__ import annotations

import ctypes
import ctypes.util
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.frames import Array

HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2
ATTRIBUTE_CC_MAJOR, ATTRIBUTE_CC_MINOR = 75, 76
STREAM_NON_BLOCKING = 1
#: cudaStreamCaptureModeThreadLocal: calls of other threads, such as an allocation, do not break a capture.
CAPTURE_THREAD_LOCAL = 1
#: cudaEventRecordExternal: inside a capture, every launch of the graph records the event.
RECORD_IN_GRAPH = 1


@lru_cache(maxsize=1)
def runtime() -> ctypes.CDLL:
    """libcudart of the system, else of a pip package. Raises UserError when there is none."""
    system = (ctypes.util.find_library("cudart"), "libcudart.so.13", "libcudart.so.12", "libcudart.so")
    for name in (*system, *packaged()):
        try:
            if name:
                return ctypes.CDLL(name)
        except OSError:
            continue
    raise UserError("libcudart was not found; install the CUDA runtime, or choose onnxruntime with provider: cpu")


def packaged() -> list[str]:
    """libcudart of NVIDIA's pip packages, newest first: nvidia/cu13/lib (CUDA 13), nvidia/cuda_runtime/lib (12)."""
    files = [file for folder in sys.path for file in Path(folder).glob("nvidia/*/lib/libcudart.so.*")]
    return [str(file) for file in sorted(files, key=lambda file: file.name, reverse=True)]


def device() -> dict[str, Any] | None:
    """Name and compute capability of GPU 0 from the driver; None on a machine without one."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    if driver.cuInit(0) != 0:
        return None
    handle, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    if driver.cuDeviceGet(ctypes.byref(handle), 0) != 0:
        return None
    driver.cuDeviceGetName(name, len(name), handle)
    capability = []
    for attribute in (ATTRIBUTE_CC_MAJOR, ATTRIBUTE_CC_MINOR):
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, handle)
        capability.append(str(value.value))
    return {"gpu": name.value.decode(), "compute_capability": ".".join(capability)}


def check(status: int, what: str) -> None:
    """Raise UserError for a CUDA status that is not success, and clear the library's error."""
    if status != 0:
        text = runtime().cudaGetErrorString
        text.restype = ctypes.c_char_p
        message = text(status).decode()
        runtime().cudaGetLastError()  # the library keeps the error, and a later call would return it
        raise UserError(f"CUDA: {what} failed: {message} (error {status})")


class Buffer:
    """Device memory of a fixed size, freed by :meth:`free`."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.pointer = ctypes.c_void_p()
        check(runtime().cudaMalloc(ctypes.byref(self.pointer), ctypes.c_size_t(nbytes)), f"allocating {nbytes} bytes")

    @property
    def address(self) -> int:
        return int(self.pointer.value or 0)

    def copy(self, host: Pinned, *, nbytes: int, direction: int, stream: Stream) -> None:
        """Enqueue a copy of the first ``nbytes`` between this buffer and page-locked memory."""
        source, target = (host.address, self.address) if direction == HOST_TO_DEVICE else (self.address, host.address)
        status = runtime().cudaMemcpyAsync(
            ctypes.c_void_p(target), ctypes.c_void_p(source), ctypes.c_size_t(nbytes), direction, stream.handle
        )
        check(status, "copying")

    def free(self) -> None:
        runtime().cudaFree(self.pointer)


class Pinned:
    """Page-locked host memory: the GPU copies to and from it directly, while the CPU does other work.

    Attributes:
        array: the bytes, (nbytes,) uint8; not to be used after :meth:`free`.
    """

    def __init__(self, nbytes: int) -> None:
        self.pointer = ctypes.c_void_p()
        status = runtime().cudaHostAlloc(ctypes.byref(self.pointer), ctypes.c_size_t(nbytes), ctypes.c_uint(0))
        check(status, f"allocating {nbytes} bytes of page-locked memory")
        self.array: Array = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(self.address))

    @property
    def address(self) -> int:
        return int(self.pointer.value or 0)

    def free(self) -> None:
        runtime().cudaFreeHost(self.pointer)


class Stream:
    """A CUDA stream.

    Args:
        independent: it does not wait for work on the default stream, nor does that wait for it.
    """

    def __init__(self, *, independent: bool = False) -> None:
        self.handle = ctypes.c_void_p()
        flags = ctypes.c_uint(STREAM_NON_BLOCKING if independent else 0)
        check(runtime().cudaStreamCreateWithFlags(ctypes.byref(self.handle), flags), "creating a stream")

    def wait(self) -> None:
        check(runtime().cudaStreamSynchronize(self.handle), "waiting for the stream")

    def settle(self) -> None:
        """Wait for the work and ignore its errors: the caller is about to free the memory that it uses."""
        runtime().cudaStreamSynchronize(self.handle)
        runtime().cudaGetLastError()  # the library keeps an error for this thread, and its next user would report it

    def free(self) -> None:
        runtime().cudaStreamDestroy(self.handle)


class Event:
    """A point in a stream, with the time at which the GPU reached it."""

    def __init__(self) -> None:
        self.handle = ctypes.c_void_p()
        check(runtime().cudaEventCreate(ctypes.byref(self.handle)), "creating an event")

    def record(self, stream: Stream, *, captured: bool) -> None:
        """Enqueue the event; ``captured``: the stream is being captured, and every launch of the graph records it."""
        flags = ctypes.c_uint(RECORD_IN_GRAPH if captured else 0)
        check(runtime().cudaEventRecordWithFlags(self.handle, stream.handle, flags), "recording an event")

    def milliseconds_since(self, start: Event) -> float:
        """Time on the GPU between two events that it has reached."""
        elapsed = ctypes.c_float()
        status = runtime().cudaEventElapsedTime(ctypes.byref(elapsed), start.handle, self.handle)
        check(status, "reading the time between two events")
        return float(elapsed.value)

    def free(self) -> None:
        runtime().cudaEventDestroy(self.handle)


class Graph:
    """Work that is captured from a stream once and then launched as a whole, with one call for all kernels.

    Args:
        stream: where the work is enqueued; nothing runs while it is captured.
        enqueue: enqueues it.

    Raises:
        UserError: part of the work cannot be captured; the stream can be used as before.
    """

    def __init__(self, stream: Stream, *, enqueue: Callable[[], None]) -> None:
        self.handle = ctypes.c_void_p()
        captured = ctypes.c_void_p()
        check(runtime().cudaStreamBeginCapture(stream.handle, CAPTURE_THREAD_LOCAL), "beginning a capture")
        try:
            try:
                enqueue()
            finally:  # end the capture after an error too, else the stream stays unusable
                status = runtime().cudaStreamEndCapture(stream.handle, ctypes.byref(captured))
            check(status, "ending a capture")
            status = runtime().cudaGraphInstantiateWithFlags(ctypes.byref(self.handle), captured, ctypes.c_ulonglong(0))
            check(status, "creating a graph")
        finally:
            runtime().cudaGetLastError()
            if captured.value:
                runtime().cudaGraphDestroy(captured)

    def launch(self, stream: Stream) -> None:
        check(runtime().cudaGraphLaunch(self.handle, stream.handle), "launching a graph")

    def free(self) -> None:
        runtime().cudaGraphExecDestroy(self.handle)
