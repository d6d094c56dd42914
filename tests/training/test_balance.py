"""Weights that fit themselves in training: shares that are held, resuming, parts of a batch, compiled networks."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline import losses
from pipeline.losses._weights import TermWeight
from pipeline.models import SegOutput
from pipeline.training.balance import FIRST, Balance
from pipeline.training.distillation import DistillationTask
from pipeline.training.learner import Learner
from pipeline.training.memory import estimate
from tests.training.conftest import Bench

CANONICAL: dict[str, Any] = {
    "kd": {"weight": "auto"},
    "fitnet": {"weight": {"auto": 0.3}, "normalize": "none"},
}


def distillation(bench: Bench, mixture: dict[str, Any]) -> DistillationTask:
    teacher, student = bench.network(seed=1), bench.network(seed=0)
    loss = losses.build_all(mixture, **bench.offered(student, teacher))
    return DistillationTask(student, teacher, loss, ignore_index=255)


def batch(images: int = 2) -> tuple[Tensor, Tensor]:
    """Frames (N, 3, 64, 96) and labels of blocks, a column of them ignored."""
    generator = torch.Generator().manual_seed(3)
    frames = torch.randint(0, 256, (images, 3, 64, 96), dtype=torch.uint8, generator=generator)
    blocks = torch.randint(0, 11, (images, 8, 12), generator=generator)
    labels = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)
    labels[:, :, :8] = 255
    return frames, labels


def curve(folder: Path, name: str) -> list[float]:
    table = (folder / f"plots/metrics/train/{name}.tsv").read_text("utf-8").splitlines()[1:]
    return [float(row.split("\t")[1]) for row in table]


def length(value: Tensor, at: Tensor) -> float:
    """Sum over positions of the length of a gradient, position by position."""
    (gradient,) = torch.autograd.grad(value, at, retain_graph=True)
    columns = gradient.flatten(2).transpose(1, 2).flatten(0, 1).tolist()
    return sum(math.sqrt(sum(x * x for x in column)) for column in columns)


def test_the_weights_are_those_of_a_plain_reimplementation(bench: Bench) -> None:
    task = distillation(bench, CANONICAL).train()
    frames, labels = batch()
    student, teacher, adapter = (copy.deepcopy(m) for m in (task.network, task.teacher, task.loss.parts["fitnet"]))
    task.begin(1, steps=100)
    torch.manual_seed(5)
    first = task(frames, labels)
    not_measured = [first[name].detach() for name in ("kd", "fitnet", "weight/kd", "weight/fitnet")]
    assert [float(value) for value in not_measured] == [0, 0, 0, 0]
    first["loss"].backward()
    task.finish()
    task.begin(2, steps=100)
    second = task(frames, labels)

    def normalised(network: Any) -> Tensor:
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (network.mean, network.std))
        return (frames.float() / 255 - mean) / std

    torch.manual_seed(5)  # the same dropout
    ours = student(normalised(student))
    with torch.no_grad():
        theirs = teacher(normalised(teacher))
    upsampled = F.interpolate(ours.logits, size=(64, 96), mode="bilinear", align_corners=False)
    ce = F.cross_entropy(upsampled, labels, ignore_index=255)
    p = theirs.logits.softmax(1)
    kd = (p * (p.log() - ours.logits.log_softmax(1))).sum(1).mean()
    gap = F.conv2d(ours.embedding, adapter.adapter.weight) - theirs.embedding
    expected = {
        "weight/kd": 0.5 * length(ce, ours.embedding) / length(kd, ours.embedding),
        "weight/fitnet": 0.3 * length(ce, ours.embedding) / length(gap.square().mean(), ours.embedding),
    }
    assert {key: float(second[key]) for key in expected} == pytest.approx(expected, rel=1e-4)
    assert float(second["loss"].detach()) == pytest.approx(
        float(sum(second[term].detach() for term in ("ce", "kd", "fitnet"))), rel=1e-6
    )


def test_the_share_is_held_and_written_as_a_curve(bench: Bench, tmp_path: Path) -> None:
    task = distillation(bench, CANONICAL)
    bench.train(task, tmp_path, steps=40, validate_every=40)
    for term, share in (("kd", 0.5), ("fitnet", 0.3)):
        shares, weights = curve(tmp_path, f"share/{term}"), curve(tmp_path, f"weight/{term}")
        assert len(weights) == 40 and len(shares) == FIRST + 2
        assert shares[0] == 0 and all(value == pytest.approx(share, rel=0.5) for value in shares[1:])
        assert sum(shares[1:]) / len(shares[1:]) == pytest.approx(share, rel=0.2)
        assert task.balance.values()[term] > 0
    assert curve(tmp_path, "kd")[0] == 0 and curve(tmp_path, "kd")[1] > 0


def test_an_interrupted_run_ends_with_the_same_bits(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixture = {**CANONICAL, "at": {"weight": {"constant": 100.0, "warmup": 0.5, "until": 0.9}}}
    options: dict[str, Any] = {"steps": 24, "validate_every": 24, "accumulate": 2}
    whole, second, interrupted = (distillation(bench, mixture) for _ in range(3))
    bench.train(whole, tmp_path / "whole", **options)
    update = Learner.update

    def stops(self: Learner, *args: Any, step: int, **others: Any) -> Any:
        if self.task is interrupted and step == 21:  # step 20 was measured
            raise KeyboardInterrupt
        return update(self, *args, step=step, **others)

    monkeypatch.setattr(Learner, "update", stops)
    places: dict[str, Any] = {"checkpoints": tmp_path / "checkpoints", "checkpoint_seconds": 0.0}
    with pytest.raises(KeyboardInterrupt):
        bench.train(interrupted, tmp_path / "parted", **options, **places)
    bench.train(second, tmp_path / "parted", **options, **places)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    for name in ("weight/kd", "weight/at", "share/fitnet", "loss"):
        assert curve(tmp_path / "whole", name) == curve(tmp_path / "parted", name)
    assert curve(tmp_path / "whole", "weight/at") == pytest.approx(
        [100 * min(1, 2 * step / 24) * (step / 24 < 0.9) for step in range(24)]
    )


def test_parts_of_a_batch_give_the_weights_of_the_whole(bench: Bench, tmp_path: Path) -> None:
    """Also where parts have different numbers of labelled pixels."""
    fits = {}
    for accumulate in (1, 2):
        task = bench.image_by_image(bench.distillation("kd", weight="auto"))
        assert isinstance(task, DistillationTask)
        bench.train(
            task, tmp_path / str(accumulate), steps=3, validate_every=3, accumulate=accumulate, crop=(96, 128),
            **bench.SGD,
        )  # fmt: skip
        fits[accumulate] = curve(tmp_path / str(accumulate), "weight/kd")
    assert fits[1][1] > 0 and fits[2] == pytest.approx(fits[1], rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_the_weights_are_nearly_the_same(dtype: torch.dtype, bench: Bench) -> None:
    values = {}
    for precision in (None, dtype):
        task = bench.image_by_image(distillation(bench, CANONICAL))
        assert isinstance(task, DistillationTask)
        with torch.autocast("cpu", precision or dtype, enabled=precision is not None):
            task.train()(*batch())
        task.finish()
        values[precision] = task.balance.values()
    assert values[dtype] == pytest.approx(values[None], rel=0.1)


def test_a_compiled_network_is_measured(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled, it is one function for autograd: its logits do not come from its embedding."""
    values = []
    for compiled in (False, True):
        task = bench.image_by_image(distillation(bench, CANONICAL))
        assert isinstance(task, DistillationTask)
        if compiled:
            task.network.compile(backend="aot_eager")
        for step in (1, FIRST + 1):  # the second one runs compiled
            task.begin(step, steps=100)
            task.train()(*batch())["loss"].backward()
            task.finish()
        values.append(task.balance.values())
    assert values[1] == pytest.approx(values[0], rel=1e-3) and values[1]["kd"] > 0


