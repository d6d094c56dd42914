"""Training runs: reproducible to the bit, the teacher untouched, artifacts whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline import losses, models
from pipeline.errors import UserError
from pipeline.export.torch_engine import TorchEngine
from pipeline.models import SegNetwork
from pipeline.prepared import Prepared
from pipeline.training import network_artifact
from pipeline.training.costs import Costs
from pipeline.training.distillation import DistillationTask
from pipeline.training.fit import check_finite, fit, poly_with_warmup
from pipeline.training.run import train
from pipeline.training.seeding import seed_everything
from pipeline.training.tasks import SupervisedTask

OPTIONS = {
    "architecture": "fpn",
    "encoder": "tu-tf_mobilenetv3_small_minimal_100",
    "options": {"decoder_pyramid_channels": 16, "decoder_segmentation_channels": 32},
}
#: Options that fit a loss to deepest features of 2 x 3; every other loss runs with its defaults.
LOSS_OPTIONS: dict[str, dict[str, Any]] = {"af_dcd": {"pool": 1, "patch": 2}}
SCHEDULE: dict[str, Any] = {
    "optimizer": "adamw",
    "lr": 2e-3,
    "weight_decay": 1e-2,
    "power": 0.9,
    "warmup": 1,
    "validate_every": 2,
    "precision": "fp32",
}


def network(prepared: Prepared, seed: int = 0) -> SegNetwork:
    seed_everything(seed)
    return models.build("smp", OPTIONS, num_classes=prepared.labels.num_classes)


def offered(student: SegNetwork, teacher: SegNetwork) -> dict[str, Any]:
    """What a run offers to its losses."""
    facts = {**student.facts.offered("student"), **teacher.facts.offered("teacher")}
    return {**facts, "num_classes": 11, "ignore_index": 255, "steps": 4}


def distillation(prepared: Prepared, loss: str) -> DistillationTask:
    teacher, student = network(prepared, seed=1), network(prepared, seed=0)
    facts = offered(student, teacher)
    return DistillationTask(student, teacher, losses.build(loss, LOSS_OPTIONS.get(loss, {}), **facts), ignore_index=255)


def run(task: SupervisedTask, prepared: Prepared, curves: Path, **options: Any) -> dict[str, Any]:
    return costed(task, prepared, curves, **options)[0]


def costed(
    task: SupervisedTask, prepared: Prepared, curves: Path, *, steps: int = 4, **changes: Any
) -> tuple[dict[str, Any], Costs]:
    settings = {**SCHEDULE, **changes}
    return train(
        task,
        prepared=prepared,
        input_size=(64, 96),
        crop=None,
        scale=(0.75, 1.5),
        batch_size=4,
        workers=0,
        steps=steps,
        seed=0,
        curves=curves,
        title="test",
        **settings,
    )


@pytest.mark.parametrize("loss", losses.available())
def test_same_seed_gives_the_same_bits(prepared: Prepared, tmp_path: Path, loss: str) -> None:
    tasks = [distillation(prepared, loss) for _ in range(2)]
    facts = [run(task, prepared, tmp_path / str(index)) for index, task in enumerate(tasks)]
    assert facts[0] == facts[1]
    states = [task.network.state_dict() for task in tasks]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    curves = [sorted((tmp_path / str(i)).rglob("*.tsv")) for i in range(2)]
    assert curves[0] and all(a.read_bytes() == b.read_bytes() for a, b in zip(*curves, strict=True))


def test_training_learns_and_keeps_the_best_weights(prepared: Prepared, tmp_path: Path) -> None:
    task = SupervisedTask(network(prepared), ignore_index=255)
    facts = run(task, prepared, tmp_path, steps=12, lr=5e-3)
    losses_seen = [float(line.split("\t")[1]) for line in next(tmp_path.rglob("loss.tsv")).read_text().splitlines()[1:]]
    assert len(losses_seen) == 12 and sum(losses_seen[-3:]) < sum(losses_seen[:3])
    best = max(float(line.split("\t")[1]) for line in next(tmp_path.rglob("miou.tsv")).read_text().splitlines()[1:])
    assert facts["metrics"]["val"]["miou"] == pytest.approx(best)


def test_costs_are_of_the_training_steps_alone(prepared: Prepared, tmp_path: Path) -> None:
    _, costs = costed(distillation(prepared, "kd"), prepared, tmp_path, steps=12)
    assert len(costs.seconds) == 12 and min(costs.seconds) > 0 and costs.peak_memory_mib >= 0
    assert costs.seconds_per_step == pytest.approx(sum(costs.seconds[10:]) / 2)
    meta = costs.to_meta()
    assert meta["training_seconds"] == pytest.approx(sum(costs.seconds), abs=1e-3) and "cpu" in str(meta["device"])
    assert Costs(seconds=(3.0, 1.0, 2.0), peak_memory_mib=0.0, device="cpu").seconds_per_step == 2.0


def test_the_teacher_stays_frozen_and_outside(prepared: Prepared, tmp_path: Path) -> None:
    task = distillation(prepared, "fitnet")
    before = {key: value.clone() for key, value in task.teacher.state_dict().items()}
    adapter = task.loss.adapter.weight.detach().clone()  # type: ignore[union-attr]
    run(task, prepared, tmp_path, steps=2)
    task.train()
    assert not task.teacher.training
    assert all(torch.equal(value, before[key]) for key, value in task.teacher.state_dict().items())
    assert not torch.equal(adapter, task.loss.adapter.weight)  # type: ignore[union-attr]
    assert not any("teacher" in key for key in task.state_dict())
    assert not any(parameter.requires_grad for parameter in task.teacher.parameters())


def test_networks_and_losses_run_once_a_step(prepared: Prepared) -> None:
    """With three losses that read the teacher: one forward of each network and loss, no gradient to the teacher."""
    student, teacher = network(prepared, seed=0), network(prepared, seed=1)
    loss = losses.build_all({"kd": {}, "cirkd": {}, "fitnet": {}}, **offered(student, teacher))
    task = DistillationTask(student, teacher, loss, ignore_index=255)
    calls: list[str] = []
    watched = {"student": student, "teacher": teacher, **dict(loss.parts.named_children())}  # type: ignore[union-attr]
    for name, module in watched.items():
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    task.train()
    for _ in range(2):
        terms = task(torch.randn(2, 3, 64, 96), torch.zeros(2, 64, 96, dtype=torch.int64))
        terms["loss"].backward()
        assert sorted(calls) == ["cirkd", "fitnet", "kd", "student", "teacher"]
        calls.clear()
    assert {"kd", "fitnet", "cirkd_batch", "cirkd_pixel", "cirkd_region"} < set(terms)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_teacher_of_another_stride_is_resized_once(prepared: Prepared) -> None:
    student, teacher = (
        network(prepared),
        models.build("smp", {"architecture": "unet", "encoder": "resnet18"}, num_classes=11),
    )
    facts = offered(student, teacher)
    assert student.facts.output_stride != teacher.facts.output_stride
    for loss in losses.available():
        task = DistillationTask(
            student, teacher, losses.build(loss, LOSS_OPTIONS.get(loss, {}), **facts), ignore_index=255
        )
        terms = task(torch.randn(2, 3, 64, 96), torch.zeros(2, 64, 96, dtype=torch.int64))
        assert bool(torch.isfinite(terms["loss"]))
        assert float(terms["loss"]) == pytest.approx(sum(float(v) for k, v in terms.items() if k != "loss"), rel=1e-5)


def test_all_ignored_is_a_connected_zero(prepared: Prepared) -> None:
    task = SupervisedTask(network(prepared), ignore_index=255)
    terms = task(torch.randn(2, 3, 64, 96), torch.full((2, 64, 96), 255))
    terms["loss"].backward()
    assert float(terms["loss"]) == 0.0


def test_a_loss_that_is_not_finite_stops_with_its_terms() -> None:
    terms = {"loss": torch.tensor(float("nan")), "ce": torch.tensor(1.5), "kd": torch.tensor(float("nan"))}
    with pytest.raises(UserError, match=r"not finite at step 7 \(.*ce 1.5, kd nan\)"):
        check_finite(terms, 7)


def test_poly_schedule_against_its_formula() -> None:
    factors = [poly_with_warmup(step, steps=100, warmup=0, power=0.9) for step in range(100)]
    assert factors == pytest.approx([(1 - step / 100) ** 0.9 for step in range(100)])


def test_interruption_leaves_no_artifact(prepared: Prepared, tmp_path: Path) -> None:
    task = SupervisedTask(network(prepared), ignore_index=255)

    def interrupted() -> Any:
        yield torch.randn(2, 3, 64, 96), torch.zeros(2, 64, 96, dtype=torch.int64)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(
            task,
            interrupted(),
            validate=lambda: {"miou": 1.0},
            curves=tmp_path / "curves",
            steps=9,
            title="t",
            **SCHEDULE,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["curves"]


def test_network_artifact_round_trip(prepared: Prepared, tmp_path: Path) -> None:
    saved = network(prepared).eval()
    options = {**OPTIONS, "encoder_weights": None, "allow_missing": ["x"]}
    for name in ("a", "b"):
        network_artifact.save(
            tmp_path / name,
            saved,
            name="smp",
            options=options,
            labels=prepared.labels,
            input_size=(64, 96),
            facts={"metrics": {}},
        )
    loaded, found = network_artifact.load(tmp_path / "a")
    x: Tensor = torch.randn(1, 3, 64, 96)
    assert torch.equal(saved(x).logits, loaded(x).logits)
    assert found.meta["model"]["options"] == OPTIONS
    assert (tmp_path / "a/meta.json").read_bytes() == (tmp_path / "b/meta.json").read_bytes()


def test_validation_leaves_the_mode_of_the_network(prepared: Prepared) -> None:
    trained = network(prepared).train()
    engine = TorchEngine(trained, input_size=(64, 96), label_stride=2)
    labels = engine.run(prepared.split("val").frame(0)[None])
    assert trained.training and labels.shape == (1, 32, 48) and labels.max() < 11
