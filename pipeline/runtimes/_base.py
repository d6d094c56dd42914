"""The contract of a runtime plugin: build an engine from a deploy graph, and run it.

A *deploy graph* takes uint8 frames (N, H, W, 3) BGR and gives uint8 label maps (N, h, w); everything between
(normalisation, upsampling, argmax) is inside. This module and its plugins run on the device: numpy, OpenCV and one
runtime, nothing else.

No other module compares the names of plugins: everything that depends on the runtime is a property of :class:`Runtime`
or :class:`Engine`. ``tests/runtimes/test_contract.py`` checks every runtime that this machine has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pipeline.errors import UserError
from pipeline.frames import Array

#: Name of the optional second output of a deploy graph.
CONFIDENCE = "confidence"
#: The error of engines without the second output.
NO_CONFIDENCE = (
    "this engine gives no confidence; set export.confidence: true in params.yaml (for an own network, confidence: true "
    "in its file) and build the engine again with dvc repro"
)
#: The error of engines that were closed.
CLOSED = "this engine was closed; open it again"


class Engine(ABC):
    """A loaded engine. Not for concurrent use: one engine per thread, see :meth:`another`.

    Arrays that it returns are the caller's: a later run does not write into them. It does not write into its frames.

    Attributes:
        input_size: (height, width) of the frames it takes.
        output_size: (height, width) of the label maps it gives.
        batches: fewest and most frames per run.
        on_gpu: whether it computes on a GPU, or on another device that leaves the CPU's cores to other work.
        device_ms: time of the last run on the GPU, without copies; None if the engine does not measure it.
        gives_confidence: whether its deploy graph has the second output, see :meth:`run_with_confidence`.
    """

    input_size: tuple[int, int]
    output_size: tuple[int, int]
    batches: tuple[int, int] = (1, 1)
    on_gpu: bool = False
    device_ms: float | None = None
    gives_confidence: bool = False

    @abstractmethod
    def run(self, frames: Array) -> Array:
        """Segment frames.

        Args:
            frames: (N, H, W, 3) BGR uint8, of ``input_size`` and as many as ``batches`` allows.

        Returns:
            label maps (N, h, w) uint8 train ids, of ``output_size``.

        Raises:
            UserError: other frames (:func:`check_frames`), or the engine was closed (:data:`CLOSED`).
        """

    def run_with_confidence(self, frames: Array) -> tuple[Array, Array]:
        """Segment frames as :meth:`run` does, and give the confidence of every label.

        Returns:
            label maps (N, h, w) uint8 train ids, the same as those of :meth:`run`; and confidence (N, h, w) uint8: the
            probability of the label, 0 to 1 as 0 to 255.

        Raises:
            UserError: the engine gives no confidence.
        """
        raise UserError(NO_CONFIDENCE)

    def another(self) -> Engine:
        """The same engine for another thread; close both, in any order. UserError where there can be only one."""
        raise UserError(f"{type(self).__name__} runs in one thread only; use one context")

    def close(self) -> None:  # noqa: B027 - most runtimes have nothing to free
        """Free memory; the engine cannot run afterwards. A second call does nothing."""


def check_frames(frames: Array, shape: tuple[int, ...]) -> None:
    """Raise UserError when frames are not uint8 of the engine's shape (N, H, W, 3)."""
    if frames.shape != shape or frames.dtype != np.uint8:
        raise UserError(f"frames are {frames.shape} {frames.dtype}; this engine takes {shape} uint8; resize them")


class Release(Protocol):
    """Writes an INT8 file without the Q/DQ of some nodes; needs the onnx package, which devices lack.

    Args:
        source, target: ONNX files.
        nodes: names of layers, or of Q/DQ nodes; a Q/DQ node means the layers that read it.

    Returns:
        the layers that lost their Q/DQ, sorted; if there are none, no file is written.
    """

    def __call__(self, source: Path, target: Path, *, nodes: Collection[str]) -> list[str]: ...


@dataclass(frozen=True)
class Fit:
    """How well a runtime fits a machine, for `segpress doctor`.

    Attributes:
        rank: 0: it does not run there; 1: it runs there; 2: it was made for such machines.
        why: the reason, as part of a sentence.
        install: the command that installs its library there.
    """

    rank: int
    why: str = ""
    install: str = ""


class Runtime(ABC):
    """Builds and loads engines. A plugin's constructor takes its section of ``convert`` in params.yaml.

    The constructor imports the library, and raises UserError with the package to install where it is missing. A runtime
    that computes on the CPU calls the number of its threads ``threads``, as ``infer.py --threads`` sets it. The
    signature has the ranges of the options, such as ``Annotated[int, Ge(1)]``, see :mod:`pipeline.runtimes._ranges`.
    """

    #: Its INT8 file: ``int8_cpu`` (uint8 activations), ``int8_arm`` (int8) or ``int8_tensorrt`` (symmetric).
    int8_variant: str
    #: Whether it computes float16 files in float16; a CPU may compute them in float32.
    real_float16 = True
    #: Why its INT8 engine is not faster than its float16 engine; empty where it has INT8 kernels.
    int8_doubt = ""
    #: Name of the engine file inside the artifact.
    engine_file: str

    @classmethod
    def fit(cls, machine: Mapping[str, Any]) -> Fit:
        """How well it fits a machine; works without its library. Rank 0 is never advised.

        Args:
            machine: ``cpu``, ``gpus`` and ``jetson`` as :func:`pipeline.evaluation.machine.read` gives them.
        """
        return Fit(0)

    @property
    @abstractmethod
    def version(self) -> str:
        """Version of the library, e.g. ``1.27.0``."""

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """The facts to which an engine of this runtime is bound: it is refused where one of these values differs.

        Returns:
            plain values of JSON, the same at every call on one machine. It must hold

            - the name of the plugin: :attr:`version`;

            and may hold

            - ``gpu``: name of the GPU that computes; results are then filed under it, as measured on a GPU,
            - ``compute_capability``: of an NVIDIA GPU, e.g. ``8.7``,
            - ``cpu``: name of the processor; results are filed under it where there is no ``gpu``,
            - ``machine``: architecture, as ``platform.machine()`` gives it,
            - ``instructions``: extensions of the CPU that decide which kernel runs, as /proc/cpuinfo names them, with
              blanks between; from a runtime whose INT8 kernels are those of ONNX Runtime, and with ``machine``,

            and other keys of its own, except those that :func:`pipeline.evaluation.device.describe` adds: ``id``,
            ``name``, ``kind``, ``cores``, ``system``, ``runtime``, ``int8_kernels``.
        """

    @abstractmethod
    def build(self, onnx_file: Path, engine_file: Path) -> dict[str, Any]:
        """Write an engine for this machine; returns how it was built. Raises UserError with the failing node."""

    def build_int8(self, onnx_file: Path, engine_file: Path, *, release: Release | None = None) -> dict[str, Any]:
        """:meth:`build` for the INT8 file; if that fails, a runtime may build it with fewer INT8 layers and name them.

        Args:
            release: removes the Q/DQ of layers; None where the onnx package is missing.
        """
        return self.build(onnx_file, engine_file)

    def exact(self, onnx_file: Path) -> Engine | None:
        """An engine without INT8 kernels: it rounds where the INT8 file says so, and computes in float elsewhere.

        None for a runtime that has no such engines.
        """
        return None

    @abstractmethod
    def load(self, engine_file: Path) -> Engine:
        """Load an engine that :meth:`build` wrote on this machine."""


PLUGIN = Runtime