def test_the_teacher_rests_when_every_term_has_ended(bench: Bench) -> None:
    task = bench.distillation("kd", weight={"auto": 0.5, "until": 0.5}).train()
    calls = []
    task.teacher.register_forward_hook(lambda *_: calls.append(task.balance.step))
    for step in range(1, 5):
        task.begin(step, steps=4)
        terms = task(*batch())
        task.finish()
    assert calls == [1, 2] and set(terms) == {"loss", "ce"}


def test_memory_is_estimated_with_the_measurement(bench: Bench) -> None:
    planned = [
        estimate(distillation(bench, mixture), shape=(2, 64, 96), optimizer="sgd").total
        for mixture in (CANONICAL, {"kd": {}, "fitnet": {"normalize": "none"}})
    ]
    assert planned[1] <= planned[0] < 1.5 * planned[1]


def test_values_for_the_curves_are_on_the_device_of_the_terms() -> None:
    """They are stacked with the terms, which a GPU has."""
    weights = {"a": TermWeight(2.0, warmup=0.5), "b": TermWeight(2.0, share=0.5)}
    fitted = Balance(weights).to("meta")
    x = torch.zeros(1, 1, 1, 2, device="meta", requires_grad=True)
    weighted, curves = fitted({"a": x.sum(), "b": x.sum()}, {"ce": x.sum()}, SegOutput(logits=x + 0, embedding=x))
    assert set(curves) == {"weight/a", "weight/b", "share/b"}
    assert {value.device.type for value in (*weighted.values(), *curves.values())} == {"meta"}
