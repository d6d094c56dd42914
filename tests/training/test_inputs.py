"""What networks and losses get of a batch: frames normalised for each network, and padding apart from void pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline import losses, models
from pipeline.labels import LabelSpec
from pipeline.models import SegNetwork, SegOutput
from pipeline.training import data, memory
from pipeline.training.distillation import DistillationTask
from pipeline.training.tasks import SupervisedTask

HALF: dict[str, Any] = {"mean": [0.5, 0.4, 0.3], "std": [0.5, 0.25, 0.2]}
VOID, PADDING = 255, 254


def frames(images: int = 2) -> Tensor:
    """Bytes, whose channels differ."""
    drawn = torch.randint(0, 200, (images, 3, 64, 96), generator=torch.Generator().manual_seed(0))
    return (drawn + torch.tensor([0, 20, 55])[:, None, None]).to(torch.uint8)


def inputs_of(network: SegNetwork) -> list[Tensor]:
    """What the network gets from now on."""
    seen: list[Tensor] = []
    network.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].detach().clone()))
    return seen


def pair(bench: Any, loss: str = "kd") -> DistillationTask:
    """A student with ImageNet's normalisation and a teacher with another."""
    student = bench.network(seed=0)
    teacher = models.build("smp", {**bench.OPTIONS, **HALF}, num_classes=11)
    return DistillationTask(student, teacher, bench.loss(loss, student, teacher), ignore_index=VOID)


