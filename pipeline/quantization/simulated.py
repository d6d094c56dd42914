"""An INT8 graph simulated in torch, for training: the same roundings at the same places, with gradients.

The positions of the Q/DQ pairs are read from the placed graph itself, so that no placement rule is written twice. The
scales of weights are computed again in every step; activations keep the scales of the calibration (Jacob et al. 2018,
arXiv 1712.05877, with fixed ranges). A rounding passes gradients unchanged; a value outside its range gets none.

Batch norm runs as at inference and is not folded. Folding multiplies each output channel of a weight by a constant, and
the scale of that channel with it, so the rounded weights are the same with and without it (except for float16 scales,
which are those of the folded weights).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from pipeline.errors import UserError
from pipeline.models import SegNetwork, SegOutput
from pipeline.quantization.graph import OURS, Graph
from pipeline.quantization.pixels import on_pixels_name
from pipeline.quantization.saturation import PAIR_MAX, quantised_layers
from pipeline.quantization.scales import INT8_MAX

#: Prefix that a weight's name has in a deploy graph but not in the network itself.
NETWORK = OURS.partition(".")[0] + "."
#: The torch functions for Conv, ConvTranspose, Gemm and MatMul, and the axis of the weight's output channels.
LAYERS = {torch.conv2d: 0, torch.conv_transpose2d: 1, torch.nn.functional.linear: 0}
ADDITIONS = frozenset({torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__iadd__})


@dataclass(frozen=True)
class Rounding:
    """The rounding of one tensor: ``value = scale * (level - zero_point)`` with levels lowest..highest."""

    scale: float
    zero_point: int
    lowest: int
    highest: int

    def __call__(self, x: Tensor) -> Tensor:
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, self.lowest, self.highest)


@dataclass(frozen=True)
class Addition:
    """A sum of two feature maps.

    Attributes:
        channels: number of channels of the maps.
        inputs: the rounding of each map; None: it is not rounded.
    """

    channels: int
    inputs: tuple[Rounding | None, Rounding | None]


@dataclass(frozen=True)
class Roundings:
    """All roundings of a placed graph.

    Attributes:
        layers: for each rounded weight, by name: the rounding of the layer's input; None: only the weight is rounded.
        additions: sums of two feature maps of equal shape, in the order in which they run.
        on_pixels: names of the weights into which normalisation is folded before they are rounded.
        paired: names of the weights that the CPU kernel multiplies in pairs with uint8 activations, see
            :mod:`pipeline.quantization.saturation`.
    """

    layers: Mapping[str, Rounding | None]
    additions: Sequence[Addition]
    on_pixels: frozenset[str] = frozenset()
    paired: frozenset[str] = frozenset()

    @classmethod
    def of(cls, placed: onnx.ModelProto, source: Graph) -> Roundings:
        """Read the roundings from a graph with Q/DQ nodes.

        Args:
            placed: the graph with Q/DQ nodes.
            source: the float graph from which ``placed`` was built; nodes have the same names in both.
        """
        graph = Graph(placed)
        nodes = {node.name: node for node in graph.nodes}
        layers, on_pixels, paired = {}, set(), set()
        forming_pairs = {node.name for node, _ in quantised_layers(placed)}
        for layer in source.layers:
            node, name = nodes[layer.name], layer.input[1].removeprefix(NETWORK)
            weight = _dequantiser(graph, node.input[1])
            if weight is not None:
                layers[name] = _rounding(graph, node.input[0])
                if weight.input[0].startswith(on_pixels_name(layer.input[1])):
                    on_pixels.add(name)
                if layer.name in forming_pairs:
                    paired.add(name)
        additions = []
        for node in source.body:
            shapes = [source.shapes.get(name, ()) for name in node.input]
            if node.op_type == "Add" and len(set(shapes)) == 1 and len(shapes[0]) == 4:
                first, second = (_rounding(graph, name) for name in nodes[node.name].input)
                additions.append(Addition(channels=shapes[0][1], inputs=(first, second)))
        return cls(layers=layers, additions=additions, on_pixels=frozenset(on_pixels), paired=frozenset(paired))


def _dequantiser(graph: Graph, name: str) -> onnx.NodeProto | None:
    node = graph.producers.get(name)
    return node if node is not None and node.op_type == "DequantizeLinear" else None


def _rounding(graph: Graph, name: str) -> Rounding | None:
    """The rounding of a tensor that comes out of a Q/DQ pair, else None. The frame's bytes are exact: None as well."""
    node = _dequantiser(graph, name)
    if node is None or node.input[0] not in graph.producers:
        return None
    if graph.producers[node.input[0]].op_type != "QuantizeLinear":
        return None
    scale, zero_point = (numpy_helper.to_array(graph.initializers[constant]) for constant in node.input[1:3])
    signed = zero_point.dtype.kind == "i"
    lowest, highest = (-128, 127) if signed else (0, 255)
    return Rounding(scale=float(scale), zero_point=int(zero_point), lowest=lowest, highest=highest)


