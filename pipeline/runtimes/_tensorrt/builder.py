"""One builder for `tensorrt` 10.3 to 11 and for `tensorrt_rtx`: their Python API is the same.

Networks are strongly typed: precision is in the ONNX file, never a builder flag (TensorRT 11 has none left). The code
uses only names that exist in both 10.3 and 11.4; for the one exception, weak typing, it checks that the name exists.
"""

from __future__ import annotations

import importlib
from abc import abstractmethod
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, TypeAlias

from pipeline import artifact
from pipeline.errors import UserError
from pipeline.runtimes import _cuda
from pipeline.runtimes._base import Engine, Release, Runtime
from pipeline.runtimes._ranges import Ge, Le
from pipeline.runtimes._tensorrt import profile
from pipeline.runtimes._tensorrt.engine import TensorRTEngine
from pipeline.runtimes._tensorrt.errors import BuildError, named_nodes, parser_failure, readable
from pipeline.runtimes._tensorrt.ladder import Built, NoInt8Error, climb
from pipeline.runtimes._tensorrt.layers import data_types, inspected, layer_names, precisions, titles
from pipeline.runtimes._tensorrt.log import collecting, logger_of

MIB = 1 << 20
#: Types of the options that both libraries have.
Mebibytes: TypeAlias = Annotated[int, Ge(1)]
OptimizationLevel: TypeAlias = Annotated[int, Ge(0), Le(5)]
Batch: TypeAlias = list[Annotated[int, Ge(1)]] | None
#: File beside the plan with the inspector's information about each layer.
LAYERS = "layers.json"
#: The oldest compute capability of TensorRT from 10.5 on; its release notes: "Volta (7.0) has been removed".
OLDEST = 7.5
#: What runs on GPUs that a library does not support.
CUDA_INSTEAD = "onnxruntime with convert.onnxruntime.provider: cuda"


