"""The few CUDA calls that an engine needs, through ctypes: no package, the same symbols in CUDA 12 and 13."""

from __future__ import annotations

import ctypes
import ctypes.util
from functools import lru_cache
from typing import Any

from pipeline.errors import UserError

HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2
ATTRIBUTE_CC_MAJOR, ATTRIBUTE_CC_MINOR = 75, 76


@lru_cache(maxsize=1)
def runtime() -> ctypes.CDLL:
    """libcudart. Raises UserError when there is none."""
    for name in (ctypes.util.find_library("cudart"), "libcudart.so.13", "libcudart.so.12", "libcudart.so"):
        try:
            if name:
                return ctypes.CDLL(name)
        except OSError:
            continue
    raise UserError("libcudart was not found; install the CUDA runtime, or choose convert.runtime: onnxruntime")


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
    """Raise UserError for a CUDA status that is not success."""
    if status != 0:
        text = runtime().cudaGetErrorString
        text.restype = ctypes.c_char_p
        raise UserError(f"CUDA: {what} failed: {text(status).decode()} (error {status})")


class Buffer:
    """Device memory of a fixed size, freed by :meth:`free`."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.pointer = ctypes.c_void_p()
        check(runtime().cudaMalloc(ctypes.byref(self.pointer), ctypes.c_size_t(nbytes)), f"allocating {nbytes} bytes")

    @property
    def address(self) -> int:
        return int(self.pointer.value or 0)

    def copy(self, host: int, direction: int, stream: Stream) -> None:
        """Enqueue a copy between this buffer and the host address."""
        source, target = (host, self.address) if direction == HOST_TO_DEVICE else (self.address, host)
        status = runtime().cudaMemcpyAsync(
            ctypes.c_void_p(target), ctypes.c_void_p(source), ctypes.c_size_t(self.nbytes), direction, stream.handle
        )
        check(status, "copying")

    def free(self) -> None:
        runtime().cudaFree(self.pointer)


class Stream:
    """A CUDA stream."""

    def __init__(self) -> None:
        self.handle = ctypes.c_void_p()
        check(runtime().cudaStreamCreate(ctypes.byref(self.handle)), "creating a stream")

    def wait(self) -> None:
        check(runtime().cudaStreamSynchronize(self.handle), "waiting for the stream")

    def free(self) -> None:
        runtime().cudaStreamDestroy(self.handle)
