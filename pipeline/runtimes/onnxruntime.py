"""ONNX Runtime: the default engine, on any machine."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.runtimes import _cuda
from pipeline.runtimes._base import CLOSED, CONFIDENCE, NO_CONFIDENCE, Engine, Fit, Runtime, check_frames
from pipeline.runtimes._ranges import Ge

#: Execution providers: the chosen one, then those that run the nodes which it does not support.
PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider",),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider"),
}
#: Options of TensorRT 10 by precision of the file: ONNX Runtime builds weakly typed networks, in float32 unless these
#: options allow more. A file with nodes that must stay in float32 is built without float16, because TensorRT would use
#: float16 for these nodes too.
FLOAT16_ALLOWED = "trt_fp16_enable"
TENSORRT_MAY_USE: dict[str, dict[str, str]] = {
    "fp32": {},
    "fp16": {FLOAT16_ALLOWED: "1"},
    "int8": {FLOAT16_ALLOWED: "1", "trt_int8_enable": "1"},
}
SLOW_INT8 = (
    "ONNX Runtime has no INT8 kernels for CUDA: it computes these layers in float and converts between them, so INT8 "
    "is not expected to be faster than fp16; for INT8 on this GPU choose convert.runtime: tensorrt"
)
METADATA_KEY = "segpress"  # key of the export's facts in an ONNX file

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

    For TensorRT an engine is the ONNX file itself: ONNX Runtime repeats the TensorRT build at every load, which takes
    seconds to minutes. The plugin ``tensorrt`` stores the built engine.

    The last optimisation level, a blocked memory layout, is applied at every load, which takes milliseconds: ONNX
    Runtime writes its reorder nodes in an order that changes between builds, and equal inputs must give equal bytes.

    Args:
        threads: threads per inference; a fixed number, because results are compared between machines.
        spinning: busy-wait between operators: lower latency if nothing else runs, but it slows decoding and drawing on
            the same cores (a video loop on 2 cores ran at 9-11 fps with it and at 19-20 without).
        provider: a provider that this machine lacks is an error; there is no fallback to another one.

    Raises:
        UserError: the onnxruntime package is missing.
    """

    engine_file = "engine.onnx"

    @classmethod
    def fit(cls, machine: Mapping[str, Any]) -> Fit:
        why = "it runs on CPUs and GPUs" if machine["gpus"] else "no NVIDIA GPU with a driver was found"
        return Fit(1, why, "pip install '.[onnxruntime]'")

    def __init__(
        self,
        *,
        threads: Annotated[int, Ge(1)] = 2,
        spinning: bool = False,
        provider: Literal["cpu", "cuda", "tensorrt"] = "cpu",
    ) -> None:
        try:
            import onnxruntime  # noqa: PLC0415 - only the chosen runtime is needed on the device
        except ImportError as error:
            raise UserError("onnxruntime is not installed; pip install onnxruntime-gpu (or onnxruntime)") from error
        on_cpu = "int8_arm" if platform.machine().lower() in ARM else "int8_cpu"
        self.int8_variant = "int8_tensorrt" if provider == "tensorrt" else on_cpu
        self.real_float16 = provider != "cpu" or on_cpu == "int8_arm"
        if provider == "cuda":
            self.slow_int8 = SLOW_INT8
        self.ort = onnxruntime
        self.threads = threads
        self.spinning = spinning
        self.provider, *self.fallbacks = PROVIDERS[provider]
        if provider != "cpu":
            load_libraries(onnxruntime)

    @property
    def version(self) -> str:
        return str(self.ort.__version__)

    def fingerprint(self) -> dict[str, Any]:
        gpu = {} if self.provider == "CPUExecutionProvider" else _cuda.device() or {}
        here = {"machine": platform.machine(), "cpu": cpu_model(), "instructions": instructions()}
        return {"onnxruntime": self.version, **here, **gpu}

    def build(self, onnx_file: Path, engine_file: Path) -> dict[str, Any]:
        if self.provider == "TensorrtExecutionProvider":
            self._session(onnx_file, self._options(self.ort.GraphOptimizationLevel.ORT_ENABLE_ALL))
            shutil.copyfile(onnx_file, engine_file)  # ONNX Runtime cannot save a graph with compiled TensorRT nodes
            return {"graph_optimization": "at load", "provider": self.provider}
        options = self._options(self.ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED)
        options.optimized_model_filepath = str(engine_file)
        self._session(onnx_file, options)
        return {"graph_optimization": "extended", "provider": self.provider}

    def load(self, engine_file: Path) -> Engine:
        options = self._options(self.ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
        return OnnxRuntimeEngine(self._session(engine_file, options))

    def exact(self, onnx_file: Path) -> Engine | None:
        if self.provider != "CPUExecutionProvider":
            return None
        options = self._options(self.ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        return OnnxRuntimeEngine(self._session(onnx_file, options))

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
        remedy = "install the libraries that it needs, or choose another convert.onnxruntime.provider"
        provider_options = self._provider_options(file)
        try:
            session = self._open(file, options, [(self.provider, provider_options), *self.fallbacks])
        except Exception as error:  # onnxruntime raises its own types, one for each status code
            advice = "" if self.provider == "CPUExecutionProvider" else f"; the provider is {self.provider}: {remedy}"
            raise UserError(f"{file}: ONNX Runtime {self.version} cannot load it: {error}{advice}") from error
        if session.get_providers()[0] != self.provider:
            raise UserError(
                f"ONNX Runtime was asked for {self.provider} but offers {', '.join(session.get_providers())}; {remedy}"
            )
        return session

    def _open(self, file: Path, options: Any, providers: list[Any]) -> Any:
        """A session that never falls back to other providers, neither at load nor after a failed run."""
        session = self.ort.InferenceSession(str(file), options, providers=providers, enable_fallback=0)
        session.disable_fallback()  # older versions ignore the argument
        return session

    def _provider_options(self, file: Path) -> dict[str, str]:
        """Options of TensorRT for a file; empty for other providers.

        Raises:
            UserError: the file cannot be read, or its precision is missing or unknown.
        """
        if self.provider != "TensorrtExecutionProvider":
            return {}
        try:
            plain = self._options(self.ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
            facts = self._open(file, plain, ["CPUExecutionProvider"]).get_modelmeta().custom_metadata_map
        except Exception as error:
            raise UserError(f"{file}: ONNX Runtime {self.version} cannot load it: {error}") from error
        about = json.loads(facts.get(METADATA_KEY, "{}"))
        precision = about.get("precision")
        if precision not in TENSORRT_MAY_USE:
            raise UserError(
                f"{file}: its precision is {precision}; allowed: {', '.join(TENSORRT_MAY_USE)}; "
                "TensorRT needs it; export the file again with dvc repro -f export quantize"
            )
        allowed = dict(TENSORRT_MAY_USE[precision])
        if about.get("float16", {}).get("float32_nodes"):
            allowed.pop(FLOAT16_ALLOWED, None)
        return allowed


def load_libraries(ort: Any) -> None:
    """Load CUDA, cuDNN and TensorRT from pip packages, if installed: ONNX Runtime does not look there itself."""
    if hasattr(ort, "preload_dlls"):  # ONNX Runtime 1.21
        with contextlib.redirect_stdout(io.StringIO()):  # it prints which libraries are missing, but they are optional
            ort.preload_dlls()
    with contextlib.suppress(ImportError, OSError):
        importlib.import_module("tensorrt")


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


def cpu_model() -> str:
    """Name of the processor from the kernel, else its architecture (the kernel of a Jetson gives no name)."""
    return _cpuinfo("model name", "Model") or platform.processor() or platform.machine()


def instructions() -> str:
    """The instruction sets by which ONNX Runtime chooses kernels: processors of the same name may differ in them."""
    return " ".join(sorted(INSTRUCTIONS.intersection(_cpuinfo("flags", "Features").split())))


def _cpuinfo(*keys: str) -> str:
    """The first value of one of these keys in /proc/cpuinfo; empty where there is none."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    values = (line.partition(":")[2].strip() for line in lines if line.startswith(keys))
    return next(values, "")
