"""ONNX Runtime: the default engine, on any machine."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.runtimes import _cuda
from pipeline.runtimes._base import Engine, Runtime, check_frames

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

ARM = ("aarch64", "arm64")
#: x86 and ARM extensions that decide which kernel runs.
INSTRUCTIONS = frozenset(
    [
        *("avx", "avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "amx_bf16"),
        *("asimd", "asimddp", "asimdhp", "fphp", "i8mm", "sve", "bf16"),
    ]
)


class OnnxRuntime(Runtime):
    """Engines are ONNX files that ONNX Runtime has already fused for this machine's CPU, or for CUDA.

    The blocked memory layout of the last optimisation level is chosen anew at every load, in milliseconds: ONNX Runtime
    writes its reorder nodes in an order that changes from build to build, and engines shall be equal byte by byte.

    Args:
        threads: threads of one inference; set on purpose, as results are compared between machines.
        spinning: busy-wait between operators: lower latency alone, but it starves decoding and drawing on the same
            cores (a video loop on 2 cores ran at 9-11 fps with it and at 19-20 without).
        provider: ``cpu`` or ``cuda``; one that is not there is an error, never a silent fall-back.

    Raises:
        UserError: the onnxruntime package is missing, or an option is out of range.
    """

    engine_file = "engine.onnx"

    def __init__(self, *, threads: int = 2, spinning: bool = False, provider: str = "cpu") -> None:
        if threads < 1:
            raise UserError(f"convert.onnxruntime.threads: got {threads}; at least 1")
        if provider not in PROVIDERS:
            raise UserError(f"convert.onnxruntime.provider: got '{provider}'; allowed: {', '.join(PROVIDERS)}")
        try:
            import onnxruntime  # noqa: PLC0415 - only the chosen runtime is needed on the device
        except ImportError as error:
            raise UserError("onnxruntime is not installed; pip install onnxruntime-gpu (or onnxruntime)") from error
        self.int8_variant = "int8_arm" if platform.machine().lower() in ARM else "int8_cpu"
        self.ort = onnxruntime
        self.threads = threads
        self.spinning = spinning
        self.provider = PROVIDERS[provider]

    def fingerprint(self) -> dict[str, Any]:
        gpu = (_cuda.device() or {}) if self.provider == PROVIDERS["cuda"] else {}
        here = {"machine": platform.machine(), "cpu": cpu_model(), "instructions": instructions()}
        return {"onnxruntime": self.ort.__version__, **here, **gpu}

    def build(self, onnx_file: Path, engine_file: Path) -> dict[str, Any]:
        options = self._options(self.ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED)
        options.optimized_model_filepath = str(engine_file)
        self._session(onnx_file, options)
        return {"graph_optimization": "extended", "provider": self.provider}

    def load(self, engine_file: Path) -> Engine:
        options = self._options(self.ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
        return OnnxRuntimeEngine(self._session(engine_file, options))

    def _options(self, level: Any) -> Any:
        options = self.ort.SessionOptions()
        options.graph_optimization_level = level
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if self.spinning else "0")
        options.add_session_config_entry("session.force_spinning_stop", "1")  # after a run: leave the cores to others
        return options

    def _session(self, file: Path, options: Any) -> Any:
        try:
            session = self.ort.InferenceSession(str(file), options, providers=[self.provider])
        except Exception as error:  # onnxruntime raises its own types, one for each status code
            raise UserError(f"{file}: ONNX Runtime {self.ort.__version__} cannot load it: {error}") from error
        if session.get_providers()[0] != self.provider:
            raise UserError(
                f"ONNX Runtime was asked for {self.provider} but offers {', '.join(session.get_providers())}; "
                "install the libraries that it needs, or choose another convert.onnxruntime.provider"
            )
        return session


class OnnxRuntimeEngine(Engine):
    """A session on a deploy graph."""

    def __init__(self, session: Any) -> None:
        self.session = session
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

    def run(self, frames: Array) -> Array:
        check_frames(frames, self.input_shape)
        return np.asarray(self.session.run([self.output_name], {self.input_name: frames})[0], np.uint8)


def cpu_model() -> str:
    """Name of the processor, as the kernel gives it (Jetsons name none; then the architecture stands for it)."""
    return _cpuinfo("model name", "Model") or platform.processor() or platform.machine()


def instructions() -> str:
    """The instruction sets that ONNX Runtime's kernels choose by: names alone do not tell processors apart."""
    return " ".join(sorted(INSTRUCTIONS.intersection(_cpuinfo("flags", "Features").split())))


def _cpuinfo(*keys: str) -> str:
    """The first value of one of these keys in /proc/cpuinfo; empty where there is none."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    values = (line.partition(":")[2].strip() for line in lines if line.startswith(keys))
    return next(values, "")
