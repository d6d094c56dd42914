"""Training runs: equal to the bit, without a change to the teacher, with complete artifacts."""

from __future__ import annotations

import logging
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline import losses, models
from pipeline.export.torch_engine import TorchEngine
from pipeline.models.weights import network_artifact
from pipeline.training.costs import Costs
from pipeline.training.distillation import DistillationTask
from pipeline.training.fit import fit
from pipeline.training.learner import Learner
from pipeline.training.processes import accelerator


def frames() -> Tensor:
    return torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def column(file: Path) -> list[float]:
    return [float(line.split("\t")[1]) for line in file.read_text().splitlines()[1:]]


@pytest.mark.parametrize("loss", losses.available())
def test_same_seed_gives_the_same_bits(bench: Any, tmp_path: Path, loss: str) -> None:
    tasks = [bench.distillation(loss) for _ in range(2)]
    facts = [bench.train(task, tmp_path / str(index), steps=2).facts for index, task in enumerate(tasks)]
    assert facts[0] == facts[1]
    states = [task.network.state_dict() for task in tasks]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    curves = [sorted((tmp_path / str(i)).rglob("*.tsv")) for i in range(2)]
    assert curves[0] and all(a.read_bytes() == b.read_bytes() for a, b in zip(*curves, strict=True))


def test_training_learns_and_keeps_the_best_weights(bench: Any, tmp_path: Path) -> None:
    facts = bench.train(bench.supervised(), tmp_path, steps=12, lr=5e-3).facts
    losses_seen = column(next(tmp_path.rglob("loss.tsv")))
    assert len(losses_seen) == 12 and sum(losses_seen[-3:]) < 0.7 * sum(losses_seen[:3]), "measured 0.49"
    assert sum(losses_seen[-3:]) / 3 < math.log(11), "equal shares of all classes would cost as much; measured 2.15"
    assert facts["metrics"]["val"]["miou"] > 100 / 11, "one class everywhere gets less; measured 13.1"
    assert facts["metrics"]["val"]["miou"] == pytest.approx(max(column(next(tmp_path.rglob("miou.tsv")))))


