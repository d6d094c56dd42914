"""Parts of the imitations of ``tensorrt`` 10.3 and 11: network, configuration, profile, timing cache."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import onnx

CACHE = b"timed on this device: "


class Member(enum.Enum):
    """An enumeration of the bindings: its members convert to int, and print with their class."""

    def __int__(self) -> int:
        return int(self.value)


def members(name: str, *names: str) -> Any:
    return Member(name, [(key, index) for index, key in enumerate(names)])  # type: ignore[call-overload]


@dataclass
class Play:
    """How the imitation behaves, and a record of its use.

    Attributes:
        fails: from the network and the configuration to the error that the build ends with; None builds.
        refuses: from the ONNX model to (node index, code, description) of a parser error; None parses.
        dla_cores: of the builder. runnable: whether the DLA takes a layer.
        information: of the inspector.
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
        """Names of the layers that read dequantised tensors (for plays, not for the builder)."""
        dequantised = {t.name for layer in self.layers if layer.type.name == "DEQUANTIZE" for t in layer.outputs}
        return {layer.name for layer in self.layers if not dequantised.isdisjoint(t.name for t in layer.inputs)}


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
        "DLA_core", "builder_optimization_level", "cache", "default_device_type", "play", "pools", "profiles",
        "profiling_verbosity", "set_flags",
    )  # fmt: skip

    def __init__(self, play: Play) -> None:
        self.play, self.set_flags, self.pools, self.profiles = play, list[Any](), dict[Any, int](), list[Profile]()
        self.cache: Cache | None = None
        self.DLA_core, self.default_device_type = -1, None
        self.builder_optimization_level, self.profiling_verbosity = 3, None

    @property
    def flags(self) -> int:
        return sum(1 << int(flag) for flag in self.set_flags)

    def set_flag(self, flag: Any) -> None:
        assert isinstance(flag, Member)
        self.set_flags.append(flag)

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
