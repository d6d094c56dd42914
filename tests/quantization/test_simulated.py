"""Training with 8 bits simulated: the simulation against the INT8 graph that ONNX Runtime runs."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from pipeline import models
from pipeline.errors import UserError
from pipeline.export.graphs import DeployGraph
from pipeline.export.onnx_file import export
from pipeline.models import SegNetwork
from pipeline.quantization import aware, calibration, calibration_artifact, cpu, tensorrt
from pipeline.quantization import graph as graphs
from pipeline.quantization.aware import simulate
from pipeline.quantization.graph import Graph
from pipeline.quantization.quantize import FAMILIES, Settings, Source
from pipeline.quantization.simulated import Rounding, Roundings, SimulatedNetwork, round_weight
from pipeline.quantization.tensorrt import quantize_per_channel

SIZE = (64, 96)


def logits_of(model: onnx.ModelProto, logits: str, frames: list[Any]) -> Any:
    """The logits of a deploy graph, (N, K, h, w), computed without ONNX Runtime's optimisations."""
    wanted = onnx.ModelProto()
    wanted.CopyFrom(model)
    wanted.graph.output.append(onnx.helper.make_tensor_value_info(logits, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(wanted.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run([logits], {"frames": frame[None]})[0] for frame in frames])


@pytest.fixture
def exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the first export of ``simulate``; later exports, of the same network, are copies of it."""
    file = tmp_path / "exported.onnx"

    def write(graph: DeployGraph, frame: torch.Tensor, target: Path, **names: str) -> None:
        if not file.exists():
            export(graph, frame, file, **names)  # type: ignore[arg-type]
        shutil.copy(file, target)

    monkeypatch.setattr(aware, "export", write)
    return file


def placed(student: Any, target: str) -> tuple[onnx.ModelProto, Graph]:
    """The INT8 graph with float32 scales, as in torch, and the float graph."""
    plain = graphs.load(str(student.onnx.file("fp32.onnx")))
    family, settings = FAMILIES[target], Settings(method="minmax")
    source = Source(plain, calibration_artifact.load(student.calibration), settings)
    placement = {"cpu": cpu.place, "tensorrt": partial(tensorrt.place, float16=False)}[target]
    return source.placing(family, placement)(settings.kept(plain)), plain


@pytest.mark.parametrize(("target", "share"), [("cpu", 0.85), ("tensorrt", 0.6)])
def test_simulated_logits_are_those_of_the_int8_graph(student: Any, target: str, share: float) -> None:
    """The simulation reproduces the error of INT8 up to ``share`` of it.

    Float sums in another order sometimes change how a value is rounded, and every later layer spreads the difference.
    """
    model, plain = placed(student, target)
    logits = plain.classifier.output[0]
    expected, floats = (logits_of(m, logits, student.frames) for m in (model, plain.model))
    network = SimulatedNetwork(student.network, Roundings.of(model, plain)).eval()
    batch = DeployGraph(network, input_size=(128, 192)).to_input(torch.from_numpy(np.stack(student.frames)))
    with torch.no_grad():
        simulated = network(batch).logits.numpy()
    error = np.sqrt(np.mean((expected - floats) ** 2))
    left = np.sqrt(np.mean((expected - simulated) ** 2))
    assert error > 0.01
    assert left < share * error, f"{left / error:.2f} of the error is left"


@pytest.mark.usefixtures("exported")
def test_roundings_are_those_of_the_placement() -> None:
    network = models.build("smp", {"architecture": "fpn", "encoder": "resnet18"}, num_classes=3).eval()
    frames = [np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)]
    kept = Settings(method="minmax", float_layers=["encoder.layer1.*"])
    by_target = {
        target: simulate(network, frames, input_size=SIZE, target=target, settings=kept)._roundings
        for target in FAMILIES
    }
    for roundings in by_target.values():
        assert not [name for name in roundings.layers if "layer1" in name or "segmentation_head" in name]
        assert roundings.layers["net.encoder.layer2.0.conv1.weight"] is not None
    simulated = SimulatedNetwork(network, by_target["cpu"])
    assert simulated.encoder is network.encoder is network.net.encoder
    residual = by_target["tensorrt"].additions[2]  # the first of layer2; those of layer1 stay in float
    assert [each is not None for each in residual.inputs] == [False, True], "the skip alone"
    assert all(each is None for each in by_target["tensorrt"].additions[0].inputs)
    assert all(each is not None for each in by_target["cpu"].additions[2].inputs), "both"
    rounding = by_target["tensorrt"].layers["net.encoder.layer2.1.conv1.weight"]
    assert rounding is not None
    assert (rounding.zero_point, rounding.lowest, rounding.highest) == (0, -128, 127)
    rounding = by_target["cpu"].layers["net.encoder.layer2.1.conv1.weight"]
    assert rounding is not None
    assert (rounding.zero_point, rounding.lowest, rounding.highest) == (0, 0, 255), "after a ReLU"


def test_weights_are_rounded_as_in_the_files() -> None:
    weight = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    weight[2] = 0
    for axis in (0, 1):
        values, scales = quantize_per_channel(weight.numpy(), axis)
        shape = [-1 if index == axis else 1 for index in range(4)]
        expected = values * scales.reshape(shape)
        np.testing.assert_allclose(round_weight(weight, axis).numpy(), expected, rtol=1e-6, atol=1e-9)


def test_gradients_pass_roundings_and_stop_at_the_ends_of_the_range() -> None:
    x = torch.tensor([-3.0, -0.26, 0.4, 1.1, 9.0], requires_grad=True)
    rounding = Rounding(scale=0.5, zero_point=2, lowest=0, highest=10)  # -1 .. 4
    y = rounding(x)
    assert y.tolist() == [-1.0, -0.5, 0.5, 1.0, 4.0]
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_batch_norm_stays_in_eval_mode(student: Any) -> None:
    model, plain = placed(student, "cpu")
    network = SimulatedNetwork(student.network, Roundings.of(model, plain))
    before = {name: value.clone() for name, value in student.network.state_dict().items()}
    network.train()
    kinds = {type(module).__name__: module.training for module in student.network.modules()}
    assert kinds["Dropout"] and not kinds["BatchNorm2d"]
    network(torch.randn(2, 3, *SIZE)).logits.sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in student.network.state_dict().items())
    gradients = {name for name, p in student.network.named_parameters() if p.grad is not None and p.grad.any()}
    assert {name for name in gradients if name.endswith("conv_pw.weight")}
    student.network.zero_grad()
    student.network.eval()


class Summing(SegNetwork):
    """A small network with two additions whose order can be swapped."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.ModuleDict({n: nn.Conv2d(3, c, 1) for n, c in (("a", 16), ("b", 16), ("c", 32), ("d", 32))})
        self.net["head"] = nn.Conv2d(48, 16, 1)
        self.mean, self.std = (0.5,) * 3, (0.2,) * 3
        self.swapped = False

    def forward(self, x: Any) -> Any:
        sums = [lambda: self.net["a"](x) + self.net["b"](x), lambda: self.net["c"](x) + self.net["d"](x)]
        if self.swapped:
            wide, narrow = sums[1](), sums[0]()
        else:
            narrow, wide = sums[0](), sums[1]()
        logits = self.net["head"](torch.cat([narrow, wide], 1))
        return models.SegOutput(logits=logits, embedding=logits)


def test_another_order_of_additions_is_refused(tmp_path: Path, student: Any) -> None:
    """Additions are identified by their order; a network with another order than its graph is an error."""
    network = Summing().eval()
    network.facts = student.network.facts
    frames = [np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)]
    settings = Settings(method="minmax", float_head=False)
    simulated = simulate(network, frames, input_size=SIZE, target="cpu", settings=settings)
    x = torch.zeros(1, 3, *SIZE)
    assert simulated(x).logits.shape == (1, 16, *SIZE)
    network.swapped = True
    with pytest.raises(UserError, match=r"adds maps of 32 channels where its INT8 graph adds 16.*set qat: false"):
        simulated(x)