class SimulatedNetwork(SegNetwork):
    """A network that computes with the roundings of its INT8 graph. It shares, and trains, the weights of ``network``.

    Batch norm stays in eval mode even after ``train()``, because its statistics belong to the calibrated network.

    Args:
        network: in train or eval mode.
        roundings: of a graph that was exported from this network.

    Raises:
        UserError: the roundings are of another network.
    """

    def __init__(self, network: SegNetwork, roundings: Roundings) -> None:
        super().__init__()
        self.network = network
        self.facts, self.mean, self.std = network.facts, network.mean, network.std
        parameters = dict(network.named_parameters())
        if unknown := sorted(set(roundings.layers) - set(parameters)):
            raise UserError(f"the INT8 graph has a layer '{unknown[0]}' that the network lacks; export it again")
        self._roundings = roundings
        self._layers = {parameters[name]: rounding for name, rounding in roundings.layers.items()}
        factors = torch.tensor(network.std).reshape(1, 3, 1, 1)  # further factors are equal for all channels
        self._factors = {parameters[name]: factors for name in roundings.on_pixels}
        self._paired = {parameters[name] for name in roundings.paired}

    @property
    def encoder(self) -> nn.Module | None:
        return self.network.encoder

    @property
    def auxiliary(self) -> nn.Module | None:
        return self.network.auxiliary

    def forward(self, x: Tensor) -> SegOutput:
        with _Rounded(self._layers, self._factors, self._paired, self._roundings.additions):
            output: SegOutput = self.network(x)
        return output

    def train(self, mode: bool = True) -> SimulatedNetwork:
        super().train(mode)
        for module in self.network.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self


class _Rounded(TorchFunctionMode):
    """While this mode is active, layers and additions round their inputs."""

    def __init__(
        self,
        layers: Mapping[nn.Parameter, Rounding | None],
        factors: Mapping[nn.Parameter, Tensor],
        paired: Collection[nn.Parameter],
        additions: Sequence[Addition],
    ) -> None:
        super().__init__()
        self.layers = layers
        self.factors = factors
        self.paired = paired
        self.additions: Iterator[Addition] = iter(additions)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in LAYERS and isinstance(args[1], nn.Parameter) and args[1] in self.layers:
            x, weight, *rest = args
            rounding = self.layers[weight]
            factors, paired = self.factors.get(weight), weight in self.paired
            rounded = round_weight(weight, LAYERS[func], factors=factors, paired=paired)
            args = (x if rounding is None else rounding(x), rounded, *rest)
        elif func in ADDITIONS and _are_maps(*args[:2]) and (addition := next(self.additions, None)) is not None:
            if args[0].shape[1] != addition.channels:
                raise UserError(
                    f"the network adds maps of {args[0].shape[1]} channels where its INT8 graph adds "
                    f"{addition.channels}; it cannot be trained with 8 bits simulated: set qat: false for this student"
                )
            operands = zip(args[:2], addition.inputs, strict=True)
            return torch.add(*(x if rounding is None else rounding(x) for x, rounding in operands))
        return func(*args, **(kwargs or {}))


def _are_maps(first: Any, second: Any) -> bool:
    """Whether two operands are feature maps of equal shape, as in a residual connection."""
    tensors = isinstance(first, Tensor) and isinstance(second, Tensor)
    return tensors and first.ndim == 4 and first.shape == second.shape


def round_weight(weight: Tensor, axis: int, *, factors: Tensor | None = None, paired: bool = False) -> Tensor:
    """Round a weight to symmetric int8, with one scale per channel of ``axis``, and return it in float.

    Args:
        factors: only for the first layer, into whose INT8 weight the standard deviation and the BGR order are folded.
            Before rounding, the weight is divided by these factors and its input channels are reversed; both are undone
            after rounding.
        paired: choose scales with which no pair of weights overflows, as ``saturation.scales_of`` does.
    """
    if factors is not None:
        factors = factors.to(weight.device)
        return round_weight((weight / factors).flip(1), axis, paired=paired).flip(1) * factors
    others = [index for index in range(weight.ndim) if index != axis]
    scales = weight.detach().abs().amax(dim=others).clamp_min(1e-8) / INT8_MAX
    if paired:
        scales = torch.maximum(scales, _largest_sums(weight.detach(), axis) / PAIR_MAX)
    zeros = torch.zeros(len(scales), dtype=torch.int32, device=weight.device)
    return torch.fake_quantize_per_channel_affine(weight, scales, zeros, axis, -INT8_MAX, INT8_MAX)


def _largest_sums(weight: Tensor, axis: int) -> Tensor:
    """``saturation.largest_sums`` of a weight's pairs in torch, (C,)."""
    by_channel = weight.movedim(axis, 0)
    if by_channel.ndim > 2:
        by_channel = by_channel.movedim(1, -1)
    flat = by_channel.flatten(1)
    pairs = torch.nn.functional.pad(flat, (0, flat.shape[1] % 2)).reshape(len(flat), -1, 2)
    return torch.maximum(*(sign.clamp_min(0).sum(dim=2).amax(dim=1) for sign in (pairs, -pairs)))
