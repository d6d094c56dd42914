"""One builder for `tensorrt` 10.3 to 11 and for `tensorrt_rtx`: their Python API is the same.

Networks are strongly typed: precision is in the ONNX file, never a builder flag (TensorRT 11 has none left). Only names
that exist in 10.3 and in 11.4 are used.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.errors import UserError
from pipeline.runtimes import _cuda
from pipeline.runtimes._base import Engine, Runtime
from pipeline.runtimes._tensorrt_engine import TensorRTEngine

MIB = 1 << 20


def import_library(name: str, package: str) -> ModuleType:
    """``tensorrt`` or ``tensorrt_rtx``; UserError with the package to install when it does not import."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"{name} does not import ({error}); pip install {package}, or choose another convert.runtime"
        ) from error


def node_of(error: Any) -> str:
    """The node that a parser error is about, by index and, where the library tells it, by name and operator."""
    known = [getattr(error, key)() for key in ("node_name", "node_operator") if hasattr(error, key)]
    return f"node {error.node()}" + (f" ({', '.join(known)})" if any(known) else "")


def precisions(trt: ModuleType, network: Any) -> dict[str, dict[str, int]]:
    """In what precision the layers with weights were asked for: operator -> precision -> how many.

    A strongly typed network is built as it stands. INT8 is a layer whose both operands come out of a DequantizeLinear:
    that is the pattern which the builder fuses.
    """
    weighted = {
        trt.LayerType.CONVOLUTION: "convolution",
        trt.LayerType.DECONVOLUTION: "deconvolution",
        trt.LayerType.MATRIX_MULTIPLY: "matrix product",
    }
    names = {trt.DataType.HALF: "float16", trt.DataType.FLOAT: "float32"}
    dequantised = set()
    found: dict[str, dict[str, int]] = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        output = layer.get_output(0)
        if layer.type == trt.LayerType.DEQUANTIZE:
            dequantised.add(output.name)
        if layer.type not in weighted:
            continue
        operands = [layer.get_input(place).name for place in range(min(2, layer.num_inputs)) if layer.get_input(place)]
        int8 = len(operands) == 2 and dequantised.issuperset(operands)
        precision = "int8" if int8 else names.get(output.dtype, str(output.dtype))
        counts = found.setdefault(weighted[layer.type], {})
        counts[precision] = counts.get(precision, 0) + 1
    return found


class TensorRTBase(Runtime):
    """What both libraries share; a plugin names the library and how a target without a GPU is set."""

    int8_variant = "int8_tensorrt"
    engine_file = "engine.plan"
    library: str
    package: str

    def __init__(self, *, workspace_mib: int = 1024, optimization_level: int = 3, cuda_graph: bool = True) -> None:
        self.trt = import_library(self.library, self.package)
        self.workspace_mib = workspace_mib
        self.optimization_level = optimization_level
        self.cuda_graph = cuda_graph
        self.logger = self.trt.Logger(self.trt.Logger.ERROR)

    def fingerprint(self) -> dict[str, Any]:
        return {self.library: self.trt.__version__, **(_cuda.device() or {})}

    def configure(self, config: Any) -> dict[str, Any]:
        """Set what is special to a library; returns facts for meta.json."""
        return {}

    def build(self, onnx_file: Path, engine_file: Path) -> dict[str, Any]:
        trt = self.trt
        builder = trt.Builder(self.logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, self.logger)
        if not parser.parse_from_file(str(onnx_file)):
            errors = [parser.get_error(index) for index in range(parser.num_errors)]
            what = "; ".join(f"{node_of(error)}: {error.desc().strip()}" for error in errors)
            raise UserError(f"{onnx_file}: {self.library} {trt.__version__} cannot parse it: {what}")
        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, self.workspace_mib * MIB)
        config.builder_optimization_level = self.optimization_level
        facts = self.configure(config)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise UserError(
                f"{onnx_file}: {self.library} {trt.__version__} could not build it; its log above names the layer. "
                "Try a larger workspace_mib, or another precision"
            )
        engine_file.write_bytes(memoryview(plan))
        return {
            "strongly_typed": True,
            "layers": network.num_layers,
            "precisions": precisions(trt, network),
            **facts,
        }

    def load(self, engine_file: Path) -> Engine:
        if _cuda.device() is None:
            raise UserError(
                f"{engine_file}: a {self.library} engine needs an NVIDIA GPU and its driver; this machine has none"
            )
        runtime = self.trt.Runtime(self.logger)
        engine = runtime.deserialize_cuda_engine(engine_file.read_bytes())
        if engine is None:
            raise UserError(
                f"{engine_file}: {self.library} {self.trt.__version__} cannot load it; run dvc repro -f convert here"
            )
        on_dla = getattr(runtime, "DLA_core", -1) >= 0  # what runs there cannot be captured
        return TensorRTEngine(self.trt, engine, cuda_graph=self.cuda_graph and not on_dla)
