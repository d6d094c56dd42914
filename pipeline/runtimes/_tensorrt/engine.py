"""A loaded TensorRT or TensorRT-RTX engine: page-locked memory, one stream, a CUDA graph, and its time on the GPU."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from math import prod
from types import ModuleType
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.runtimes import _cuda
from pipeline.runtimes._base import CLOSED, CONFIDENCE, NO_CONFIDENCE, Engine, check_frames

log = logging.getLogger(__name__)


class TensorRTEngine(Engine):
    """A deploy graph on the GPU; frames and label maps are copied on the stream that it runs on.

    The first run with a batch size enqueues call by call, because TensorRT allocates and initialises then. The second
    captures these calls as a CUDA graph, copies included; it and all later runs launch the graph. A graph is valid for
    one batch size; a run with another one starts again. TensorRT-RTX captures its own graphs, because it compiles some
    kernels during later runs, and ours would be invalid then.

    Args:
        trt: the library.
        engine: its ICudaEngine; the batch may be open (-1), height and width are fixed.
        cuda_graph: whether to capture; False for engines on a DLA.

    Raises:
        UserError: not a deploy graph, or too little GPU memory. Nothing stays allocated.
    """

    on_gpu = True

    def __init__(self, trt: ModuleType, engine: Any, *, cuda_graph: bool = True) -> None:
        self.trt, self.engine, self.cuda_graph = trt, engine, cuda_graph
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        outputs = [name for name in names if name not in inputs]
        results = [name for name in outputs if name != CONFIDENCE]
        if len(inputs) != 1 or len(results) != 1:
            raise UserError(f"not a deploy graph: {len(inputs)} inputs, {len(results)} outputs; needed: one each")
        self.gives_confidence = CONFIDENCE in outputs
        self.frames_name, self.output_names = inputs[0], (results[0], *([CONFIDENCE] if self.gives_confidence else []))
        self.input_shape = tuple(engine.get_tensor_shape(self.frames_name))
        self.output_shape = tuple(engine.get_tensor_shape(results[0]))
        self._check_tensors()
        self.input_size = (self.input_shape[1], self.input_shape[2])
        self.output_size = (self.output_shape[1], self.output_shape[2])
        self.batches = self._batch_range()
        self._graph: _cuda.Graph | None = None
        self._batch = 0  # frames of the last run
        with ExitStack() as resources:
            self._allocate(resources)
            self._resources = resources.pop_all()

    def _check_tensors(self) -> None:
        shapes = (self.input_shape, *(tuple(self.engine.get_tensor_shape(name)) for name in self.output_names))
        types = [self.engine.get_tensor_dtype(name) for name in (self.frames_name, *self.output_names)]
        fixed = all(side > 0 for shape in shapes for side in shape[1:])
        ranks = [len(shape) for shape in shapes[:2]]
        alike = set(shapes[1:]) == {self.output_shape} and set(types) == {self.trt.DataType.UINT8}
        if ranks != [4, 3] or not fixed or not alike:
            outputs = ", ".join(f"output {kind} {shape}" for kind, shape in zip(types[1:], shapes[1:], strict=True))
            raise UserError(
                f"not a deploy graph: input {types[0]} {shapes[0]}, {outputs}; needed: uint8 frames (N, H, W, 3) in, "
                "uint8 label maps (N, h, w) out, sizes fixed but for N"
            )

    def _batch_range(self) -> tuple[int, int]:
        """Fewest and most frames per run."""
        if self.input_shape[0] > 0:
            return self.input_shape[0], self.input_shape[0]
        fewest, _, most = (shape[0] for shape in self.engine.get_tensor_profile_shape(self.frames_name, 0))
        return int(fewest), int(most)

    def _allocate(self, resources: ExitStack) -> None:
        """Create stream, events, buffers for the largest batch, context; after an error, ``resources`` frees them."""

        def own(resource: Any) -> Any:
            resources.callback(resource.free)
            return resource

        shapes = (self.input_shape, self.output_shape)
        input_bytes, output_bytes = (self.batches[1] * prod(shape[1:]) for shape in shapes)
        self.stream: _cuda.Stream = own(_cuda.Stream())
        self._started, self._ended = own(_cuda.Event()), own(_cuda.Event())
        self.frames, self._host_frames = own(_cuda.Buffer(input_bytes)), own(_cuda.Pinned(input_bytes))
        self._results = [own(_cuda.Buffer(output_bytes)) for _ in self.output_names]
        self._host_results = [own(_cuda.Pinned(output_bytes)) for _ in self.output_names]
        self.context = self._create_context()
        resources.callback(setattr, self, "context", None)
        resources.callback(self._drop)
        resources.callback(self.stream.settle)
        buffers = {self.frames_name: self.frames, **dict(zip(self.output_names, self._results, strict=True))}
        if not all(self.context.set_tensor_address(name, buffer.address) for name, buffer in buffers.items()):
            raise UserError("TensorRT refused the buffers of an engine; its log above says why")

    def _create_context(self) -> Any:
        self._captures = self.cuda_graph
        if self.cuda_graph and hasattr(self.trt, "CudaGraphStrategy"):
            self._captures = False
            config = self.engine.create_runtime_config()
            config.cuda_graph_strategy = self.trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            context = self.engine.create_execution_context(config)
        else:
            context = self.engine.create_execution_context()
        if context is None:
            raise UserError("TensorRT could not create an execution context; its log above says why (often: no memory)")
        return context

    def another(self) -> TensorRTEngine:
        """The same engine with a context, a stream and buffers of its own, for another thread; close it as well."""
        return TensorRTEngine(self.trt, self.engine, cuda_graph=self.cuda_graph)

    def run(self, frames: Array) -> Array:
        self._run(frames)
        return self._result(0)

    def run_with_confidence(self, frames: Array) -> tuple[Array, Array]:
        if not self.gives_confidence:
            raise UserError(NO_CONFIDENCE)
        self._run(frames)
        return self._result(0), self._result(1)

    def _run(self, frames: Array) -> None:
        if self.context is None:
            raise UserError(CLOSED)
        self.device_ms = None
        self._prepare(frames)
        np.copyto(self._host_frames.array[: frames.size].reshape(frames.shape), frames)
        if self._graph is None and self._captures and self._batch == len(frames):
            self._capture()
        if self._graph is not None:
            self._graph.launch(self.stream)
        else:
            self._enqueue(len(frames))
        self.stream.wait()
        self._batch = len(frames)
        self.device_ms = self._ended.milliseconds_since(self._started)

    def _result(self, index: int) -> Array:
        """A copy of one of the outputs of the last run; the next run writes into its buffer."""
        shape = (self._batch, *self.output_shape[1:])
        return np.array(self._host_results[index].array[: prod(shape)].reshape(shape))

    def _prepare(self, frames: Array) -> None:
        """Check the frames and set the batch size of the context."""
        fewest, most = self.batches
        if fewest == most:
            check_frames(frames, (most, *self.input_shape[1:]))
        elif frames.ndim != 4 or not fewest <= len(frames) <= most:
            raise UserError(
                f"frames are {frames.shape}; this engine takes {fewest} to {most} of {self.input_size} per run"
            )
        else:
            check_frames(frames, (len(frames), *self.input_shape[1:]))
        if len(frames) == self._batch:
            return
        self._drop()
        if self.input_shape[0] < 0 and not self.context.set_input_shape(self.frames_name, frames.shape):
            raise UserError(f"TensorRT refused frames of {frames.shape}; its log above says why")

    def _enqueue(self, count: int, *, captured: bool = False) -> None:
        input_bytes, output_bytes = (count * prod(shape[1:]) for shape in (self.input_shape, self.output_shape))
        self.frames.copy(self._host_frames, nbytes=input_bytes, direction=_cuda.HOST_TO_DEVICE, stream=self.stream)
        self._started.record(self.stream, captured=captured)
        if not self.context.execute_async_v3(self.stream.handle.value or 0):
            raise UserError("TensorRT could not run the engine; its log above says why")
        self._ended.record(self.stream, captured=captured)
        for buffer, host in zip(self._results, self._host_results, strict=True):
            buffer.copy(host, nbytes=output_bytes, direction=_cuda.DEVICE_TO_HOST, stream=self.stream)

    def _capture(self) -> None:
        """Capture a run with as many frames as the last one; after an error, warn and do not try again."""
        try:
            self._graph = _cuda.Graph(self.stream, enqueue=lambda: self._enqueue(self._batch, captured=True))
        except UserError as error:
            self.cuda_graph = self._captures = False
            log.warning("This engine runs without a CUDA graph, as it could not be captured: %s", error)

    def _drop(self) -> None:
        """Free the graph and forget its batch size: the context is about to change, or to be freed."""
        if self._graph is not None:
            self._graph.free()
        self._graph, self._batch = None, 0

    def close(self) -> None:
        self._resources.close()
