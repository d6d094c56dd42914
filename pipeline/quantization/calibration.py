"""Streaming calibration: one pass over train frames collects statistics of fixed size for each tensor.

Memory holds the activations of one frame only, and of a large frame only a part: the graph runs in pieces whose tensors
fit into :data:`FETCHED`. The pass writes its statistics to a checkpoint from time to time, so that an interrupted pass
can resume.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pipeline import artifact
from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.quantization import graph as graphs
from pipeline.quantization import histogram as histograms
from pipeline.quantization.graph import Graph
from pipeline.quantization.histogram import Histogram

#: Largest size, in bytes, of the activations that one run of a piece returns.
FETCHED = 128 * 2**20
#: Threads of a pass. The number is fixed, so that statistics do not depend on the machine's core count.
THREADS = 2
#: Seconds between two checkpoints.
INTERVAL = 20.0


class FrameSource(Protocol):
    """Frames that are read on access; a list is one such source."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Array: ...


Floats = npt.NDArray[np.float64]
_log = logging.getLogger(__name__)


@dataclass
class Statistics:
    """What a calibration pass measured.

    Attributes:
        histograms: of every float activation of the network's body, by tensor name.
        channel_sums: for each tensor that a weighted layer reads: the sum of the values of each channel, (C,).
        channel_counts: for each of these tensors: how many values each channel's sum has.
        frames: how many frames were measured.
    """

    histograms: dict[str, Histogram] = field(default_factory=dict)
    channel_sums: dict[str, Floats] = field(default_factory=dict)
    channel_counts: dict[str, int] = field(default_factory=dict)
    frames: int = 0

    def channel_mean(self, name: str) -> Floats:
        """Mean of each channel of a tensor over frames and positions, (C,)."""
        return self.channel_sums[name] / self.channel_counts[name]

    def save(self, file: Path, *, key: str = "") -> None:
        """Write everything to a safetensors file, under a temporary name first; equal statistics give equal bytes.

        Raises:
            UserError: the file cannot be written; an older file there is unchanged.
        """
        tensors: dict[str, npt.NDArray[Any]] = {
            f"counts/{name}": histogram.counts for name, histogram in self.histograms.items()
        }
        tensors |= {f"edges/{name}": histogram.edges for name, histogram in self.histograms.items()}
        tensors |= {f"sums/{name}": value for name, value in self.channel_sums.items()}
        tensors |= {f"count/{name}": np.array(value) for name, value in self.channel_counts.items()}
        tensors["frames"] = np.array(self.frames)
        try:
            with artifact.replacing(file) as scratch:
                save_file(tensors, scratch, metadata={"key": key})
        except (OSError, SafetensorError) as error:
            raise UserError(f"{file}: cannot be written ({error}); free disk space or choose another path") from error

    @classmethod
    def load(cls, file: Path) -> tuple[Statistics, str]:
        """Statistics and key of a file that :meth:`save` wrote.

        Raises:
            UserError: the file is missing or holds no statistics.
        """
        statistics = cls()
        try:
            with safe_open(str(file), framework="numpy") as stored:
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - no mapping
                key = (stored.metadata() or {}).get("key", "")
            statistics.frames = int(tensors.pop("frames"))
            for name, value in tensors.items():
                kind, _, tensor = name.partition("/")
                if kind == "counts":
                    statistics.histograms[tensor] = Histogram.restored(value, tensors[f"edges/{tensor}"])
                elif kind == "sums":
                    statistics.channel_sums[tensor] = value
                    statistics.channel_counts[tensor] = int(tensors[f"count/{tensor}"])
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise UserError(f"{file}: no calibration statistics ({error}); run dvc repro -f calibrate") from error
        return statistics, key