def test_roundings_of_another_network_are_refused(student: Any) -> None:
    model, plain = placed(student, "cpu")
    other = models.build("smp", {"architecture": "fpn", "encoder": "resnet18"}, num_classes=3)
    with pytest.raises(UserError, match=r"the INT8 graph has a layer 'net\..+' that the network lacks"):
        SimulatedNetwork(other, Roundings.of(model, plain))


def test_training_recovers_what_rounding_lost(student: Any, tmp_path: Path, exported: Path) -> None:
    """A few steps towards the float network's logits, on the frames on which the error is measured."""
    settings = replace(Settings(method="minmax"), float_head=True)
    network = models.build("smp", dict(student.parent.meta["model"]["options"]), num_classes=5)
    network.load_state_dict(student.network.state_dict())
    network.eval()
    frames = [np.ascontiguousarray(frame[: SIZE[0], : SIZE[1]]) for frame in student.frames]
    simulated = simulate(network, frames, input_size=SIZE, target="tensorrt", settings=settings)
    batch = DeployGraph(student.network, input_size=SIZE).to_input(torch.from_numpy(np.stack(frames)))
    with torch.no_grad():
        wanted = student.network(batch).logits
    optimiser = torch.optim.Adam(simulated.parameters(), lr=2e-5)
    for _ in range(15):
        loss = (simulated(batch).logits - wanted).square().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    def lost(file: Path) -> float:
        """Squared error of a new INT8 graph of an exported network, built as in the pipeline."""
        plain = graphs.load(str(file))
        source, family = Source(plain, calibration.collect(file, frames), settings), FAMILIES["tensorrt"]
        model = source.placing(family, family.simulated)(settings.kept(plain))
        return float(np.mean((logits_of(model, plain.classifier.output[0], frames) - wanted.numpy()) ** 2))

    trained, frame = tmp_path / "trained.onnx", torch.zeros(1, *SIZE, 3, dtype=torch.uint8)
    export(DeployGraph(network, input_size=SIZE), frame, trained, inputs="frames", outputs="labels")
    assert lost(trained) < 0.95 * lost(exported)


