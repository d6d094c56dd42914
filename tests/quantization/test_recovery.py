"""Recovery of accuracy: corrected biases, and layers that stay in float until a budget holds."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from pipeline import artifact
from pipeline.errors import UserError
from pipeline.evaluation.drops import Drop, Drops
from pipeline.frames import write_png
from pipeline.prepared import Prepared
from pipeline.quantization import calibration, cpu, sensitivity
from pipeline.quantization import graph as graphs
from pipeline.quantization.bias_correction import correct, shift
from pipeline.quantization.quantize import Settings, quantize
from pipeline.quantization.saturation import quantize as round_weight
from pipeline.quantization.sensitivity import Budget
from pipeline.quantization.tensorrt import quantize_per_channel
from pipeline.quantization.trial import Outcome, Trial


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_shift_is_that_of_a_constant_image(groups: int) -> None:
    """On an image that equals its mean everywhere, the shift is the whole error of the layer."""
    rng = np.random.default_rng(groups)
    weight = rng.normal(size=(12, 6 // groups, 3, 3)).astype(np.float32)
    means = rng.normal(size=6)
    values, scales = quantize_per_channel(weight, 0)
    rounded = values * scales.reshape(-1, 1, 1, 1).astype(np.float64)
    expected = np.zeros(12)
    for o in range(12):
        first = o // (12 // groups) * (6 // groups)
        for i in range(6 // groups):
            expected[o] += (rounded[o, i] - weight[o, i]).sum() * means[first + i]
    np.testing.assert_allclose(shift(rounded - weight, means), expected, rtol=1e-6, atol=1e-9)


def test_corrected_biases_bring_the_means_back(student: Any, evaluate: Any) -> None:
    """The mean error of the logits over the frames, per channel, when only the weights are rounded."""
    file = student.onnx.file("fp32.onnx")
    graph = graphs.load(str(file))
    statistics = calibration.collect(file, student.frames)
    logits = graph.classifier.output[0]
    corrected = correct(graph, statistics, round_weight=round_weight)
    for layer in graph.layers:  # round all weights, but keep them in float
        for changed in (graph, corrected):
            tensor = changed.initializers[layer.input[1]]
            values, scales = round_weight(layer, numpy_helper.to_array(tensor))
            rounded = (values * scales.reshape(-1, 1, 1, 1)).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
    before = onnx.load(file)
    errors = []
    for model in (graph.model, corrected.model):
        means = [
            np.mean([evaluate(m, frame, [logits])[logits].mean(axis=(0, 2, 3)) for frame in student.frames], axis=0)
            for m in (model, before)
        ]
        errors.append(np.abs(means[0] - means[1]).mean())
    assert errors[1] < 0.5 * errors[0]


def test_layers_in_float_keep_their_bias(student: Any) -> None:
    graph = graphs.load(str(student.onnx.file("fp32.onnx")))
    statistics = calibration.collect(student.onnx.file("fp32.onnx"), student.frames[:1])
    first, kept = graph.layers[0].name, graph.layers[3].name  # folding the normaliser changes the first layer's weights
    corrected = {
        layer.name: layer.input[2]
        for layer in correct(graph, statistics, round_weight=round_weight, float_nodes={kept}).layers
    }
    assert [name for name, bias in corrected.items() if not bias.endswith(".corrected_bias")] == [first, kept]


def targets(student: Any) -> list[Any]:
    """The labels of the float network."""
    import onnxruntime  # noqa: PLC0415

    session = onnxruntime.InferenceSession(str(student.onnx.file("fp32.onnx")), providers=["CPUExecutionProvider"])
    return [session.run(None, {"frames": frame[None]})[0][0] for frame in student.frames]


@pytest.fixture(scope="module")
def trial(student: Any) -> Trial:
    return Trial(student.onnx.file("fp32.onnx"), student.frames, targets(student), student.labels)


@pytest.fixture
def prepared(student: Any, tmp_path: Path) -> Prepared:
    """Four train frames, of the network's size and of another."""
    names = ["a", "b", "c", "d"]
    meta = {"dataset": "some", "splits": {"train": names}, **student.labels.to_meta()}
    with artifact.create(tmp_path / "data", kind="dataset", meta=meta) as folder:
        for name, frame, label in zip(names, student.frames, targets(student), strict=True):
            twice = [cv2.resize(image, (384, 256), interpolation=cv2.INTER_NEAREST) for image in (frame, label)]
            for kind, image in zip(("images", "labels"), twice if name == "b" else (frame, label), strict=True):
                write_png(folder / "train" / kind / f"{name}.png", np.asarray(image, np.uint8))
    return Prepared(tmp_path / "data")


