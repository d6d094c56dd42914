"""The weights after the last step are kept beside the best ones: measured, stored, copied and resumed."""

from __future__ import annotations

import itertools
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from pipeline import artifact
from pipeline.errors import UserError
from pipeline.export import checking
from pipeline.export.export import deploy_facts
from pipeline.models.weights import network_artifact
from pipeline.training import run
from pipeline.training.run import Trained

ROOT = Path(__file__).parents[2]
#: Metrics of a data set of 11 classes.
CLASSES = [50.0] * 11


@pytest.fixture
def falling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every validation gives one point of mIoU less than the one before: the first one is the best."""
    points = itertools.count(50, -1)

    def metrics(network: Any, split: Any, **_: Any) -> dict[str, Any]:
        return {"miou": float(next(points)), "per_class_iou": CLASSES}

    monkeypatch.setattr(run, "metrics_of", metrics)


@pytest.fixture
def rising(monkeypatch: pytest.MonkeyPatch) -> None:
    points = itertools.count(50)
    monkeypatch.setattr(run, "metrics_of", lambda *_, **__: {"miou": float(next(points)), "per_class_iou": CLASSES})


def equal(state: Any, other: Any) -> bool:
    return state.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in state.items())


@pytest.mark.parametrize("ema", [None, 0.5])
@pytest.mark.usefixtures("falling")
def test_a_training_keeps_the_best_and_the_last_weights(bench: Any, tmp_path: Path, ema: float | None) -> None:
    task = bench.supervised()
    trained = bench.train(task, tmp_path / "whole", steps=6, ema=ema)
    facts = trained.facts
    assert (facts["best_step"], facts["metrics"]["val"]["miou"]) == (2, 50.0)
    assert (facts["last"]["step"], facts["last"]["metrics"]["val"]["miou"]) == (6, 48.0)
    assert facts["last"]["metrics"].keys() == facts["metrics"].keys()
    assert not equal(trained.last, task.network.state_dict())
    assert str(trained) == "val mIoU 50.00 (best, step 2), 48.00 (last, step 6)"


@pytest.mark.usefixtures("rising")
def test_the_last_weights_are_those_after_the_last_step(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they are the best ones, they are kept once, and are what another run keeps as its last ones."""
    task = bench.supervised()
    trained = bench.train(task, tmp_path / "rising", steps=6)
    assert trained.last is None and trained.facts["last"]["step"] == trained.facts["best_step"] == 6
    assert trained.facts["last"]["metrics"] == trained.facts["metrics"]
    assert str(trained) == "val mIoU 52.00 (best and last, step 6)"
    points = itertools.count(50, -1)
    monkeypatch.setattr(run, "metrics_of", lambda *_, **__: {"miou": float(next(points)), "per_class_iou": CLASSES})
    other = bench.train(bench.supervised(), tmp_path / "falling", steps=6)
    assert equal(other.last, task.network.state_dict())


@pytest.mark.parametrize("ema", [None, 0.5])
@pytest.mark.parametrize("passes", [3, 5])
def test_an_interrupted_run_has_the_same_last_weights(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: int, ema: float | None
) -> None:
    """Interrupted after a step between two validations, and after the last step, before the result was written."""

    def validated() -> None:
        points = itertools.count(50, -1)
        monkeypatch.setattr(run, "metrics_of", lambda *_, **__: {"miou": float(next(points)), "per_class_iou": CLASSES})

    options: dict[str, Any] = {"steps": 5, "validate_every": 2, "ema": ema, **bench.SGD}
    places: dict[str, Any] = {"checkpoints": tmp_path / "kept", "checkpoint_seconds": 0.0}
    validated()
    expected = bench.train(bench.supervised(), tmp_path / "whole", **options)
    validated()
    cut, resumed = bench.supervised(), bench.supervised()
    forward, calls = cut.forward, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) > passes:
            raise KeyboardInterrupt
        return forward(*arguments)

    cut.forward = interrupted
    if passes < 5:
        with pytest.raises(KeyboardInterrupt):
            bench.train(cut, tmp_path / "cut", **options, **places)
    else:
        bench.train(cut, tmp_path / "cut", **options, **places)  # its checkpoints stay: finish() was not called
    trained = bench.train(resumed, tmp_path / "cut", **options, **places)
    assert trained.facts == expected.facts and equal(trained.last, expected.last)


def saved(bench: Any, folder: Path, trained: Trained, network: Any) -> Path:
    network_artifact.save(
        folder, network, name="smp", options=bench.OPTIONS, labels=bench.prepared.labels, input_size=(64, 96),
        facts={**trained.facts, "loss": {"name": "kd", "options": {}}, "parents": {}}, last=trained.last,
    )  # fmt: skip
    return folder


