"""What frames without labels teach, term by term: targets, cross-entropies and modes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal
from unittest import mock

import pytest
import torch
from torch import Tensor

from pipeline.losses import DistillationLoss
from pipeline.models import SegOutput
from pipeline.prepared import Unlabelled
from pipeline.training import data
from pipeline.training.memory import estimate
from tests.training.conftest import Bench

Modes = Literal["soft", "hard", "both"]
IGNORE, PADDING = 255, 254


class Spy(DistillationLoss):
    """Keeps the targets and outputs that a loss gets."""

    uses_labels = True

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor) -> dict[str, Tensor]:
        self.target, self.student, self.teacher = target, student, teacher
        return {"spy": student.logits.mean()}


@pytest.fixture
def batch(bench: Bench, frames: Unlabelled) -> tuple[Tensor, Tensor, tuple[bool, ...]]:
    """Four crops, the second and the fourth without labels."""
    augment = data.augmentation(
        crop=(96, 128), input_size=(64, 96), scale=(0.75, 1.5), colour=0.5, labels=bench.prepared.labels
    )
    crops = data.Crops(bench.prepared.split("train"), augment, seed=0, unlabelled=frames.split())
    items = [crops[index, 0] for index in (0, 12, 1, 13)]
    targets = torch.stack([item[1] for item in items])
    targets[0, 40:44] = IGNORE  # void pixels of a labelled frame
    return torch.stack([item[0] for item in items]), targets, (False, True, False, True)


def test_targets_of_losses_pixel_by_pixel(bench: Bench, batch: Any) -> None:
    task = bench.labelling("ifvd", "soft")
    task.loss, task.padding = Spy(), PADDING
    x, target, flags = batch
    logits = torch.zeros(4, 11, 24, 32)
    logits[:, 3, :, :16], logits[:, 7, :, 16:] = 9.0, 9.0  # probability above 0.99
    logits[:, :, 5] = 0.0  # and one row is uncertain
    with mock.patch.object(task, "teach", lambda x, student, outputs: replace(student.detach(), logits=logits)):
        task(x, target, unlabelled=flags)
    expected = target.long().masked_fill(target == PADDING, IGNORE)
    cells = torch.full((24, 32), 3)
    cells[:, 16:], cells[5] = 7, IGNORE
    labels = cells.repeat_interleave(4, 0).repeat_interleave(4, 1)  # stride 4
    for image in (1, 3):
        padded = (target[image] == PADDING).view(24, 4, 32, 4).permute(0, 2, 1, 3).flatten(2).any(dim=2)
        assert padded.any() and not padded.all()
        expected[image] = labels.masked_fill(padded.repeat_interleave(4, 0).repeat_interleave(4, 1), IGNORE)
    assert torch.equal(task.loss.target, expected)  # type: ignore[arg-type]
    assert (task.loss.target[0, 40:44] == IGNORE).all(), "void pixels of labelled frames stay void"  # type: ignore[index]


@pytest.mark.parametrize("labels", ["soft", "hard", "both"])
def test_the_cross_entropy_is_that_of_the_labelled_frames_alone(bench: Bench, batch: Any, labels: Modes) -> None:
    task = bench.image_by_image(bench.labelling("kd", labels))
    task.padding, task.unlabelled_share = PADDING, 0.5  # type: ignore[attr-defined]
    task.class_weights = torch.linspace(0.5, 2, 11)
    x, target, flags = batch
    mixed, alone = task(x, target, unlabelled=flags), task(x[::2], target[::2])
    assert float(task.weight(target)) == float(task.weight(target[::2]))
    assert float(mixed["ce"].detach()) == pytest.approx(float(alone["ce"].detach()), rel=1e-6)
    gradients = []
    for terms in (mixed, alone):
        task.zero_grad()
        terms["ce"].backward(retain_graph=True)
        gradients.append(torch.cat([p.grad.flatten() for p in task.network.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    void = target[1::2].long().fill_(IGNORE)
    task.zero_grad()
    task(x[1::2], void, unlabelled=(True, True))["ce"].backward()
    assert all(p.grad is None or not p.grad.any() for p in task.network.parameters()), "no labels, no gradient"


def test_what_each_mode_gives_a_loss_and_the_labels(bench: Bench, batch: Any) -> None:
    x, target, flags = batch
    target = target.masked_fill(target == PADDING, IGNORE)
    terms = {}
    for labels in ("soft", "hard", "both"):
        task = bench.image_by_image(bench.labelling("kd", labels))  # type: ignore[arg-type]
        task.unlabelled_share = 0.5  # type: ignore[attr-defined]
        task.pseudo and task.pseudo.thresholds.fill_(0.2)  # type: ignore[attr-defined,operator,union-attr]
        terms[labels] = {name: float(value.detach()) for name, value in task(x, target, unlabelled=flags).items()}
    every, labelled = (
        float(bench.image_by_image(bench.distillation("kd"))(images, ids)["kd"].detach())
        for images, ids in ((x, target), (x[::2], target[::2]))
    )
    assert set(terms["soft"]) == {"loss", "ce", "kd"} and set(terms["hard"]) == {"loss", "ce", "kd", "pseudo_ce"}
    assert terms["soft"]["kd"] == pytest.approx(every, rel=1e-5) == terms["both"]["kd"]
    assert terms["hard"]["kd"] == pytest.approx(labelled, rel=1e-5) and every != pytest.approx(labelled, rel=1e-3)
    assert terms["hard"]["pseudo_ce"] == pytest.approx(terms["both"]["pseudo_ce"], rel=1e-6)
    with torch.no_grad():  # by plain loops
        student, teacher = task.predict(x, None).logits, task.teach(x, task.predict(x, None)).logits  # type: ignore[attr-defined]
    total = 0.0
    for image in (1, 3):
        for row in range(24):
            for column in range(32):
                p = teacher[image, :, row, column].softmax(0)
                if p.max() >= 0.2:
                    total -= float(student[image, :, row, column].log_softmax(0)[p.argmax()])
    assert terms["both"]["pseudo_ce"] == pytest.approx(total / (2 * 24 * 32), rel=1e-4) and total > 0


@pytest.mark.parametrize("name", ["cirkd", "i2ckd", "idd", "ifvd", "pfs", "kd", "fitnet"])
@pytest.mark.parametrize("labels", ["soft", "hard", "both"])
def test_losses_with_and_without_labels(bench: Bench, batch: Any, name: str, labels: Modes) -> None:
    x, target, flags = batch
    task = bench.labelling(name, labels)
    task.padding, task.unlabelled_share = PADDING, 0.5
    torch.manual_seed(0)
    if task.pseudo is not None:
        task.pseudo.thresholds.fill_(0.15)
    terms = task(x, target, unlabelled=flags)
    terms["loss"].backward()
    assert terms["loss"].isfinite() and ("pseudo_ce" in terms) == (labels != "soft")
    nothing = bench.labelling(name, labels)
    nothing.padding, nothing.unlabelled_share = PADDING, 0.5
    torch.manual_seed(0)
    if nothing.pseudo is not None:
        nothing.pseudo.thresholds.fill_(1.1)  # nobody is that sure
    other = nothing(x, target, unlabelled=flags)
    own = [term for term in terms if term.startswith(name)]
    changed = any(not torch.equal(terms[term], other[term]) for term in own)
    assert own and changed == (task.loss.uses_labels and labels != "hard"), "labels reach the losses that use them"
    assert labels == "soft" or (other["pseudo_ce"] == 0 and terms["pseudo_ce"] > 0)


def test_the_student_alone_learns_from_hard_labels(bench: Bench, batch: Any) -> None:
    x, target, flags = batch
    task = bench.labelling("none", "hard")
    task.padding, task.unlabelled_share = PADDING, 0.5
    assert task.teacher_runs and not bench.labelling("none", "soft").teacher_runs
    assert task.pseudo is not None
    task.pseudo.thresholds.fill_(0.15)
    assert float(task(x, target, unlabelled=flags)["pseudo_ce"].detach()) > 0
    task.label_with(task.network)
    assert not task.teacher_runs, "from the second round on its student labels"
    with mock.patch.object(task.teacher, "forward", mock.Mock(side_effect=AssertionError)):
        task(x, target, unlabelled=flags)


def test_networks_that_label_count_in_the_estimate_of_the_memory(bench: Bench) -> None:
    network = bench.network()
    weights = sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
    task = bench.labelling("none", "hard")
    parts = estimate(task, shape=(2, 64, 96), optimizer="sgd").parts
    assert parts["teacher"] == weights and "labelling network" not in parts
    task.label_with(task.network)
    parts = estimate(task, shape=(2, 64, 96), optimizer="sgd").parts
    assert parts["labelling network"] == weights and "teacher" not in parts


@pytest.mark.parametrize("labels", ["soft", "hard", "both"])
def test_labels_stay_when_the_terms_of_the_loss_have_ended(bench: Bench, batch: Any, labels: Modes) -> None:
    x, target, flags = batch
    task = bench.labelling("kd", labels)
    task.padding, task.unlabelled_share, task.balance.until = PADDING, 0.5, 0.0
    runs = mock.Mock(wraps=task.teacher.forward)
    with mock.patch.object(task.teacher, "forward", runs):
        terms = task(x, target, unlabelled=flags)
    assert set(terms) == {"loss", "ce"} | ({"pseudo_ce"} if labels != "soft" else set())
    assert runs.called == (labels != "soft")
    runs.reset_mock()
    task.label_with(task.network)
    with mock.patch.object(task.teacher, "forward", runs):
        task(x, target, unlabelled=flags)
    assert not runs.called, "from the second round on its student labels"


def test_auto_weights_are_measured_against_the_labels_alone(bench: Bench, batch: Any) -> None:
    """The reference of a weight is the cross-entropy with labels, not that with the teacher's predictions."""
    x, target, flags = batch
    fits = []
    for labels in ("soft", "both"):
        task = bench.image_by_image(bench.labelling("kd", labels, weight="auto"))  # type: ignore[arg-type]
        task.padding, task.unlabelled_share = PADDING, 0.5  # type: ignore[attr-defined]
        task.begin(1, steps=9)
        assert float(task(x, target, unlabelled=flags)["kd"].detach()) == 0.0, "not measured yet"
        task.finish()
        fits.append(float(task.balance.fit))  # type: ignore[attr-defined,arg-type]
    assert fits[0] == pytest.approx(fits[1], rel=1e-5) and fits[0] != 0