def test_a_trial_uses_train_frames_that_calibration_did_not_use(student: Any, prepared: Prepared) -> None:
    trial = Trial.on_train(prepared, student.onnx, used=["a", "d"], count=5, seed=0)
    assert [target.shape for target in trial.targets] == [(256, 384), (128, 192)]
    assert np.array_equal(trial.frames[1], student.frames[2]) and trial.frames[0].shape == (128, 192, 3)
    counts = trial.reference_counts
    assert (counts.hits.sum(axis=0) / counts.union.sum(axis=0)).min() > 0.9  # the targets are the network's own labels
    with pytest.raises(UserError, match=r"calibrate\.images: calibration uses all 4 train frames, none is left"):
        Trial.on_train(prepared, student.onnx, used=["a", "b", "c", "d"], count=5, seed=0)


def test_a_trial_without_labelled_pixels_is_refused(student: Any) -> None:
    ignored = [np.full_like(target, 255) for target in targets(student)[:1]]
    with pytest.raises(
        UserError, match=r"quantize\.trial_images: no pixel of the 1 train frames is labelled with a, b"
    ):
        Trial(student.onnx.file("fp32.onnx"), student.frames[:1], ignored, student.labels)


def test_a_trial_computes_intervals_over_its_frames(student: Any) -> None:
    frames, labels = [student.frames[index % 4] for index in range(8)], targets(student)
    trial = Trial(
        student.onnx.file("fp32.onnx"),
        frames,
        [labels[index % 4] for index in range(8)],
        student.labels,
        confidence=0.9,
    )
    broken = trial.run(shifted(onnx.load(student.onnx.file("fp32.onnx")))).drops
    assert (broken.frames, broken.confidence) == (8, 0.9)
    assert all((lost.low, lost.high) == (100, 100) and lost.exceeds(99) for lost in broken.classes.values())


def test_an_outcome_against_known_losses(student: Any, trial: Trial, make: Any) -> None:
    unchanged = trial.run(onnx.load(student.onnx.file("fp32.onnx")))
    assert (unchanged.disagreement, unchanged.drops.miou.got, unchanged.drops.worst[1].got) == (0, 0, 0)
    model = onnx.load(student.onnx.file("fp32.onnx"))
    broken = trial.run(shifted(model))  # every pixel becomes the next class
    assert broken.disagreement == 100
    assert broken.drops.miou.got == 100 and broken.drops.worst[1].got == 100
    assert broken.facts() == {
        "disagreement": 100,
        "miou_drop": 100,
        "class_drop": 100,
        "worst_class": broken.drops.worst[0],
    }


def shifted(model: onnx.ModelProto) -> onnx.ModelProto:
    """Label k becomes k + 1 of 5."""
    output = model.graph.output[0].name
    last = next(node for node in model.graph.node if output in node.output)
    last.output[0] = "before"
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.array(value, np.uint8), name) for name, value in (("one", 1), ("five", 5))]
    )
    model.graph.node.extend(
        [
            onnx.helper.make_node("Add", ["before", "one"], ["more"]),
            onnx.helper.make_node("Mod", ["more", "five"], [output]),
        ]
    )
    return model


def test_the_most_sensitive_layer_is_ranked_first(student: Any, trial: Trial) -> None:
    """One layer gets a range that is a hundred times too wide."""
    graph = graphs.load(str(student.onnx.file("fp32.onnx")))
    statistics = calibration.collect(student.onnx.file("fp32.onnx"), student.frames)
    ranges = {name: (min(0.0, h.minimum), max(0.0, h.maximum)) for name, h in statistics.histograms.items()}
    victim, names = graph.layers[8], {node.name for node in graph.nodes}
    low, high = ranges[victim.input[0]]
    ranges[victim.input[0]] = (100 * low, 100 * high)

    def place(float_nodes: Collection[str]) -> onnx.ModelProto:
        return cpu.place(graph, ranges, float_nodes=float_nodes)

    ticks: list[int] = []
    ranking = sensitivity.rank(graph, place, trial, progress=lambda: ticks.append(1))
    assert len(ranking) == len(ticks) == len(graph.layers)
    assert ranking[0][0] == victim.name
    ranges[victim.input[0]] = (low, high)
    assert ranking[0][1].disagreement > 3 * trial.run(place(names - {victim.name})).disagreement