def test_weights_are_rounded_as_in_the_cpu_file(student: Any) -> None:
    """All weights but the first layer's, also depthwise ones; in torch, batch norm is not folded."""
    model, plain = placed(student, "cpu")
    roundings = Roundings.of(model, plain)
    parameters = dict(student.network.named_parameters())
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    dequantisers = {n.output[0]: n for n in model.graph.node if n.op_type == "DequantizeLinear"}
    nodes = {node.name: node for node in model.graph.node}
    assert 0 < len(roundings.paired) < len(roundings.layers), "depthwise layers form no pairs"
    for layer in plain.layers:
        name = layer.input[1].removeprefix("network.")
        if name not in roundings.layers or name in roundings.on_pixels:
            continue
        weight = parameters[name].detach()
        rounded = round_weight(weight, 0, paired=name in roundings.paired)
        others = tuple(range(1, weight.ndim))
        levels = constants[dequantisers[nodes[layer.name].input[1]].input[0]].astype(np.float32)
        scale = np.abs(weight.numpy()).max(axis=others, keepdims=True)
        got = rounded.numpy() / np.maximum(scale, 1e-9)
        sign = np.sign((levels * weight.numpy()).sum(axis=others, keepdims=True))  # folding a batch norm may change it
        expected = sign * levels / np.abs(levels).max(axis=others, keepdims=True).clip(1)
        expected *= np.abs(got).max(axis=others, keepdims=True)
        wrong = np.abs(got - expected) > 0.5 / 127
        assert wrong.mean() < 2e-3, name