def normalised(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    pixels = x.double() / 255
    return torch.stack([(pixels[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)


def test_each_network_normalises_for_itself(bench: Any) -> None:
    task = pair(bench)
    student, teacher = inputs_of(task.network), inputs_of(task.teacher)
    task(frames(), torch.zeros(2, 64, 96, dtype=torch.uint8))
    for seen, network in ((student, task.network), (teacher, task.teacher)):
        assert len(seen) == 1 and seen[0].dtype == torch.float32
        torch.testing.assert_close(seen[0].double(), normalised(frames(), network.mean, network.std), rtol=0, atol=1e-5)
    assert float((student[0] - teacher[0]).abs().max()) > 0.5
    assert not any("mean" in key or "std" in key for key in task.state_dict() if "normalise" in key)


def test_a_teacher_with_its_own_normalisation_gives_what_it_gives_alone(bench: Any) -> None:
    """A teacher and its copy for another range of inputs are the same function of the frame."""
    task = pair(bench)
    with torch.no_grad():
        student = task.predict(frames(), None)
        taught = task.teach(frames(), student)
        alone = task.teacher(normalised(frames(), task.teacher.mean, task.teacher.std).float())
    torch.testing.assert_close(taught.logits, alone.logits, rtol=1e-4, atol=1e-4)


def test_a_crop_of_bytes_becomes_what_the_network_expects(bench: Any) -> None:
    labels = bench.prepared.labels
    augment = data.augmentation(crop=(64, 96), input_size=(64, 96), scale=(0.5, 0.6), colour=0.5, labels=labels)
    image, target, _ = data.Crops(bench.prepared.split("train"), augment, seed=0)[2, 0]
    task = bench.supervised()
    task.padding = augment.padding
    seen = inputs_of(task.network)
    ids, valid = task.receive(target[None])
    assert valid is not None and ids.dtype == torch.int64
    assert torch.equal(valid[0], target != labels.padding) and 0.2 < float(valid.float().mean()) < 0.4
    assert bool((ids[~valid] == VOID).all()) and torch.equal(ids[valid].byte(), target[None][valid])
    task.predict(image[None], valid)
    expected = normalised(image[None], task.network.mean, task.network.std)
    expected = expected.where(valid[:, None], 0.0)  # each network's own mean colour
    torch.testing.assert_close(seen[0].double(), expected, rtol=0, atol=1e-5)


def half_padding() -> Tensor:
    """Ids (2, 64, 96): the left half of the first image is padding, and some pixels of frames have no label."""
    target = torch.randint(0, 11, (2, 64, 96), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    target[:, :16] = VOID
    target[0, :, :48] = PADDING
    return target


def test_padding_and_void_pixels_reach_the_loss_apart(bench: Any) -> None:
    task, seen = pair(bench), []

    class Spy(losses.DistillationLoss):
        def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor) -> dict[str, Tensor]:
            seen.append((student.valid, teacher.valid, target))
            return {"spy": student.logits.sum() * 0.0}

    task.loss, task.padding = Spy(), PADDING
    target = half_padding()
    task(frames(), target)
    ((valid, of_teacher, ids),) = seen
    assert torch.equal(valid, target != PADDING) and torch.equal(of_teacher, valid)
    assert bool((ids[~valid] == VOID).all()) and bool((ids[valid & (target == VOID)] == VOID).all())
    assert set(ids.unique().tolist()) == {*range(11), VOID}


def test_padding_takes_no_part_in_the_terms(bench: Any) -> None:
    """Not in the cross-entropy, whose divisor counts labelled pixels, and not in the distillation, which sees void."""
    task = bench.image_by_image(pair(bench)).eval()
    task.padding = PADDING
    target = half_padding()
    terms = task(frames(), target)
    student = task.predict(frames(), target != PADDING)
    void = target.long().where(target != PADDING, torch.tensor(VOID))
    expected = torch.nn.functional.cross_entropy(
        torch.nn.functional.interpolate(student.logits, size=(64, 96), mode="bilinear", align_corners=False),
        void, ignore_index=VOID,
    )  # fmt: skip
    assert float(terms["ce"].detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert int(task.weight(target)) == int(task.weight(void)) == int((target < 11).sum())
    teacher = task.teach(frames(), student)
    log_s, log_t = (x.logits.log_softmax(1) for x in (student, teacher))
    divergence = (log_t.exp() * (log_t - log_s)).sum(1)
    half = divergence.shape[-1] // 2
    by_hand = (divergence[0, :, half:].mean() + divergence[1].mean()) / 2
    assert float(terms["kd"].detach()) == pytest.approx(float(by_hand.detach()), rel=1e-5)


@pytest.mark.parametrize("loss", [name for name in losses.available() if name != "none"])
def test_frames_without_labels_are_taught(bench: Any, loss: str) -> None:
    """All pixels of the frames are void: no cross-entropy, and the terms that need no labels stay."""
    task = pair(bench, loss)
    task.padding = PADDING
    target = half_padding()
    target[target != PADDING] = VOID
    terms = task(frames(), target)
    terms["loss"].backward()
    assert float(terms["ce"].detach()) == 0.0 and bool(terms["loss"].isfinite())
    if loss not in {"idd", "i2ckd", "ifvd"}:
        assert float(terms["loss"]) > 0


@pytest.mark.parametrize(("scale", "padding"), [((0.5, 1.0), PADDING), ((1.0, 1.5), None)])
def test_a_run_says_whether_crops_have_padding(
    bench: Any, tmp_path: Path, scale: tuple[float, float], padding: int | None
) -> None:
    task = pair(bench)
    bench.train(task, tmp_path, steps=2, scale=scale)
    assert task.padding == padding


def test_the_estimate_of_memory_knows_of_padding(bench: Any) -> None:
    for loss in ("kd", "cirkd", "skd"):
        task = pair(bench, loss)
        plain = memory.estimate(task, shape=(2, 64, 96), optimizer="sgd")
        task.padding = PADDING
        assert memory.estimate(task, shape=(2, 64, 96), optimizer="sgd").total == pytest.approx(plain.total, rel=0.2)


def test_the_id_of_padding_is_free() -> None:
    def labels(classes: int, ignored: int) -> LabelSpec:
        names, palette = tuple(map(str, range(classes))), ((0, 0, 0),) * classes
        return LabelSpec(names=names, palette=palette, ignore_index=ignored)

    assert labels(19, 255).padding == 254 and labels(254, 255).padding == 254 and labels(19, 19).padding == 255
    assert labels(255, 255).padding == 255, "no id is free: ignored pixels count as padding"


def test_a_network_that_learns_alone_has_no_teacher_to_normalise_for(bench: Any) -> None:
    task = SupervisedTask(bench.network(), ignore_index=VOID)
    seen = inputs_of(task.network)
    task(frames(), torch.zeros(2, 64, 96, dtype=torch.uint8))
    expected = normalised(frames(), task.network.mean, task.network.std)
    torch.testing.assert_close(seen[0].double(), expected, rtol=0, atol=1e-5)