class FakeTrial:
    """A trial with known losses. A candidate is the set of its float layers.

    Every other layer costs its points of mIoU, and twice as many points of class ``a`` and of the ``noisy`` classes.
    """

    def __init__(self, costs: dict[str, float], **noisy: Callable[[float], Drop]) -> None:
        self.costs, self.noisy = costs, noisy
        self.tried: list[int] = []

    def run(self, candidate: Any) -> Outcome:
        self.tried.append(len(candidate))
        lost = sum(cost for name, cost in self.costs.items() if name not in candidate)
        classes = {"a": known(2 * lost), **{name: noise(2 * lost) for name, noise in self.noisy.items()}}
        return Outcome(disagreement=lost, drops=Drops(known(lost), classes, 16, 0.95))


def known(points: float) -> Drop:
    """A loss without noise."""
    return Drop(points, points, points, frames=16)


COSTS = {f"layer{index}": 2.0**-index for index in range(20)}


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (Budget(), 0),
        (Budget(miou_drop=10.0), 0),
        (Budget(miou_drop=1.01), 1),
        (Budget(class_drop=1.01), 2),
        (Budget(miou_drop=1.01, class_drop=0.07), 6),
        (Budget(miou_drop=0.0), 20),
    ],
)
def test_as_few_layers_as_possible_stay_in_float(budget: Budget, expected: int) -> None:
    trial = FakeTrial(COSTS)
    fallback = sensitivity.fall_back(list(COSTS), frozenset, trial, budget)  # type: ignore[arg-type]
    assert fallback.held
    assert fallback.layers == tuple(COSTS)[:expected]
    assert len(trial.tried) <= 7


def test_the_noise_of_a_rare_class_leaves_no_layer_in_float() -> None:
    """Class b loses 4 points, with an interval of 0 to 20. Class c, which only two frames show, loses 100."""
    rare = {
        "b": lambda points: Drop(points, 0.0, 5 * points, frames=7),
        "c": lambda points: Drop(100.0, 100.0, 100.0, frames=2, enough=False),
    }
    trial, budget = FakeTrial(COSTS, **rare), Budget(miou_drop=2.5, class_drop=4.5)
    fallback = sensitivity.fall_back(list(COSTS), frozenset, trial, budget)  # type: ignore[arg-type]
    assert fallback.held and fallback.layers == () and trial.tried == [0]
    assert budget.undecided(fallback.outcome) == ["b", "c"], "they are reported"


def test_the_best_estimate_of_a_hurt_class_is_within_the_budget() -> None:
    """Class a certainly loses more than 1.5 points when all layers are INT8. With one layer in float this is no longer
    certain, but the best estimate is still 2 points. Two layers in float bring the estimate below 1.5."""
    costs = {"layer0": 2.0, "layer1": 0.5, "layer2": 0.5}
    trial = FakeTrial(costs, a=lambda points: Drop(points, 0.6 * points, 2 * points, frames=9))
    budget = Budget(class_drop=1.5)
    assert budget.exceeded(trial.run(frozenset())) == {"a"} and budget.exceeded(trial.run({"layer0"})) == set()
    fallback = sensitivity.fall_back(list(costs), frozenset, trial, budget)  # type: ignore[arg-type]
    assert fallback.held and fallback.layers == ("layer0", "layer1") and fallback.outcome.drops.classes["a"].got == 1.0


def test_a_budget_that_cannot_hold_is_reported() -> None:
    trial = FakeTrial({**COSTS, "elsewhere": 5.0})
    fallback = sensitivity.fall_back(list(COSTS), frozenset, trial, Budget(miou_drop=1.0))  # type: ignore[arg-type]
    assert not fallback.held
    assert len(fallback.layers) == 20


def test_sums_go_to_float_before_any_layer() -> None:
    trial = FakeTrial({**COSTS, "sum1": 5.0, "sum2": 5.0})
    fallback = sensitivity.fall_back(
        list(COSTS),
        frozenset,
        trial,
        Budget(miou_drop=2.5),
        sums=("sum1", "sum2"),  # type: ignore[arg-type]
    )
    assert fallback.held and fallback.layers == () and set(fallback.sums) == {"sum1", "sum2"}
    assert trial.tried == [0, 2]
    fallback = sensitivity.fall_back(
        list(COSTS),
        frozenset,
        trial,
        Budget(miou_drop=1.01),
        sums=("sum1", "sum2"),  # type: ignore[arg-type]
    )
    assert fallback.held and fallback.layers == ("layer0",) and set(fallback.sums) == {"sum1", "sum2"}


