"""Several teachers and several views of a crop: the mean of logits, each network with its own normalisation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.models import SegNetwork
from pipeline.models.weights import network_artifact
from pipeline.training.distillation import DistillationTask
from pipeline.training.teachers import Teachers, open_all, passes

HALF = (0.5, 0.5, 0.5)


@pytest.fixture
def networks(bench: Any) -> list[SegNetwork]:
    """Two networks with the normalisations of ImageNet and of TensorFlow."""
    first, second = bench.network(seed=1).eval(), bench.network(seed=2).eval()
    second.normalise_with(HALF, HALF)
    return [first, second]


def normalised(frames: Tensor, network: SegNetwork) -> Tensor:
    """RGB in 0..1, (N, 3, H, W)."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (network.mean, network.std))
    return (frames - mean) / std


def resized(x: Tensor, size: Any) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def test_logits_are_the_mean_over_teachers_sizes_and_mirrored_crops(networks: list[SegNetwork]) -> None:
    frames = torch.rand(2, 3, 64, 96)
    teachers = Teachers(networks, scales=[1.0, 1.5], flip=True).eval()
    with torch.no_grad():
        output = teachers(normalised(frames, networks[0]))
        plain = networks[0](normalised(frames, networks[0]))
        views = []
        for network in networks:
            x = normalised(frames, network)
            for size in ((64, 96), (96, 128)):  # 144 is no multiple of 32
                for turn in (lambda image: image, lambda image: image.flip(3)):
                    views.append(resized(turn(network(turn(resized(x, size))).logits), plain.logits.shape[2:]))
    assert len(views) == passes(teachers) == 8
    torch.testing.assert_close(output.logits, torch.stack(views).mean(0), rtol=1e-4, atol=1e-4)
    assert float((output.logits - plain.logits).abs().max()) > 0.01
    assert torch.equal(output.embedding, plain.embedding)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(output.stages, plain.stages, strict=True))
    assert teachers.facts == networks[0].facts and teachers.mean == networks[0].mean


def test_a_view_of_the_crops_own_size_is_one_warning(
    networks: list[SegNetwork], caplog: pytest.LogCaptureFixture
) -> None:
    """64x96 times 1.1 is 70x106, in multiples of 32 again 64x96."""
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for scales in ([1.0, 1.1], [1.0, 1.5]):
            teachers = Teachers(networks[:1], scales=scales).eval()
            for _ in range(2):
                teachers(x)
    (record,) = caplog.records
    assert "distill.teaching.scales: at 1.1 a crop has the same size as at 1.0" in record.getMessage()


def test_a_mirrored_crop_has_mirrored_logits(networks: list[SegNetwork]) -> None:
    x, teachers = torch.randn(1, 3, 64, 96), Teachers(networks[:1], flip=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(teachers(x.flip(3)).logits, teachers(x).logits.flip(3))
        assert not torch.allclose(networks[0](x.flip(3)).logits, networks[0](x).logits.flip(3), atol=1e-3)


def save(path: Path, network: SegNetwork, bench: Any, labels: LabelSpec | None = None) -> Path:
    network_artifact.save(
        path, network, name="smp", options=bench.OPTIONS, labels=labels or bench.prepared.labels, input_size=(64, 96),
        facts={},
    )  # fmt: skip
    return path


def test_teachers_of_artifacts(networks: list[SegNetwork], bench: Any, tmp_path: Path) -> None:
    labels = bench.prepared.labels
    one, two = (save(tmp_path / name, network, bench) for name, network in zip("ab", networks, strict=True))
    alone, opened = open_all(one, labels=labels, scales=[1.0], flip=False, others=[])
    assert not isinstance(alone, Teachers) and list(opened) == ["teacher"] and passes(alone) == 1
    both, opened = open_all(one, labels=labels, scales=[1.0], flip=False, others=[str(two)])
    assert isinstance(both, Teachers) and passes(both) == 2
    assert [(name, stored.path) for name, stored in opened.items()] == [("teacher", one), ("teacher_2", two)]
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(alone(x).logits, networks[0](x).logits)
    others = LabelSpec(names=tuple(reversed(labels.names)), palette=labels.palette)
    reverse = save(tmp_path / "c", networks[1], bench, others)
    with pytest.raises(UserError, match=r"distill.teaching.others: .*c has the classes .*all teachers need these"):
        open_all(one, labels=labels, scales=[1.0], flip=False, others=[str(reverse)])


def test_a_student_learns_from_several_teachers(networks: list[SegNetwork], bench: Any, tmp_path: Path) -> None:
    """The memory is estimated too. No teacher changes, and none is a part of the task's state."""
    before = [{name: value.clone() for name, value in network.state_dict().items()} for network in networks]
    student, teachers = bench.network(seed=0), Teachers(networks, scales=[0.5, 1.0], flip=True)
    task = DistillationTask(student, teachers, bench.loss("kd", student, teachers), ignore_index=255)
    assert not [name for name in task.state_dict() if "members" in name]
    trained = bench.train(task, tmp_path, steps=2, estimated=True)
    assert trained.facts["metrics"]["val"]["miou"] > 0
    for network, state in zip(networks, before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
        assert not network.training
