"""Loaded engines of ONNX Runtime: a session on any provider, and one on CUDA that owns its stream and its memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from math import prod
from types import ModuleType
from typing import Any, TypeVar

import numpy as np

from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.runtimes import _cuda
from pipeline.runtimes._base import CLOSED, CONFIDENCE, NO_CONFIDENCE, Engine, check_frames

#: Where the bound tensors of a :class:`CudaEngine` are.
DEVICE = "cuda"

T = TypeVar("T")


class OnnxRuntimeEngine(Engine):
    """A session on a deploy graph."""

    def __init__(self, session: Any) -> None:
        self.session: Any = session  # None: closed
        frame, label_map = session.get_inputs()[0], session.get_outputs()[0]
        types, ranks = (frame.type, label_map.type), (len(frame.shape), len(label_map.shape))
        fixed = all(isinstance(size, int) for size in (*frame.shape, *label_map.shape))
        if types != ("tensor(uint8)", "tensor(uint8)") or ranks != (4, 3) or not fixed:
            raise UserError(
                f"not a deploy graph: input {frame.type} {frame.shape}, output {label_map.type} {label_map.shape}; "
                "needed: uint8 frames (N, H, W, 3) in, uint8 label maps (N, h, w) out, sizes fixed"
            )
        self.input_name, self.output_name = frame.name, label_map.name
        self.input_shape: tuple[int, ...] = tuple(frame.shape)
        self.input_size = (self.input_shape[1], self.input_shape[2])
        self.output_size = (int(label_map.shape[1]), int(label_map.shape[2]))
        self.batches = (self.input_shape[0], self.input_shape[0])
        self.on_gpu = session.get_providers()[0] != "CPUExecutionProvider"
        self.gives_confidence = CONFIDENCE in [output.name for output in session.get_outputs()]

    def another(self) -> OnnxRuntimeEngine:
        if self.session is None:
            raise UserError(CLOSED)
        return OnnxRuntimeEngine(self.session)  # a session may run in several threads at once

    def run(self, frames: Array) -> Array:
        return self._run(frames, [self.output_name])[0]

    def run_with_confidence(self, frames: Array) -> tuple[Array, Array]:
        if not self.gives_confidence:
            raise UserError(NO_CONFIDENCE)
        label_maps, confidence = self._run(frames, [self.output_name, CONFIDENCE])
        return label_maps, confidence

    def _run(self, frames: Array, outputs: list[str]) -> list[Array]:
        if self.session is None:
            raise UserError(CLOSED)
        check_frames(frames, self.input_shape)
        return [np.asarray(output, np.uint8) for output in self.session.run(outputs, {self.input_name: frames})]

    def close(self) -> None:
        self.session = None


class Gate:
    """Keeps runs on the GPU away from the capture of a graph.

    ONNX Runtime captures in CUDA's global mode: calls of other threads, such as an allocation, would fail and spoil the
    capture. So a capture waits for the runs of all engines, and they wait for it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running = 0

    @contextmanager
    def run(self) -> Iterator[None]:
        with self._changed:
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    @contextmanager
    def capture(self) -> Iterator[None]:
        with self._changed:  # held: no run begins
            self._changed.wait_for(lambda: self._running == 0)
            yield


_GATE = Gate()