@pytest.fixture
def student(bench: Any, tmp_path: Path, falling: None) -> SimpleNamespace:
    """The network artifact of a training whose first validation was the best; and its two sets of weights."""
    task = bench.supervised()
    trained = bench.train(task, tmp_path / "curves", steps=4)
    folder = saved(bench, tmp_path / "student", trained, task.network)
    return SimpleNamespace(path=folder, best=task.network.state_dict(), last=trained.last)


def test_an_artifact_has_both_weights(student: SimpleNamespace, tmp_path: Path) -> None:
    best, stored = network_artifact.load(student.path)
    last, _ = network_artifact.load(student.path, weights="last")
    assert equal(best.state_dict(), student.best) and equal(last.state_dict(), student.last)
    assert sorted(stored.meta["files"]) == ["last.safetensors", "weights.safetensors"]
    for weights, miou in (("best", 50.0), ("last", 49.0)):
        network_artifact.copy(student.path, tmp_path / weights, weights=weights)  # type: ignore[arg-type]
        network, copied = network_artifact.load(tmp_path / weights)
        assert equal(network.state_dict(), getattr(student, weights)) and list(copied.meta["files"]) == [
            "weights.safetensors"
        ]
        assert (copied.meta["weights"], copied.meta["metrics"]["val"]["miou"]) == (weights, miou)


@pytest.mark.usefixtures("rising")
def test_weights_that_are_best_and_last_are_stored_once(bench: Any, tmp_path: Path) -> None:
    task = bench.supervised()
    trained = bench.train(task, tmp_path / "curves", steps=2)
    folder = saved(bench, tmp_path / "student", trained, task.network)
    last, stored = network_artifact.load(folder, weights="last")
    assert list(stored.meta["files"]) == ["weights.safetensors"] and equal(last.state_dict(), task.network.state_dict())


def test_an_artifact_of_an_earlier_version_has_only_its_best_weights(bench: Any, tmp_path: Path) -> None:
    network_artifact.save(
        tmp_path / "old", bench.network(), name="smp", options=bench.OPTIONS, labels=bench.prepared.labels,
        input_size=(64, 96), facts={"best_step": 2, "metrics": {"val": {"miou": 50.0}}},
    )  # fmt: skip
    network_artifact.copy(tmp_path / "old", tmp_path / "best", weights="best")
    with pytest.raises(
        UserError, match=r"old: has no weights of its last step: .* dvc repro -f distill, or choose exp"
    ):
        network_artifact.copy(tmp_path / "old", tmp_path / "last", weights="last")
    assert not (tmp_path / "last").exists()


def test_check_measures_the_weights_that_were_exported(student: SimpleNamespace) -> None:
    like: Any = SimpleNamespace(input_size=(64, 96), output_size=(64, 96))
    for weights, file in (("best", "weights.safetensors"), ("last", "last.safetensors")):
        variant, about = checking._by_torch(student.path, like, weights=weights, split="val")  # type: ignore[arg-type]
        reached = {"best": {"step": 2, "miou": 50.0}, "last": {"step": 4, "miou": 49.0}}
        assert about["weights"] == {"exported": weights, **reached}
        assert variant.facts["sha256"] == artifact.sha256(student.path / file)
    assert checking._by_torch(student.path, like, weights="best", split="test")[1]["weights"] == {"exported": "best"}


def test_graphs_say_which_weights_they_have(student: SimpleNamespace, tmp_path: Path) -> None:
    network_artifact.copy(student.path, tmp_path / "final", weights="last")
    meta = artifact.load(tmp_path / "final", kind="network").meta
    assert deploy_facts(meta, output_size=(64, 96), precision="fp32")["weights"] == "last"


@pytest.mark.parametrize("weights", ["best", "last"])
def test_the_stage_takes_the_weights_of_params_yaml(
    student: SimpleNamespace, tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    yaml = YAML()
    raw = yaml.load(ROOT / "params.yaml")
    raw["students"]["kd"]["export"] = weights
    yaml.dump(raw, tmp_path / "params.yaml")
    places = {"student": student.path, "out": tmp_path / "final", "params": tmp_path / "params.yaml"}
    others = dict.fromkeys(("teacher", "loss", "dataset", "checkpoints"), tmp_path / "none")
    arguments = [text for name, place in {**places, **others}.items() for text in (f"--{name}", str(place))]
    monkeypatch.setattr(sys, "argv", ["qat.py", "--name", "kd", *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "stages/qat.py"), run_name="__main__")
    assert not ended.value.code
    network, _ = network_artifact.load(tmp_path / "final")
    assert equal(network.state_dict(), getattr(student, weights))
