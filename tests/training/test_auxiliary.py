"""Auxiliary logits in the loss: cross-entropy of weight 0.4, and terms of losses that compare them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pipeline import losses, models
from pipeline.models import SegNetwork
from pipeline.quantization.simulated import Roundings, SimulatedNetwork
from pipeline.training.conflicts import warn_of_missing_auxiliary
from pipeline.training.distillation import DistillationTask
from pipeline.training.seeding import seed_everything
from pipeline.training.tasks import SupervisedTask
from pipeline.training.teachers import Teachers

DILATED: dict[str, Any] = {
    "architecture": "deeplabv3",
    "encoder": "resnet18",
    "options": {"encoder_output_stride": 8, "decoder_channels": 16},
}


def network(bench: Any, seed: int = 0, **options: Any) -> SegNetwork:
    seed_everything(seed)
    return models.build("smp", {**bench.OPTIONS, **options}, num_classes=11)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (2, 3, 64, 96), generator=generator, dtype=torch.uint8)
    return frames, torch.randint(0, 11, (2, 64, 96), generator=generator)


def distilling(bench: Any, student: SegNetwork, teacher: SegNetwork, loss: str, **options: Any) -> DistillationTask:
    return DistillationTask(student, teacher, bench.loss(loss, student, teacher, **options), ignore_index=255)


def test_its_cross_entropy_counts_two_fifths_and_reaches_the_encoder(bench: Any) -> None:
    task = SupervisedTask(network(bench, aux_loss=True), ignore_index=255)
    frames, target = batch()
    seed_everything(0)
    terms = task(frames, target)
    seed_everything(0)
    aux = task.predict(frames, None).aux
    assert aux is not None
    upsampled = F.interpolate(aux, size=(64, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(terms["aux"], 0.4 * F.cross_entropy(upsampled, target))
    torch.testing.assert_close(terms["loss"], terms["ce"] + terms["aux"])
    assert task.network.encoder is not None
    weight = next(task.network.encoder.parameters())
    (gradient,) = torch.autograd.grad(terms["aux"], weight)
    assert float(gradient.abs().max()) > 0
    assert set(task.eval()(frames, target)) == {"loss", "ce"}


@pytest.mark.parametrize("of_student", [{}, DILATED], ids=["equal strides", "other stride"])
def test_dist_compares_the_auxiliary_logits_of_both(bench: Any, of_student: dict[str, Any]) -> None:
    student, teacher = network(bench, 0, aux_loss=True, **of_student), network(bench, 1, aux_loss=True)
    task = distilling(bench, student, teacher, "dist")
    frames, target = batch()
    seed_everything(0)
    terms = task(frames, target)
    assert set(terms) == {"loss", "ce", "aux", "dist_inter", "dist_intra", "dist_aux"} and not teacher.training
    seed_everything(0)
    ours = task.predict(frames, None).aux
    with torch.no_grad():
        theirs = teacher(task.normalise_for_teacher(frames, None)).aux
    assert ours is not None
    theirs = F.interpolate(theirs, size=ours.shape[-2:], mode="bilinear", align_corners=False)
    plain = losses.build("dist", {})
    output = models.SegOutput(logits=ours, embedding=ours)
    expected = sum(plain(output, models.SegOutput(logits=theirs, embedding=theirs), target).values())
    torch.testing.assert_close(terms["dist_aux"], 0.4 * expected)


def test_without_both_heads_dist_has_no_auxiliary_term(bench: Any, caplog: pytest.LogCaptureFixture) -> None:
    """With one head this is a warning."""
    for ours, theirs in ((True, False), (False, True), (False, False)):
        task = distilling(bench, network(bench, 0, aux_loss=ours), network(bench, 1, aux_loss=theirs), "dist")
        assert "dist_inter" in (terms := task(*batch())) and "dist_aux" not in terms
        caplog.clear()
        warn_of_missing_auxiliary(task.loss, student=task.network, teacher=task.teacher)
        warn_of_missing_auxiliary(
            bench.loss("kd", task.network, task.teacher), student=task.network, teacher=task.teacher
        )
        assert len(caplog.records) == (ours or theirs)
        if caplog.records:
            assert f"but the {'teacher' if ours else 'student'} has no auxiliary head" in caplog.text


def test_the_head_of_a_teacher_runs_only_for_a_loss_that_compares_it(bench: Any) -> None:
    student, teacher = network(bench, 0, aux_loss=True), network(bench, 1, aux_loss=True)
    calls: list[int] = []
    assert teacher.auxiliary is not None
    teacher.auxiliary.register_forward_hook(lambda *arguments: calls.append(1))
    for loss, count in (("dist", 1), ("kd", 0)):
        calls.clear()
        distilling(bench, student, teacher, loss)(*batch())
        assert len(calls) == count
    both = losses.build_all({"dist": {}, "at": {}}, **bench.offered(student, teacher))
    assert both.uses_auxiliary and not losses.build("at", {}, **bench.offered(student, teacher)).uses_auxiliary


def test_a_task_between_does_not_change_what_the_teacher_returns(bench: Any) -> None:
    """Stage 0 shares the teacher with the task that follows it, and compares no auxiliary logits."""
    student, teacher = network(bench, 0, aux_loss=True), network(bench, 1, aux_loss=True)
    task, other = (distilling(bench, student, teacher, loss) for loss in ("dist", "kd"))
    other(*batch())
    assert "dist_aux" in task(*batch())


def test_of_several_teachers_it_is_the_first_ones(bench: Any) -> None:
    student = network(bench, 0, aux_loss=True)
    first, second = network(bench, 1, aux_loss=True), network(bench, 2, aux_loss=True)
    alone = distilling(bench, student, first, "dist")
    frames, target = batch()
    seed_everything(0)
    expected = alone(frames, target)["dist_aux"].detach()
    together = distilling(bench, student, Teachers([first, second], flip=True), "dist")
    seed_everything(0)
    student_again = together(frames, target)["dist_aux"].detach()
    torch.testing.assert_close(student_again, expected, rtol=1e-3, atol=1e-4)


def test_it_trains_with_simulated_roundings_too(bench: Any) -> None:
    inner = network(bench, 0, aux_loss=True)
    simulated = SimulatedNetwork(inner, Roundings(layers={}, additions=()))
    assert simulated.auxiliary is inner.auxiliary
    task = distilling(bench, simulated, network(bench, 1, aux_loss=True), "dist")
    terms = task.train()(*batch())
    assert "aux" in terms and "dist_aux" in terms
    assert simulated.deployed_parameters == network(bench).deployed_parameters
