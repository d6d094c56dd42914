"""ONNX Runtime: the default engine, on any machine."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import platform
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from pipeline import artifact
from pipeline.errors import UserError
from pipeline.runtimes import _cuda
from pipeline.runtimes._base import Engine, Fit, Runtime
from pipeline.runtimes._onnxruntime import cuda, placement
from pipeline.runtimes._onnxruntime.engine import CudaEngine, OnnxRuntimeEngine
from pipeline.runtimes._ranges import Ge

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"

#: Execution providers: the chosen one, then those that run the nodes which it does not support.
PROVIDERS = {
    "cpu": (CPU,),
    "cuda": (CUDA,),
    "tensorrt": (TENSORRT, CUDA),
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
#: File beside an engine for CUDA: the options of the provider that were the fastest when it was built.
CUDA_OPTIONS = "cuda_options.json"
#: What to do when a provider does not work.
REMEDY = "install the libraries that it needs, or choose another convert.onnxruntime.provider"

ARM = ("aarch64", "arm64")
#: x86 and ARM extensions that decide which kernel runs.
INSTRUCTIONS = frozenset(
    [
        *("avx", "avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "amx_bf16"),
        *("asimd", "asimddp", "asimdhp", "fphp", "i8mm", "sve", "bf16"),
    ]
)


class OnnxRuntime(Runtime):
    """Engines are ONNX files: fused for this machine's CPU, or unchanged for GPUs.

    For CUDA, the options that were the fastest on this GPU lie beside the file, see
    :mod:`pipeline.runtimes._onnxruntime.cuda`. No node may run on the CPU, except for shape computations. For TensorRT,
    ONNX Runtime repeats the TensorRT build at every load, which takes seconds to minutes. The plugin ``tensorrt``
    stores the built engine.

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
        gpu = {} if self.provider == CPU else _cuda.device() or {}
        here = {"machine": platform.machine(), "cpu": cpu_model(), "instructions": instructions()}
        return {"onnxruntime": self.version, **here, **gpu}

    def build(self, onnx_file: Path, engine_file: Path) -> dict[str, Any]:
        if self.provider == CPU:
            options = self._options(self.ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED)
            options.optimized_model_filepath = str(engine_file)
            self._session(onnx_file, options)
            return {"graph_optimization": "extended", "provider": self.provider}
        nodes, facts = self._nodes(onnx_file), dict[str, Any]()
        if self.provider == CUDA:
            choice, nodes = self._fastest(onnx_file, nodes)
            artifact.write_text(engine_file.with_name(CUDA_OPTIONS), artifact.dump_json(choice.options))
            facts = {"cuda_options": choice.options, "tried": choice.tried}
        shutil.copyfile(onnx_file, engine_file)  # ONNX Runtime cannot save graphs in NHWC, nor compiled TensorRT nodes
        placed = placement.by_provider(nodes)
        return {"graph_optimization": "at load", "provider": self.provider, "nodes": placed, **facts}

    def load(self, engine_file: Path) -> Engine:
        if self.provider == CUDA:
            chosen = engine_file.with_name(CUDA_OPTIONS)  # engines of older versions have none
            again = "run dvc repro -f convert here"
            return self._cuda_engine(engine_file, artifact.read_json(chosen, advice=again) if chosen.exists() else {})
        options = self._options(self.ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
        return OnnxRuntimeEngine(self._session(engine_file, options))

    def exact(self, onnx_file: Path) -> Engine | None:
        if self.provider != CPU:
            return None
        options = self._options(self.ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        return OnnxRuntimeEngine(self._session(onnx_file, options))

    def _nodes(self, file: Path, options: Mapping[str, str] | None = None) -> list[placement.Node]:
        """The nodes of a session on a GPU, with their providers, from one run on a black frame.

        Raises:
            UserError: the provider is CUDA, and nodes that are no shape computations run on the CPU.
        """
        with tempfile.TemporaryDirectory() as folder:
            watched = self._options(self.ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
            placement.watch(watched, Path(folder))
            session = self._session(file, watched, options)
            engine = OnnxRuntimeEngine(session)
            try:
                engine.run(np.zeros(engine.input_shape, np.uint8))
                nodes = placement.nodes(session)
                if self.provider == CUDA:
                    placement.check(nodes, provider=CUDA)
            except Exception as error:  # onnxruntime raises its own types, one for each status code
                raise UserError(f"{file}: ONNX Runtime {self.version} with {self.provider}: {error}") from error
        return nodes

    def _fastest(self, file: Path, nodes: list[placement.Node]) -> tuple[cuda.Choice, list[placement.Node]]:
        """The fastest options of the CUDA provider without nodes on the CPU, and the nodes of a session with them.

        Args:
            nodes: those of a session without options.
        """
        by_layout = {cuda.LAYOUTS.index({}): nodes}

        def open_engine(options: Mapping[str, str]) -> Engine:
            layout = cuda.layout(options)
            number = cuda.LAYOUTS.index(layout)
            if number not in by_layout:
                by_layout[number] = self._nodes(file, layout)
            return self._cuda_engine(file, options)

        choice = cuda.fastest(open_engine)
        return choice, by_layout[cuda.LAYOUTS.index(cuda.layout(choice.options))]

    def _cuda_engine(self, file: Path, options: Mapping[str, str]) -> CudaEngine:
        self._check_offer(self.ort.get_available_providers())
        if _cuda.device() is None:
            raise UserError(f"{file}: {self.provider} finds no NVIDIA GPU with a driver here; {REMEDY}")

        def open_session(stream: int) -> Any:
            session_options = self._options(self.ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
            return self._session(file, session_options, {**options, "user_compute_stream": str(stream)})

        return CudaEngine(self.ort, open_session, captured=cuda.GRAPH.items() <= options.items())

    def _options(self, level: Any) -> Any:
        options = self.ort.SessionOptions()
        options.graph_optimization_level = level
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if self.spinning else "0")
        options.add_session_config_entry("session.force_spinning_stop", "1")  # after a run: leave the cores to others
        if self.provider == CUDA:  # dequantise weights and biases at load; CUDA has no kernel for int32 biases
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        return options

    def _session(self, file: Path, options: Any, added: Mapping[str, str] | None = None) -> Any:
        """A session on a file; ``added`` are options of the first provider."""
        provider_options = {**self._provider_options(file), **(added or {})}
        try:
            session = self._open(file, options, [(self.provider, provider_options), *self.fallbacks])
        except Exception as error:  # onnxruntime raises its own types, one for each status code
            advice = "" if self.provider == CPU else f"; the provider is {self.provider}: {REMEDY}"
            raise UserError(f"{file}: ONNX Runtime {self.version} cannot load it: {error}{advice}") from error
        self._check_offer(session.get_providers())
        return session

    def _check_offer(self, providers: list[str]) -> None:
        if self.provider not in providers:
            raise UserError(f"ONNX Runtime was asked for {self.provider} but offers {', '.join(providers)}; {REMEDY}")

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
        if self.provider != TENSORRT:
            return {}
        try:
            plain = self._options(self.ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
            facts = self._open(file, plain, [CPU]).get_modelmeta().custom_metadata_map
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