def test_costs_cover_the_training_steps_only(bench: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    costs = bench.train(bench.distillation("kd"), tmp_path, steps=12, estimated=True).costs
    assert "memory of training, 4 crops of 64x96, fp32, in MiB:" in caplog.text
    assert re.search(r"peak memory of training: \d+ MiB, estimated \d+$", caplog.text, flags=re.MULTILINE)
    assert len(costs.seconds) == 12 and min(costs.seconds) > 0 and costs.peak_memory_mib >= 0
    assert costs.seconds_per_step == pytest.approx(sum(costs.seconds[10:]) / 2)
    meta = costs.to_meta()
    assert meta["training_seconds"] == pytest.approx(sum(costs.seconds), abs=1e-3) and "cpu" in str(meta["device"])
    assert Costs(seconds=(3.0, 1.0, 2.0), peak_memory_mib=0.0, device="cpu").seconds_per_step == 2.0


def test_the_teacher_stays_frozen_and_outside(bench: Any, tmp_path: Path) -> None:
    task = bench.distillation("fitnet")
    before = {key: value.clone() for key, value in task.teacher.state_dict().items()}
    adapter = task.loss.adapter.weight.detach().clone()
    bench.train(task, tmp_path, steps=2)
    task.train()
    assert not task.teacher.training
    assert all(torch.equal(value, before[key]) for key, value in task.teacher.state_dict().items())
    assert not torch.equal(adapter, task.loss.adapter.weight)
    assert not any("teacher" in key for key in task.state_dict())
    assert not any(parameter.requires_grad for parameter in task.teacher.parameters())


def test_networks_and_losses_run_once_per_step(bench: Any) -> None:
    """With three losses that read the teacher: one forward of each network and loss, no gradient to the teacher."""
    student, teacher = bench.network(seed=0), bench.network(seed=1)
    loss = losses.build_all({"kd": {}, "cirkd": {}, "fitnet": {}}, **bench.offered(student, teacher))
    task = DistillationTask(student, teacher, loss, ignore_index=255)
    calls: list[str] = []
    watched = {"student": student, "teacher": teacher, **dict(loss.parts.named_children())}  # type: ignore[union-attr]
    for name, module in watched.items():
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    task.train()
    for _ in range(2):
        terms = task(frames(), torch.zeros(2, 64, 96, dtype=torch.int64))
        terms["loss"].backward()
        assert sorted(calls) == ["cirkd", "fitnet", "kd", "student", "teacher"]
        calls.clear()
    assert {"kd", "fitnet", "cirkd_batch", "cirkd_pixel", "cirkd_region"} < set(terms)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_teacher_of_another_stride_is_resized_once(bench: Any) -> None:
    student = bench.network()
    teacher = models.build("smp", {"architecture": "unet", "encoder": "resnet18"}, num_classes=11)
    assert student.facts.output_stride != teacher.facts.output_stride
    for loss in losses.available():
        task = DistillationTask(student, teacher, bench.loss(loss, student, teacher), ignore_index=255)
        terms = task(frames(), torch.zeros(2, 64, 96, dtype=torch.int64))
        assert bool(torch.isfinite(terms["loss"]))
        parts = {name: float(value.detach()) for name, value in terms.items() if "/" not in name}
        assert parts.pop("loss") == pytest.approx(sum(parts.values()), rel=1e-5)


def test_all_ignored_is_a_connected_zero(bench: Any) -> None:
    terms = bench.supervised()(frames(), torch.full((2, 64, 96), 255))
    terms["loss"].backward()
    assert float(terms["loss"].detach()) == 0.0


@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_is_that_of_torch(bench: Any, weighted: bool) -> None:
    task = bench.supervised()
    task.class_weights = torch.rand(11) if weighted else None
    logits, target = torch.randn(2, 11, 4, 6, dtype=torch.float64), torch.randint(0, 11, (2, 16, 24))
    target[0, :9] = 255
    upsampled = torch.nn.functional.interpolate(logits.float(), size=(16, 24), mode="bilinear", align_corners=False)
    expected = torch.nn.functional.cross_entropy(upsampled, target, weight=task.class_weights, ignore_index=255)
    assert float(task.cross_entropy(logits, target, task.weight(target))) == pytest.approx(float(expected), rel=1e-6)


def test_interruption_leaves_no_artifact(bench: Any, tmp_path: Path) -> None:
    def interrupted(done: int) -> Any:
        yield frames(), torch.zeros(2, 64, 96, dtype=torch.int64), torch.tensor([0, 1])
        raise KeyboardInterrupt

    settings = replace(bench.SETTINGS, steps=9)
    learner = Learner(bench.supervised(), settings, accelerator=accelerator(precision="fp32"), images=2)
    with pytest.raises(KeyboardInterrupt):
        fit(
            learner, interrupted, validate=lambda network: {"miou": 1.0}, name_of=str, curves=tmp_path / "curves",
            checkpoints=None, title="t",
        )  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["curves"]


def test_network_artifact_round_trip(bench: Any, tmp_path: Path) -> None:
    saved = bench.network().eval()
    options = {**bench.OPTIONS, "encoder_weights": None, "allow_missing": ["x"]}
    for name in ("a", "b"):
        network_artifact.save(
            tmp_path / name,
            saved,
            name="smp",
            options=options,
            labels=bench.prepared.labels,
            input_size=(64, 96),
            facts={"metrics": {}},
        )
    loaded, stored = network_artifact.load(tmp_path / "a")
    image: Tensor = torch.randn(1, 3, 64, 96)
    assert torch.equal(saved(image).logits, loaded(image).logits)
    assert stored.meta["model"]["options"] == bench.OPTIONS
    assert (tmp_path / "a/meta.json").read_bytes() == (tmp_path / "b/meta.json").read_bytes()


def test_validation_leaves_the_mode_of_the_network(bench: Any) -> None:
    trained = bench.network().train()
    engine = TorchEngine(trained, input_size=(64, 96), label_stride=2)
    labels = engine.run(bench.prepared.split("val").frame(0)[None])
    assert trained.training and labels.shape == (1, 32, 48) and labels.max() < 11
