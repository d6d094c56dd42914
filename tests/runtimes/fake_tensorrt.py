"""Imitations of ``tensorrt`` 10.3 and 11: only the names that the builder may use, and none that 11 has lost.

Any other name raises AttributeError. Networks are read from real ONNX files. Tests set on :class:`Play` which calls
fail, and with which messages; it also records how the imitation was used.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
from onnx import TensorProto

from tests.runtimes.fake_tensorrt_network import CACHE, Config, Layer, Network, Play, Profile, Tensor, members

GONE_IN_11 = ("FP16", "INT8")


def make(version: str) -> tuple[ModuleType, Play]:
    """The imitation of one version, ``10.3`` or ``11.4``, and its :class:`Play`."""
    trt, play, old = ModuleType("tensorrt"), Play(), version.startswith("10.")
    library: Any = trt
    library.__version__ = version
    creation = ("EXPLICIT_BATCH", "STRONGLY_TYPED") if old else ("STRONGLY_TYPED",)
    library.NetworkDefinitionCreationFlag = members("NetworkDefinitionCreationFlag", *creation)
    flags = ("TF32", "GPU_FALLBACK", *(GONE_IN_11 if old else ()))
    library.BuilderFlag = members("BuilderFlag", *flags)
    library.MemoryPoolType = members("MemoryPoolType", "WORKSPACE")
    library.DeviceType = members("DeviceType", "GPU", "DLA")
    library.ProfilingVerbosity = members("ProfilingVerbosity", "LAYER_NAMES_ONLY", "DETAILED")
    library.LayerInformationFormat = members("LayerInformationFormat", "ONELINE", "JSON")
    library.DataType = members("DataType", "FLOAT", "HALF", "INT8", "INT32", "INT64", "UINT8", "BOOL")
    library.LayerType = members(
        "LayerType",
        "CONVOLUTION",
        "DECONVOLUTION",
        "MATRIX_MULTIPLY",
        "QUANTIZE",
        "DEQUANTIZE",
        "CONSTANT",
        "IDENTITY",
        "SHUFFLE",
    )
    codes = members("ErrorCode", "SUCCESS", "MODEL_DESERIALIZE_FAILED", "INVALID_NODE", "UNSUPPORTED_NODE")
    types = {
        TensorProto.FLOAT: library.DataType.FLOAT, TensorProto.FLOAT16: library.DataType.HALF,
        TensorProto.INT8: library.DataType.INT8, TensorProto.UINT8: library.DataType.UINT8,
        TensorProto.INT64: library.DataType.INT64,
    }  # fmt: skip
    kinds = {
        "Conv": "CONVOLUTION", "ConvTranspose": "DECONVOLUTION", "MatMul": "MATRIX_MULTIPLY",
        "QuantizeLinear": "QUANTIZE", "DequantizeLinear": "DEQUANTIZE",
    }  # fmt: skip

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING = members("Severity", "INTERNAL_ERROR", "ERROR", "WARNING")

        def __init__(self) -> None:
            self.ready = True

    def log_error(logger: Any, text: str) -> None:
        assert logger.ready, "a logger that did not call ILogger.__init__ crashes the bindings"
        logger.log(ILogger.WARNING, "a warning")
        logger.log(ILogger.ERROR, text)

    class ParserError:
        __slots__ = ("facts",)

        def __init__(self, *facts: Any) -> None:
            self.facts = facts

        def node(self) -> int:
            return int(self.facts[0])

        def code(self) -> Any:
            return getattr(codes, self.facts[1])

        def desc(self) -> str:
            return str(self.facts[2])

    class NamingParserError(ParserError):
        __slots__ = ()

        def node_name(self) -> str:
            return str(self.facts[3].name)

        def node_operator(self) -> str:
            return str(self.facts[3].op_type)

    class OnnxParser:
        __slots__ = ("errors", "logger", "network")

        def __init__(self, network: Network, logger: Any) -> None:
            self.network, self.logger, self.errors = network, logger, list[ParserError]()

        @property
        def num_errors(self) -> int:
            return len(self.errors)

        def get_error(self, index: int) -> ParserError:
            return self.errors[index]

        def parse_from_file(self, path: str) -> bool:
            try:
                model = onnx.shape_inference.infer_shapes(onnx.load_from_string(Path(path).read_bytes()))
            except Exception:
                self.errors.append(ParserError(-1, "MODEL_DESERIALIZE_FAILED", "Failed to parse the ONNX model."))
                return False
            refusal = play.refuses(model)
            if refusal is not None:
                node = model.graph.node[refusal[0]]
                log_error(self.logger, f'ModelImporter.cpp:949: While parsing node\nname: "{node.name}"\n op_type')
                self.errors.append((ParserError if old else NamingParserError)(*refusal, node))
                return False
            values = itertools.chain(model.graph.input, model.graph.value_info, model.graph.output)
            tensors = {}
            for value in values:
                kind = value.type.tensor_type
                shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
                tensors[value.name] = Tensor(value.name, shape, types.get(kind.elem_type))
            self.network.inputs.extend(tensors[value.name] for value in model.graph.input)
            constant = library.LayerType.CONSTANT
            for weight in model.graph.initializer:
                tensors[weight.name] = Tensor(f"{weight.name}_output", tuple(weight.dims), types.get(weight.data_type))
                self.network.layers.append(Layer(weight.name, constant, [], [tensors[weight.name]]))
            for node in model.graph.node:
                kind = getattr(library.LayerType, kinds.get(node.op_type, "IDENTITY"))
                inputs = [tensors[name] for name in node.input if name]
                self.network.layers.append(Layer(node.name, kind, inputs, [tensors[name] for name in node.output]))
            return True

    class Builder:
        __slots__ = ("logger",)

        def __init__(self, logger: Any) -> None:
            if not play.starts:
                log_error(logger, "CUDA initialization failure with error: 35")
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self.logger = logger

        @property
        def num_DLA_cores(self) -> int:
            return play.dla_cores

        def create_network(self, flags: int) -> Network:
            return Network(flags)

        def create_builder_config(self) -> Config:
            return Config(play)

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
            play.builds.append((network, config))
            if any(-1 in tensor.shape for tensor in network.inputs) and not config.profiles:
                log_error(
                    self.logger, "Network has dynamic or shape inputs, but no optimization profile has been defined."
                )
                return None
            failure = play.fails(network, config)
            if failure is not None:
                log_error(self.logger, failure)
                return None
            if config.cache is not None:
                config.cache.content = config.cache.content + b"+" if config.cache.content else CACHE
            return b"plan of " + " ".join(sorted(network.quantised())).encode()

    class Inspector:
        __slots__ = ()

        def get_engine_information(self, layer_information_format: Any) -> str:
            assert layer_information_format == library.LayerInformationFormat.JSON
            return json.dumps(play.information)

    class Engine:
        __slots__ = ()

        def create_engine_inspector(self) -> Inspector:
            return Inspector()

    class Runtime:
        __slots__ = ("DLA_core", "logger")

        def __init__(self, logger: Any) -> None:
            self.logger, self.DLA_core = logger, 0
            play.runtimes.append(self)

        def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
            assert bytes(plan).startswith(b"plan of ")
            if not play.loads:
                log_error(self.logger, "the engine plan file is generated on an incompatible device")
            return Engine() if play.loads else None

    library.ILogger, library.OnnxParser, library.Builder, library.Runtime = ILogger, OnnxParser, Builder, Runtime
    return trt, play