class CudaEngine(OnnxRuntimeEngine):
    """A session whose frames and results have fixed places in GPU memory, and whose work goes to a stream of its own.

    A run copies the frames into page-locked memory, then enqueues the upload, the graph and the download, and waits
    once. So with two engines in two threads, one uploads a frame while the other computes. The fixed places are also
    what a captured CUDA graph needs. ONNX Runtime captures it in the first run, which is done when the engine is
    opened, and keeps it for the thread that ran it; so such an engine has a thread of its own.

    On a GPU this class has not been run by us yet; the tests run it on imitations of CUDA, with sessions on the CPU.

    Args:
        ort: the module onnxruntime.
        open_session: opens a session whose work goes to the CUDA stream with a given handle.
        captured: whether its sessions capture a CUDA graph.

    Raises:
        UserError: not a deploy graph, or too little memory. Nothing stays allocated.
    """

    def __init__(self, ort: ModuleType, open_session: Callable[[int], Any], *, captured: bool) -> None:
        self.ort, self.open_session, self.captured = ort, open_session, captured
        self._run_options = ort.RunOptions()
        self._run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")  # the download waits
        self._thread = ThreadPoolExecutor(1, "cuda-engine") if captured else None
        with _GATE.capture(), ExitStack() as resources:
            if self._thread is not None:
                resources.callback(self._thread.shutdown)
            self._call(self._open, resources)
            self._resources = resources.pop_all()

    def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function in the thread to which the session belongs."""
        return self._thread.submit(function, *arguments).result() if self._thread else function(*arguments)

    def _open(self, resources: ExitStack) -> None:
        """Create stream, session and buffers, and run once; after an error, ``resources`` frees them."""

        def own(resource: Any) -> Any:
            resources.callback(resource.free)
            return resource

        self._stream: _cuda.Stream = own(_cuda.Stream(independent=True))
        self._started, self._ended = own(_cuda.Event()), own(_cuda.Event())
        resources.callback(self._call, self._release)  # before the stream is freed
        super().__init__(self.open_session(self._stream.handle.value or 0))
        self.output_shape = (self.input_shape[0], *self.output_size)
        self.output_names = [self.output_name, *([CONFIDENCE] if self.gives_confidence else [])]
        input_bytes, output_bytes = prod(self.input_shape), prod(self.output_shape)
        self._frames, self._host_frames = own(_cuda.Buffer(input_bytes)), own(_cuda.Pinned(input_bytes))
        self._results = {name: own(_cuda.Buffer(output_bytes)) for name in self.output_names}
        self._host_results = {name: own(_cuda.Pinned(output_bytes)) for name in self.output_names}
        self._binding: Any = self.session.io_binding()
        self._binding.bind_input(self.input_name, DEVICE, 0, np.uint8, list(self.input_shape), self._frames.address)
        for name, buffer in self._results.items():
            self._binding.bind_output(name, DEVICE, 0, np.uint8, list(self.output_shape), buffer.address)
        resources.callback(self._call, self._release)  # before the buffers are freed
        resources.callback(self._call, self._stream.settle)  # in the thread whose errors CUDA keeps
        try:
            self._compute(np.zeros(self.input_shape, np.uint8), self.output_names)
        except UserError:
            raise
        except Exception as error:  # onnxruntime raises its own types, one for each status code
            raise UserError(f"ONNX Runtime {self.ort.__version__} cannot run it on this GPU: {error}") from error
        self.device_ms = None

    def _release(self) -> None:
        """Free the session; a binding keeps it alive."""
        self._binding = None
        self.session = None

    def another(self) -> CudaEngine:
        """The same graph in a session of its own, with a stream and buffers of its own."""
        if self.session is None:
            raise UserError(CLOSED)
        return CudaEngine(self.ort, self.open_session, captured=self.captured)

    def _run(self, frames: Array, outputs: list[str]) -> list[Array]:
        if self.session is None:
            raise UserError(CLOSED)
        check_frames(frames, self.input_shape)
        with _GATE.run():
            return self._call(self._compute, frames, outputs)

    def _compute(self, frames: Array, outputs: list[str]) -> list[Array]:
        self.device_ms = None
        np.copyto(self._host_frames.array.reshape(self.input_shape), frames)
        self._frames.copy(
            self._host_frames, nbytes=self._frames.nbytes, direction=_cuda.HOST_TO_DEVICE, stream=self._stream
        )
        self._started.record(self._stream, captured=False)
        self.session.run_with_iobinding(self._binding, self._run_options)
        self._ended.record(self._stream, captured=False)
        for name in outputs:
            buffer = self._results[name]
            buffer.copy(
                self._host_results[name], nbytes=buffer.nbytes, direction=_cuda.DEVICE_TO_HOST, stream=self._stream
            )
        self._stream.wait()
        self.device_ms = self._ended.milliseconds_since(self._started)
        return [np.array(self._host_results[name].array.reshape(self.output_shape)) for name in outputs]

    def close(self) -> None:
        with _GATE.run():  # to free memory would spoil a capture too
            self._resources.close()