def import_library(name: str, package: str) -> ModuleType:
    """``tensorrt`` or ``tensorrt_rtx``; UserError with the package to install when it does not import."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"{name} does not import ({error}); pip install {package}, or choose another convert.runtime"
        ) from error


def network_flags(trt: ModuleType, *, strongly_typed: bool) -> int:
    """Flags of a new network. Only TensorRT 10 has weakly typed networks; it needs EXPLICIT_BATCH for them."""
    flags = trt.NetworkDefinitionCreationFlag
    if strongly_typed:
        return 1 << int(flags.STRONGLY_TYPED)
    return 1 << int(flags.EXPLICIT_BATCH) if hasattr(flags, "EXPLICIT_BATCH") else 0


class TensorRTBase(Runtime):
    """Code for both libraries; a plugin names its library and its package, and overrides methods where they differ."""

    int8_variant = "int8_tensorrt"
    engine_file = "engine.plan"
    library: str
    package: str

    def __init__(
        self,
        *,
        workspace_mib: Mebibytes = 1024,
        optimization_level: OptimizationLevel = 3,
        cuda_graph: bool = True,
        batch: Batch = None,
        for_this_gpu: bool = True,
    ) -> None:
        gpu = _cuda.device() if for_this_gpu else None
        try:
            self.trt = import_library(self.library, self.package)
        except UserError as error:  # do not advise to install what has no engine for this GPU
            if gpu and (refusal := self.unsupported(gpu["compute_capability"])):
                raise UserError(f"{self.library} does not support {gpu['gpu']}: {refusal}") from error
            raise
        self.where = f"convert.{self.library}"
        self.workspace_mib = workspace_mib
        self.optimization_level = optimization_level
        self.cuda_graph = cuda_graph
        self.batch = profile.checked(batch, where=self.where)
        self.logger = logger_of(self.trt)
        if gpu and (refusal := self.unsupported(gpu["compute_capability"], self.trt)):
            raise UserError(f"{self.title} does not support {gpu['gpu']}: {refusal}")

    @classmethod
    @abstractmethod
    def unsupported(cls, compute_capability: str, trt: ModuleType | None = None) -> str:
        """Why the library builds no engine for a GPU, and what to choose instead; empty: it builds one.

        Args:
            compute_capability: of the GPU, such as ``8.7``.
            trt: the library; None: it is not installed, and what its newest release supports decides.
        """

    @property
    def version(self) -> str:
        return str(self.trt.__version__)

    @property
    def title(self) -> str:
        """Library and version, for messages."""
        return f"{self.library} {self.version}"

    def fingerprint(self) -> dict[str, Any]:
        return {self.library: self.version, **(_cuda.device() or {})}

    def configure(self, builder: Any, config: Any, network: Any) -> dict[str, Any]:
        """Set options that only one library has; returns facts for meta.json."""
        return {}

    def finished(self, config: Any) -> None:
        """Called after each build that succeeded."""

    def build(self, onnx_file: Path, engine_file: Path) -> dict[str, Any]:
        with self._naming(onnx_file):
            built = self._attempt(onnx_file, strongly_typed=True)
        return self._write(built, engine_file)

    def build_int8(self, onnx_file: Path, engine_file: Path, *, release: Release | None = None) -> dict[str, Any]:
        """Try the rungs of :mod:`pipeline.runtimes._tensorrt.ladder`; the engine has at least one INT8 layer."""
        weakly = None if hasattr(self.trt.BuilderFlag, "INT8") else f"{self.title} has strongly typed networks only"
        with self._naming(onnx_file):
            built = climb(onnx_file, partial(self._attempt, int8=True), release=release, weakly=weakly)
        return self._write(built, engine_file)

    def _attempt(self, onnx_file: Path, *, strongly_typed: bool, int8: bool = False) -> Built:
        """Parse and build a file once.

        Args:
            strongly_typed: use the types of the file; else TensorRT 10 chooses them, and may use INT8 and float16.
            int8: refuse a network without an INT8 layer.
        """
        trt = self.trt
        with collecting(self.logger) as lines:
            builder = self._builder(lines)
            network = builder.create_network(network_flags(trt, strongly_typed=strongly_typed))
            parser = trt.OnnxParser(network, self.logger)
            if not parser.parse_from_file(str(onnx_file)):
                raise parser_failure(parser, lines, library=self.title)
            if network.num_inputs == 0:  # an empty file parses without an error
                raise UserError(f"{self.title} cannot parse it: it holds no graph with an input; write it again")
            requested = precisions(trt, network)
            if int8 and not any("int8" in counts for counts in requested.values()):
                raise NoInt8Error(
                    f"{self.title} finds no INT8 layer in it; list fewer quantize.float_layers, or use fp16"
                )
            config = builder.create_builder_config()
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, self.workspace_mib * MIB)
            config.builder_optimization_level = self.optimization_level
            config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
            if not strongly_typed:
                config.set_flag(trt.BuilderFlag.INT8)
                config.set_flag(trt.BuilderFlag.FP16)
            shapes = profile.shapes(network, self.batch, where=self.where)
            facts = {
                "strongly_typed": strongly_typed,
                "layers": network.num_layers,
                "precisions": requested,
                **profile.add(builder, config, shapes),
                **self.configure(builder, config, network),
            }
            plan = builder.build_serialized_network(network, config)
            if plan is None:
                raise self._build_failure(network, lines)
            self.finished(config)
        return Built(plan, facts)

    def _builder(self, lines: Collection[str]) -> Any:
        try:
            return self.trt.Builder(self.logger)
        except TypeError as error:  # the bindings raise it if the library returns no builder
            raise UserError(
                f"{self.title} cannot start a builder here: {readable(lines) or error}; it needs an NVIDIA GPU and a "
                "driver that fits its CUDA version"
            ) from error

    def _build_failure(self, network: Any, lines: Collection[str]) -> BuildError:
        reason = readable(lines) or "its log is empty"
        nodes = frozenset(named_nodes(reason, layer_names(self.trt, network)))
        quantised = titles(network, nodes)
        advice = [f"a larger {self.where}.workspace_mib (now {self.workspace_mib})"]
        if quantised:
            advice.append(f"quantize.float_layers: [{', '.join(quantised)}]")
        where = f" at {', '.join(sorted(nodes))}" if nodes else ""
        requested = {precision for counts in precisions(self.trt, network).values() for precision in counts}
        other = "another convert.runtime" if requested == {"float32"} else "another precision"
        return BuildError(
            f"{self.title} could not build it{where}: {reason}; try {', '.join(advice)}, or {other}", nodes=nodes
        )

    @contextmanager
    def _naming(self, onnx_file: Path) -> Iterator[None]:
        """Put the name of the file before every error."""
        try:
            yield
        except UserError as error:
            raise UserError(f"{onnx_file}: {error}") from error

    def _write(self, built: Built, engine_file: Path) -> dict[str, Any]:
        """Write the plan and, if the GPU of this machine can load it, the inspector's information about each layer."""
        engine_file.write_bytes(memoryview(built.plan))
        if _cuda.device() is None:
            return built.facts
        with collecting(self.logger):
            engine = self.new_runtime().deserialize_cuda_engine(memoryview(built.plan))
            if engine is None:  # built for another GPU
                return built.facts
            information = inspected(self.trt, engine)
        artifact.write_text(engine_file.with_name(LAYERS), information)
        return {**built.facts, "data_types": data_types(information)}

    def new_runtime(self) -> Any:
        """The library's object that deserialises engines."""
        return self.trt.Runtime(self.logger)

    def load(self, engine_file: Path) -> Engine:
        if _cuda.device() is None:
            raise UserError(
                f"{engine_file}: a {self.library} engine needs an NVIDIA GPU and its driver; this machine has none"
            )
        runtime = self.new_runtime()
        engine = runtime.deserialize_cuda_engine(engine_file.read_bytes())
        if engine is None:
            raise UserError(f"{engine_file}: {self.title} cannot load it; run dvc repro -f convert here")
        on_dla = getattr(runtime, "DLA_core", -1) >= 0  # work on a DLA cannot be captured
        return TensorRTEngine(self.trt, engine, cuda_graph=self.cuda_graph and not on_dla)