def test_sums_stay_in_int8_where_that_costs_nothing() -> None:
    trial = FakeTrial(COSTS)
    without_fallback = sensitivity.fall_back([*COSTS], frozenset, trial, Budget(miou_drop=3.0), sums=("sum",))  # type: ignore[arg-type]
    assert (without_fallback.held, without_fallback.sums, trial.tried) == (True, (), [0])
    fallback = sensitivity.fall_back([*COSTS], frozenset, trial, Budget(miou_drop=1.01), sums=("sum",))  # type: ignore[arg-type]
    assert fallback.held and fallback.layers == ("layer0",) and fallback.sums == ()


def test_quantize_records_the_fallback(student: Any, trial: Trial, tmp_path: Any) -> None:
    budget = Budget(miou_drop=2.0, class_drop=3.0)  # float16 alone costs 1.0 and 1.3 here: the weights are random
    settings = Settings(method="minmax", bias_correction=True, budget=budget)
    steps: list[str] = []
    quantize(
        student.onnx, student.calibration, tmp_path / "int8", settings=settings, trial=trial,
        progress=lambda title, total: steps.append(f"{title}/{total}"),
    )  # fmt: skip
    meta = artifact.load(tmp_path / "int8", kind="int8").meta
    graph = graphs.load(str(student.onnx.file("fp32.onnx")))
    layers = [layer.name for layer in graph.layers]
    assert sorted(row["layer"] for row in meta["sensitivity"]) == sorted(graph.titles.values())
    assert "decoder.block2.0.0" in graph.titles.values() and len(set(graph.titles.values())) == len(layers)
    assert len(steps) == len(layers)
    assert set(meta["fallback"]) == {"int8_cpu.onnx", "int8_arm.onnx", "int8_tensorrt.onnx"}
    for file, record in meta["fallback"].items():
        in_float = meta["in_float"][file]
        assert record["held"] and record["miou_drop"] <= 2.0 and record["class_drop"] <= 3.0
        model = onnx.load(tmp_path / "int8" / file)
        operators = {name: node.op_type for node in model.graph.node for name in node.output}
        floats = {
            graph.titles[n.name]
            for n in model.graph.node
            if n.name in layers and operators.get(n.input[1]) != "DequantizeLinear"
        }
        assert floats >= set(in_float["layers"]) >= {graph.titles[layers[-1]]}
        if file == "int8_cpu.onnx":
            assert floats == set(in_float["layers"])
            assert trial.run(model).facts().items() <= record.items()
    assert len(meta["in_float"]["int8_cpu.onnx"]["layers"]) > 1  # with random weights, INT8 without fallback loses more


def test_named_layers_stay_in_float(student: Any, tmp_path: Any) -> None:
    settings = Settings(method="minmax", float_layers=["decoder.*"])
    quantize(student.onnx, student.calibration, tmp_path / "int8", settings=settings)
    model = onnx.load(tmp_path / "int8" / "int8_cpu.onnx")
    operators = {name: node.op_type for node in model.graph.node for name in node.output}
    graph = graphs.load(str(student.onnx.file("fp32.onnx")))
    for node in model.graph.node:
        if node.name in graph.titles:
            stays = graph.titles[node.name].startswith("decoder.") or node.name == graph.classifier.name
            assert (operators.get(node.input[1]) != "DequantizeLinear") == stays, graph.titles[node.name]


def test_unknown_layers_and_calibrations_of_other_networks_are_refused(student: Any, tmp_path: Any) -> None:
    with pytest.raises(UserError, match=r"quantize\.float_layers: 'nowhere' matches no layer; "):
        settings = Settings(method="minmax", float_layers=["nowhere"])
        quantize(student.onnx, student.calibration, tmp_path / "int8", settings=settings)
    other = SimpleNamespace(path=tmp_path, meta={"parents": {"onnx": "0"}})
    with pytest.raises(UserError, match="is of another network than"):
        quantize(student.onnx, other, tmp_path / "int8", settings=Settings(method="minmax"))  # type: ignore[arg-type]
    assert not (tmp_path / "int8").exists()