def collect(
    onnx_file: Path,
    frames: FrameSource,
    *,
    checkpoint: Path | None = None,
    identity: str = "",
    interval: float = INTERVAL,
    progress: Callable[[], object] = lambda: None,
) -> Statistics:
    """Statistics of every float activation of a deploy graph.

    Args:
        frames: (H, W, 3) BGR uint8 of the graph's input size, from the train split; each is read once.
        checkpoint: the pass writes its state to this file and removes it at the end. If the file already holds the
            state of the same pass, the pass resumes from it.
        identity: names the frames. The graph, the frames and this code identify a pass.
        interval: seconds between two checkpoints.
        progress: called after every frame, also for those that the checkpoint holds.

    Raises:
        UserError: an activation is NaN or infinite, or there is no frame.
    """
    if not len(frames):
        raise UserError("no calibration frames; the train split is empty")
    graph = graphs.load(str(onnx_file))
    graph.weights_finite()
    key = _key(onnx_file, identity)
    statistics = _restored(checkpoint, key) or Statistics()
    for _ in range(statistics.frames):
        progress()
    names = graph.float_activations()
    if unknown := [name for name in names if name not in graph.shapes]:
        raise UserError(f"{onnx_file}: tensor '{unknown[0]}' has no fixed shape; export with a fixed height and width")
    layers = {node.input[0]: graphs.input_axis(node) for node in graph.layers}
    sessions = [session(piece) for piece in pieces(graph, names)]
    saved_at = time.monotonic()
    for index in range(statistics.frames, len(frames)):
        for name, value in activations(sessions, frames[index]):
            if not np.isfinite(value).all():
                raise UserError(
                    f"{onnx_file}: tensor '{name}' is NaN or infinite on a calibration frame; the network is broken: "
                    "train or export it again"
                )
            statistics.histograms.setdefault(name, Histogram()).add(value)
            if name in layers:
                by_channel = np.moveaxis(value, layers[name], 0).reshape(value.shape[layers[name]], -1)
                sums = by_channel.sum(axis=1, dtype=np.float64)
                statistics.channel_sums[name] = statistics.channel_sums.get(name, 0.0) + sums
                statistics.channel_counts[name] = statistics.channel_counts.get(name, 0) + by_channel.shape[1]
        statistics.frames += 1
        progress()
        if checkpoint and time.monotonic() - saved_at >= interval:
            _write_checkpoint(statistics, checkpoint, key)
            saved_at = time.monotonic()
    if checkpoint:
        checkpoint.unlink(missing_ok=True)
    return statistics


def _key(onnx_file: Path, identity: str) -> str:
    """Identity of a pass: a hash of the graph, the frames, ONNX Runtime's version and the code that counts."""
    digest = hashlib.sha256()
    for file in (onnx_file, Path(__file__), Path(histograms.__file__), Path(graphs.__file__)):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    digest.update(f"{onnxruntime.__version__} {identity}".encode())
    return digest.hexdigest()


def _restored(checkpoint: Path | None, key: str) -> Statistics | None:
    if checkpoint is None or not checkpoint.exists():
        return None
    try:
        statistics, stored_key = Statistics.load(checkpoint)
    except UserError as error:
        _log.warning("%s; starting over", error)
        return None
    if stored_key != key:
        _log.warning("%s is of another network, other frames or other code; starting over", checkpoint)
        return None
    return statistics


def _write_checkpoint(statistics: Statistics, checkpoint: Path, key: str) -> None:
    """Write a checkpoint. If that fails (a full disk), print a warning: the pass itself does not need the file."""
    try:
        statistics.save(checkpoint, key=key)
    except UserError as error:
        _log.warning("no checkpoint written: %s", error)


def pieces(graph: Graph, names: Sequence[str]) -> Iterator[onnx.ModelProto]:
    """Graphs that each return some of the activations, in order, and at most FETCHED bytes of them."""
    piece: list[str] = []
    size = 0
    for name in names:
        nbytes = 4 * math.prod(graph.shapes[name])
        if piece and size + nbytes > FETCHED:
            yield _with_outputs(graph, piece)
            piece, size = [], 0
        piece.append(name)
        size += nbytes
    yield _with_outputs(graph, piece)


def _with_outputs(graph: Graph, names: Sequence[str]) -> onnx.ModelProto:
    """The part of the graph that computes these tensors, which become its outputs."""
    return onnx.utils.Extractor(graph.model).extract_model([graph.model.graph.input[0].name], list(names))


def session(model: onnx.ModelProto) -> Any:
    """An ONNX Runtime session on the CPU with :data:`THREADS` threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False  # with an arena, every piece would keep the memory of the largest frame
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def activations(sessions: Sequence[Any], frame: Array) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Name and value of every activation for a frame; the values of a piece are freed before the next piece runs."""
    for session in sessions:
        names = [output.name for output in session.get_outputs()]
        values = session.run(names, {session.get_inputs()[0].name: frame[np.newaxis]})
        for name in names:
            yield name, values.pop(0)
