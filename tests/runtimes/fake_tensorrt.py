"""Imitations of ``tensorrt`` 10.3 and 11: only the names that the builder may use, and none that 11 has lost.

Whatever else is read or set raises AttributeError. Networks are read from real ONNX files; what fails, and with which
words, is set on :class:`Play`, which also keeps what was asked for. It is long because a library's surface is.
"""

from __future__ import annotations

import enum
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
from onnx import TensorProto

GONE_IN_11 = ("FP16", "INT8")
CACHE = b"timed on this device: "


class Member(enum.Enum):
    """An enumeration of the bindings: its members turn into int, and print with their class."""

    def __int__(self) -> int:
        return int(self.value)


def members(name: str, *names: str) -> Any:
    return Member(name, [(key, index) for index, key in enumerate(names)])  # type: ignore[call-overload]


@dataclass
class Play:
    """What the imitation does, and what it was asked for.

    Attributes:
        fails: from the network and the configuration to the error that the build ends with; None builds.
        refuses: from the ONNX model to (node index, code, description) of a parser error; None parses.
        dla_cores: of the builder. runnable: whether the DLA takes a layer.
        information: what the inspector tells.
        builds: a copy of every configuration that was built with.
    """

    fails: Callable[[Any, Any], str | None] = lambda network, config: None
    refuses: Callable[[onnx.ModelProto], tuple[int, str, str] | None] = lambda model: None
    dla_cores: int = 0
    runnable: Callable[[Any], bool] = lambda layer: True
    information: dict[str, Any] = field(default_factory=dict)
    starts: bool = True
    loads: bool = True
    builds: list[Any] = field(default_factory=list)
    runtimes: list[Any] = field(default_factory=list)


class Tensor:
    __slots__ = ("dtype", "name", "shape")

    def __init__(self, name: str, shape: tuple[int, ...], dtype: Any) -> None:
        self.name, self.shape, self.dtype = name, shape, dtype


