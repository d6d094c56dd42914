"""Stage 0: the encoder learns the teacher's features whatever their scale, then the task starts; both resume."""

from __future__ import annotations

import copy
import json
import logging
import runpy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from ruamel.yaml import YAML

from pipeline import artifact
from pipeline.errors import UserError
from pipeline.models import SegOutput
from pipeline.models.weights import network_artifact
from pipeline.settings import loss_mixture
from pipeline.settings.training_params import Model, Stage0
from pipeline.training import run, stage0
from pipeline.training.stage0 import StandardisedFeatures

ROOT = Path(__file__).parents[2]


def outputs(stages: list[torch.Tensor]) -> SegOutput:
    return SegOutput(logits=torch.zeros(1), embedding=torch.zeros(1), stages=stages)


def test_the_value_is_the_unexplained_share_at_any_scale() -> None:
    torch.manual_seed(0)
    student = outputs([torch.randn(2, channels, size, size) for channels, size in ((3, 16), (4, 8), (5, 4), (6, 2))])
    teacher = [torch.randn(2, channels, size, size) for channels, size in ((7, 32), (8, 8), (9, 4), (10, 4))]
    loss = StandardisedFeatures(student_stage_channels=(3, 4, 5, 6), teacher_stage_channels=(7, 8, 9, 10))
    assert len(loss.adapters) == 3, "the deepest ones"
    gradients, initial = [], copy.deepcopy(loss.state_dict())
    for factor in (1.0, 1000.0):
        loss = StandardisedFeatures(student_stage_channels=(3, 4, 5, 6), teacher_stage_channels=(7, 8, 9, 10))
        loss.load_state_dict(initial)
        value = loss(student, outputs([factor * stage for stage in teacher]), torch.zeros(2, 32, 32))["features"]
        value.backward()
        gradients.append([parameter.grad for parameter in loss.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)
    loss.load_state_dict(initial)
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.zero_()
        value = loss(student, outputs(teacher), torch.zeros(2, 32, 32))["features"]
    assert float(value) == pytest.approx(1.0, abs=2e-3), "a student that knows only the mean explains nothing"


@pytest.fixture
def start(bench: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """``training.run.train`` on the data of the tests, without an estimate of the memory."""
    monkeypatch.setattr(run, "estimate", mock.Mock(side_effect=UserError("not estimated in this test")))
    return partial(run.train, prepared=bench.prepared, checkpoint_seconds=0.0)


def learn(start: Callable[..., Any], task: Any, settings: Any, folder: Path, **options: Any) -> Any:
    places = {"curves": folder / "curves", "checkpoints": folder / "kept"}
    steps, teacher = options.get("steps", 6), options.get("teacher", task.teacher)
    return stage0.learn(start, task, settings, teacher=teacher, steps=steps, inputs={}, title="kd", **places)


def test_the_encoder_learns_and_the_head_stays(bench: Any, start: Callable[..., Any], tmp_path: Path) -> None:
    task = bench.distillation("kd")
    before = {name: value.detach().clone() for name, value in task.network.named_parameters()}
    inside = {id(parameter) for parameter in task.network.encoder.parameters()}
    (trained,) = learn(start, task, bench.SETTINGS, tmp_path, steps=12)
    for name, parameter in task.network.named_parameters():
        assert torch.equal(parameter, before[name]) == (id(parameter) not in inside), name
        assert parameter.requires_grad
    curve = tmp_path / "curves/stage0/plots/metrics/train/features.tsv"
    values = [float(line.split("\t")[1]) for line in curve.read_text().splitlines()[1:]]
    assert len(values) == 12 and sum(values[-3:]) < 0.9 * sum(values[:3])
    assert not list(tmp_path.rglob("miou.tsv")) and not list(tmp_path.rglob("ce.tsv"))
    assert trained.facts["metrics"] == {} and len(trained.costs.seconds) == 12
    costs = stage0.costs([trained], [], trained)
    assert costs["stage0_seconds"] == pytest.approx(sum(trained.costs.seconds), abs=1e-3)
    assert costs["training_seconds"] == pytest.approx(2 * costs["stage0_seconds"], abs=2e-3)


def test_without_steps_nothing_happens_and_a_frozen_encoder_is_refused(bench: Any, tmp_path: Path) -> None:
    task, never = bench.distillation("kd"), mock.Mock()
    assert learn(never, task, bench.SETTINGS, tmp_path, steps=0) == [] and not list(tmp_path.iterdir())
    frozen = replace(bench.SETTINGS, lr_factors={"encoder": 0.0, "head": 1.0, "loss": 1.0})
    with pytest.raises(
        UserError, match=r"distill.stage0.steps: got 6, .*student kd does not learn: .*lr_factors.encoder is"
    ):
        learn(never, task, frozen, tmp_path)
    never.assert_not_called()


def test_features_of_another_network_than_the_teacher(bench: Any, start: Callable[..., Any], tmp_path: Path) -> None:
    """They are what a run learns whose teacher is that network; the teacher of the task stays."""
    network_artifact.save(
        tmp_path / "other", bench.network(seed=5), name="smp", options=bench.OPTIONS, labels=bench.prepared.labels,
        input_size=(64, 96), facts={},
    )  # fmt: skip
    model = Model.model_validate({"name": "smp", **bench.OPTIONS, "weights": str(tmp_path / "other")})
    task, twin = bench.distillation("kd"), bench.distillation("kd")
    before = copy.deepcopy(task.teacher.state_dict())
    other, facts = stage0.source(task, Stage0(steps=3, model=model), labels=bench.prepared.labels)
    assert facts["model"]["weights"] == str(tmp_path / "other") and facts["initial_weights"]["sha256"]
    learn(start, task, bench.SETTINGS, tmp_path / "a", steps=3, teacher=other)
    learn(start, twin, bench.SETTINGS, tmp_path / "b", steps=3, teacher=bench.network(seed=5))
    for name, value in task.network.state_dict().items():
        assert torch.equal(value, twin.network.state_dict()[name]), name
    assert all(torch.equal(value, task.teacher.state_dict()[name]) for name, value in before.items())


def test_a_network_with_random_weights_teaches_no_features(bench: Any) -> None:
    recipe = Stage0(steps=3, model=Model.model_validate({"name": "smp", **bench.OPTIONS}))
    with pytest.raises(UserError, match=r"distill.stage0.model: its weights are random.*encoder_weights"):
        stage0.source(bench.distillation("kd"), recipe, labels=bench.prepared.labels)


@pytest.mark.parametrize("steps", [3, 8])
def test_an_interruption_in_stage_0_or_in_the_task_changes_no_bit(
    bench: Any, start: Callable[..., Any], tmp_path: Path, steps: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Stage 0 has 6 steps, the task 4; the interruption is in the step after ``steps``."""

    def whole_run(task: Any, folder: Path) -> Any:
        before = learn(start, task, bench.SETTINGS, folder)
        places = {"curves": folder / "curves", "checkpoints": folder / "kept"}
        return [*before, start(task, bench.SETTINGS, inputs={"stage0": 6}, title="kd", **places)]

    whole, cut, resumed = (bench.distillation("kd") for _ in range(3))
    expected = whole_run(whole, tmp_path / "whole")
    with bench.interrupted(cut, after=steps), pytest.raises(KeyboardInterrupt):
        whole_run(cut, tmp_path / "cut")
    caplog.set_level(logging.INFO)
    results = whole_run(resumed, tmp_path / "cut")
    assert [line for line in caplog.messages if line.startswith("resuming")] == [
        f"resuming after step {step}" for step in ([3] if steps == 3 else [6, 2])
    ]
    assert "is another run" not in caplog.text
    assert results[-1].facts == expected[-1].facts
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    for each in results:
        each.finish()
    assert not (tmp_path / "cut/kept").exists()


def test_the_stage_with_stage_0_views_and_two_teachers(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seed in (("t", 1), ("t2", 2)):
        network_artifact.save(
            tmp_path / name, bench.network(seed=seed), name="smp", options=bench.OPTIONS, labels=bench.prepared.labels,
            input_size=(64, 96), facts={},
        )  # fmt: skip
    raw = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    raw["input_size"] = [64, 96]
    raw["distill"] |= {"steps": 2, "validate_every": 2, "warmup": 1, "stage0": {"steps": 3}}
    raw["distill"]["teaching"] = {"flip": True, "scales": [1.0], "others": ["t2"]}
    raw["students"] = {"kd": {"model": {"name": "smp", **bench.OPTIONS}, "loss": "kd"}}
    monkeypatch.chdir(tmp_path)
    with Path("params.yaml").open("w") as stream:
        YAML().dump(raw, stream)
    artifact.write_text(Path("loss.json"), json.dumps({"loss": loss_mixture.facts({"kd": {"weight": "auto"}})}))
    arguments = ["--student", "kd", "--dataset", str(bench.prepared.artifact.path), "--teacher", "t"]
    arguments += ["--loss", "loss.json", "--curves", "c", "--costs", "costs.json", "--checkpoints", "k", "--out", "s"]
    monkeypatch.setattr("sys.argv", ["distill.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "stages/distill.py"), run_name="__main__")
    assert not ended.value.code
    meta = artifact.load(Path("s"), kind="network").meta
    assert meta["loss"]["weights"].keys() == {"kd"} and meta["loss"]["weights"]["kd"] > 0
    assert Path("c/plots/metrics/train/weight/kd.tsv").is_file()
    parents = meta["parents"]
    assert parents["teacher"] == artifact.load(Path("t"), kind="network").hash
    assert parents["teacher_2"] == artifact.load(Path("t2"), kind="network").hash
    costs = json.loads(Path("costs.json").read_text())
    assert meta["stage0"] == {"steps": 3, "model": None}
    assert costs["teacher_passes"] == 4 and 0 < costs["stage0_seconds"] < costs["training_seconds"]
    assert Path("c/stage0/plots/metrics/train/features.tsv").is_file()
    assert Path("c/plots/metrics/train/kd.tsv").is_file() and not Path("k").exists()
