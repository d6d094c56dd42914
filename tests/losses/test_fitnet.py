"""Feature imitation against plain loops in float64; the teacher's features on a standard scale."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline import losses
from pipeline.losses import _standard
from pipeline.losses._standard import Standardised


def moments(features: list[Tensor]) -> list[tuple[float, float]]:
    """Mean and variance of each channel over all values of some batches of one size."""
    channels = []
    for c in range(features[0].shape[1]):
        values = [value for batch in features for value in batch[:, c].flatten().tolist()]
        mean = sum(values) / len(values)
        channels.append((mean, sum((value - mean) ** 2 for value in values) / len(values)))
    return channels


def plain_standard(channels: list[tuple[float, float]], how: str, c: int, value: float) -> float:
    """One value of the teacher's channel c on the standard scale."""
    if how == "none":
        return value
    pooled = sum(variance for _, variance in channels) / len(channels)
    if how == "teacher":
        return value / math.sqrt(pooled)
    mean, variance = channels[c]
    return (value - mean) / math.sqrt(max(variance, 0.01 * pooled))


@pytest.mark.parametrize("normalize", ["none", "teacher", "channels"])
@pytest.mark.parametrize("adapter", ["plain", "norm"])
def test_fitnet_equals_plain_loops(normalize: str, adapter: str, bench: Any) -> None:
    student, teacher = bench.student(5), bench.teacher(6)
    teacher = replace(teacher, embedding=teacher.embedding * torch.arange(1.0, 7.0)[:, None, None] + 2)
    loss = bench.build("fitnet", weight=3.0, normalize=normalize, adapter=adapter)
    (weight,) = (parameter.detach() for parameter in loss.parameters())
    of_teacher, of_student = moments([teacher.embedding]), moments([student.embedding])
    total = 0.0
    for n in range(2):
        for i in range(bench.H):
            for j in range(bench.W):
                pixel = [float(student.embedding[n, s, i, j]) for s in range(bench.C_S)]
                if adapter == "norm":
                    pixel = [(x - mean) / math.sqrt(v + 1e-5) for x, (mean, v) in zip(pixel, of_student, strict=True)]
                for t in range(bench.C_T):
                    adapted = sum(float(weight[t, s, 0, 0]) * pixel[s] for s in range(bench.C_S))
                    value = float(teacher.embedding[n, t, i, j])
                    total += (adapted - plain_standard(of_teacher, normalize, t, value)) ** 2
    expected = 3.0 * total / (2 * bench.C_T * bench.H * bench.W)
    assert float(loss(student, teacher, torch.zeros(1))["fitnet"]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("how", ["teacher", "channels"])
class TestStandardised:
    def test_moments_are_those_of_all_training_batches(self, how: Any, bench: Any) -> None:
        batches = [3 * bench.teacher(seed).embedding + 1 for seed in range(3)]
        standard = Standardised(bench.C_T, how=how).double()
        for batch in batches:
            result = standard(batch)
        channels = moments(batches)
        for c in range(bench.C_T):
            value = float(batches[-1][1, c, 2, 3])
            expected = plain_standard(channels, how, c, value)
            assert float(result[1, c, 2, 3]) == pytest.approx(expected, rel=1e-9)
        before = standard.moments.clone()
        standard.eval()
        torch.testing.assert_close(standard(batches[-1]), result)
        assert torch.equal(standard.moments, before) and int(standard.passes) == 3

    def test_constant_features_stay_finite(self, how: Any) -> None:
        for value in (0.0, 5.0):
            features = torch.full((2, 3, 4, 4), value)
            result = Standardised(3, how=how)(features)
            assert bool(result.isfinite().all()) and float(result.abs().max()) <= 1 + 1e-6

    def test_a_channel_that_hardly_varies_is_not_blown_up(self, how: Any) -> None:
        features = torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(0))
        features[:, 0] *= 1e-4
        assert float(Standardised(8, how=how)(features)[:, 0].std()) < 0.01


def test_processes_with_more_and_less_padding_have_the_statistics_of_the_whole_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(2, 4, 4, dtype=torch.bool)
    valid[1, :, 1:] = False
    sent: list[Tensor] = []

    def send(own: Tensor) -> Tensor:
        sent.append(own)
        return own

    def statistics_of(images: slice) -> Tensor:
        standard = Standardised(3).train()
        standard(features[images], valid[images])
        return standard.moments

    expected = statistics_of(slice(0, 2))
    monkeypatch.setattr(_standard, "mean_over_processes", send)
    alone = [statistics_of(slice(i, i + 1)) for i in range(2)]
    assert not torch.allclose(torch.stack(alone).mean(dim=0), expected), "the second process has fewer pixels"
    monkeypatch.setattr(_standard, "mean_over_processes", lambda own: torch.stack(sent).mean(dim=0))
    torch.testing.assert_close(statistics_of(slice(0, 1)), expected)


def test_the_statistics_are_saved_with_the_loss(bench: Any) -> None:
    loss = bench.build("fitnet")
    loss(bench.student(), bench.teacher(), bench.labels())
    assert {"standard.passes", "standard.moments"} <= loss.state_dict().keys()
    facts = {"student_channels": bench.C_S, "teacher_channels": bench.C_T}
    assert not list(losses.build("fitnet", {"normalize": "none"}, **facts).buffers())