class Layer:
    __slots__ = ("inputs", "name", "num_inputs", "outputs", "type")

    def __init__(self, name: str, kind: Any, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        self.name, self.type, self.inputs, self.outputs = name, kind, inputs, outputs
        self.num_inputs = len(inputs)

    def get_input(self, index: int) -> Tensor:
        return self.inputs[index]

    def get_output(self, index: int) -> Tensor:
        return self.outputs[index]


class Network:
    __slots__ = ("flags", "inputs", "layers")

    def __init__(self, flags: int) -> None:
        self.flags, self.layers, self.inputs = flags, list[Layer](), list[Tensor]()

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    def get_layer(self, index: int) -> Layer:
        return self.layers[index]

    def get_input(self, index: int) -> Tensor:
        return self.inputs[index]

    def quantised(self) -> set[str]:
        """Names of the layers that read what was dequantised (for plays, not for the builder)."""
        given = {t.name for layer in self.layers if layer.type.name == "DEQUANTIZE" for t in layer.outputs}
        return {layer.name for layer in self.layers if not given.isdisjoint(t.name for t in layer.inputs)}


class Cache:
    __slots__ = ("content",)

    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content


class Profile:
    __slots__ = ("shapes",)

    def __init__(self) -> None:
        self.shapes: dict[str, list[list[int]]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self.shapes[input] = [list(min), list(opt), list(max)]


class Config:
    __slots__ = (
        "DLA_core", "builder_optimization_level", "cache", "default_device_type", "given", "play", "pools",
        "profiles", "profiling_verbosity",
    )  # fmt: skip

    def __init__(self, play: Play) -> None:
        self.play, self.given, self.pools, self.profiles = play, list[Any](), dict[Any, int](), list[Profile]()
        self.cache: Cache | None = None
        self.DLA_core, self.default_device_type = -1, None
        self.builder_optimization_level, self.profiling_verbosity = 3, None

    @property
    def flags(self) -> int:
        return sum(1 << int(flag) for flag in self.given)

    def set_flag(self, flag: Any) -> None:
        assert isinstance(flag, Member)
        self.given.append(flag)

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.pools[pool.name] = size

    def add_optimization_profile(self, profile: Profile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def can_run_on_DLA(self, layer: Layer) -> bool:
        return self.play.runnable(layer)

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Cache | None:
        return None if serialized_timing_cache == b"unreadable" else Cache(bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        fits = not cache.content or cache.content.startswith(CACHE)
        if fits:
            self.cache = cache
        return fits

    def get_timing_cache(self) -> Cache | None:
        return self.cache


def make(version: str) -> tuple[ModuleType, Play]:
    """The imitation of one version, ``10.3`` or ``11.4``, and its :class:`Play`."""
    trt, play, old = ModuleType("tensorrt"), Play(), version.startswith("10.")
    found: Any = trt
    found.__version__ = version
    creation = ("EXPLICIT_BATCH", "STRONGLY_TYPED") if old else ("STRONGLY_TYPED",)
    found.NetworkDefinitionCreationFlag = members("NetworkDefinitionCreationFlag", *creation)
    flags = ("TF32", "GPU_FALLBACK", *(GONE_IN_11 if old else ()))
    found.BuilderFlag = members("BuilderFlag", *flags)
    found.MemoryPoolType = members("MemoryPoolType", "WORKSPACE")
    found.DeviceType = members("DeviceType", "GPU", "DLA")
    found.ProfilingVerbosity = members("ProfilingVerbosity", "LAYER_NAMES_ONLY", "DETAILED")
    found.LayerInformationFormat = members("LayerInformationFormat", "ONELINE", "JSON")
    found.DataType = members("DataType", "FLOAT", "HALF", "INT8", "INT32", "INT64", "UINT8", "BOOL")
    found.LayerType = members(
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
        TensorProto.FLOAT: found.DataType.FLOAT, TensorProto.FLOAT16: found.DataType.HALF,
        TensorProto.INT8: found.DataType.INT8, TensorProto.UINT8: found.DataType.UINT8,
        TensorProto.INT64: found.DataType.INT64,
    }  # fmt: skip
    kinds = {
        "Conv": "CONVOLUTION", "ConvTranspose": "DECONVOLUTION", "MatMul": "MATRIX_MULTIPLY",
        "QuantizeLinear": "QUANTIZE", "DequantizeLinear": "DEQUANTIZE",
    }  # fmt: skip

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING = members("Severity", "INTERNAL_ERROR", "ERROR", "WARNING")

        def __init__(self) -> None:
            self.ready = True

    def tell(logger: Any, text: str) -> None:
        assert logger.ready, "a logger that did not call ILogger.__init__ crashes the bindings"
        logger.log(ILogger.WARNING, "a warning")
        logger.log(ILogger.ERROR, text)

    class ParserError:
        __slots__ = ("told",)

        def __init__(self, *told: Any) -> None:
            self.told = told

        def node(self) -> int:
            return int(self.told[0])

        def code(self) -> Any:
            return getattr(codes, self.told[1])

        def desc(self) -> str:
            return str(self.told[2])

    class NamingParserError(ParserError):
        __slots__ = ()

        def node_name(self) -> str:
            return str(self.told[3].name)

        def node_operator(self) -> str:
            return str(self.told[3].op_type)

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
                tell(self.logger, f'ModelImporter.cpp:949: While parsing node\nname: "{node.name}"\n op_type')
                self.errors.append((ParserError if old else NamingParserError)(*refusal, node))
                return False
            values = itertools.chain(model.graph.input, model.graph.value_info, model.graph.output)
            tensors = {}
            for value in values:
                kind = value.type.tensor_type
                shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
                tensors[value.name] = Tensor(value.name, shape, types.get(kind.elem_type))
            self.network.inputs.extend(tensors[value.name] for value in model.graph.input)
            constant = found.LayerType.CONSTANT
            for weight in model.graph.initializer:
                tensors[weight.name] = Tensor(f"{weight.name}_output", tuple(weight.dims), types.get(weight.data_type))
                self.network.layers.append(Layer(weight.name, constant, [], [tensors[weight.name]]))
            for node in model.graph.node:
                kind = getattr(found.LayerType, kinds.get(node.op_type, "IDENTITY"))
                inputs = [tensors[name] for name in node.input if name]
                self.network.layers.append(Layer(node.name, kind, inputs, [tensors[name] for name in node.output]))
            return True

    class Builder:
        __slots__ = ("logger",)

        def __init__(self, logger: Any) -> None:
            if not play.starts:
                tell(logger, "CUDA initialization failure with error: 35")
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
                tell(self.logger, "Network has dynamic or shape inputs, but no optimization profile has been defined.")
                return None
            failure = play.fails(network, config)
            if failure is not None:
                tell(self.logger, failure)
                return None
            if config.cache is not None:
                config.cache.content = config.cache.content + b"+" if config.cache.content else CACHE
            return b"plan of " + " ".join(sorted(network.quantised())).encode()

    class Inspector:
        __slots__ = ()

        def get_engine_information(self, layer_information_format: Any) -> str:
            assert layer_information_format == found.LayerInformationFormat.JSON
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
                tell(self.logger, "the engine plan file is generated on an incompatible device")
            return Engine() if play.loads else None

    found.ILogger, found.OnnxParser, found.Builder, found.Runtime = ILogger, OnnxParser, Builder, Runtime
    return trt, play
