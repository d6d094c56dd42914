"""PFS against plain loops in float64, and the effect of its weights."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.losses._numerics import kl_rows
from pipeline.models import SegOutput


def softmax(values: list[float]) -> list[float]:
    total = sum(map(math.exp, values))
    return [math.exp(value) / total for value in values]


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def cosine(features: Tensor, a: int, b: int) -> float:
    """Cosine of two pixels of a feature map (C, h, w)."""
    flat = features.flatten(1)
    u, v = flat[:, a].tolist(), flat[:, b].tolist()
    return sum(i * j for i, j in zip(u, v, strict=True)) / math.hypot(*u) / math.hypot(*v)


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}, {"metric": "l2"}])
def test_similarity_equals_plain_loops(options: dict[str, Any], bench: Any) -> None:
    student, teacher = bench.student(3), bench.teacher(4)
    pixels, temperature, total = bench.H * bench.W, options.get("temperature", 0.1), 0.0
    for n in range(2):
        for a in range(pixels):
            rows = [[cosine(output.embedding[n], a, b) for b in range(pixels)] for output in (student, teacher)]
            if "metric" in options:
                total += sum((s - t) ** 2 for s, t in zip(*rows, strict=True)) / pixels
            else:
                s, t = (softmax([value / temperature for value in row]) for row in rows)
                total += kl(t, s)
    value = bench.build("pfs", similarity_weight=2.0, **options)(student, teacher, bench.labels())["pfs_similarity"]
    assert float(value) == pytest.approx(2.0 * total / (2 * pixels), abs=1e-9)


@pytest.mark.parametrize("gap", ["conf", "ce", "kl", "l1"])
@pytest.mark.parametrize("normalizer", ["gap", "pixels"])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_imitation_equals_plain_loops(gap: str, normalizer: str, temperature: float, bench: Any) -> None:
    student, teacher, labels = bench.student(3), bench.teacher(4), bench.labels()[:, ::2, ::2]
    pixels = []  # (weight, divergence) of each labelled pixel
    for n, i, j in torch.cartesian_prod(torch.arange(2), torch.arange(bench.H), torch.arange(bench.W)).tolist():
        y = int(labels[n, i, j])
        if y == bench.IGNORE:
            continue
        z_s, z_t = student.logits[n, :, i, j].tolist(), teacher.logits[n, :, i, j].tolist()
        s, t = softmax(z_s), softmax(z_t)
        weight = {
            "conf": max(0.0, t[y] - s[y]),
            "ce": max(0.0, math.log(t[y]) - math.log(s[y])),
            "kl": kl(t, s),
            "l1": 0.5 * sum(abs(a - b) for a, b in zip(s, t, strict=True)),
        }[gap]
        soft_s, soft_t = (softmax([z / temperature for z in logits]) for logits in (z_s, z_t))
        pixels.append((weight, kl(soft_t, soft_s)))
    scale = max(weight for weight, _ in pixels) if gap == "kl" else 1.0
    weights = [weight / scale for weight, _ in pixels]
    share = sum(weights) if normalizer == "gap" else len(pixels)
    expected = temperature**2 * sum(w * d for w, (_, d) in zip(weights, pixels, strict=True)) / share
    loss = bench.build("pfs", gap=gap, normalizer=normalizer, imitation_temperature=temperature)
    assert float(loss(student, teacher, labels)["pfs_imitation"]) == pytest.approx(expected, abs=1e-9)


def test_identity_is_zero_and_scale_changes_nothing(bench: Any) -> None:
    student, teacher = bench.student(3), bench.teacher(4)
    loss = bench.build("pfs")
    assert all(abs(float(term)) < 1e-12 for term in loss(student, student, bench.labels()).values())
    stretched = replace(student, embedding=student.embedding * torch.rand(2, 1, bench.H, bench.W).double().add(0.5))
    for other in (stretched, replace(student, embedding=student.embedding.flip(1))):  # a rotation of the channels
        value, expected = (loss(output, teacher, bench.labels())["pfs_similarity"] for output in (other, student))
        assert float(value) == pytest.approx(float(expected), abs=1e-12)


def test_a_student_better_than_the_teacher_gets_no_gradient(bench: Any) -> None:
    logits = torch.zeros(1, 2, 1, 2, dtype=torch.float64)
    logits[0, 0, 0, 0], logits[0, 1, 0, 1] = 2.0, 2.0  # confident and right, confident and wrong
    student = logits.clone().requires_grad_()
    teacher = torch.zeros_like(logits)
    teacher[0, 0] = 1.0
    labels = torch.zeros(1, 1, 2, dtype=torch.int64)
    terms = bench.build("pfs")(
        SegOutput(logits=student, embedding=student), SegOutput(logits=teacher, embedding=teacher), labels
    )
    terms["pfs_imitation"].backward()
    assert student.grad is not None
    assert float(student.grad[..., 0].abs().max()) == 0 and float(student.grad[..., 1].abs().max()) > 0


def test_gradient_is_that_of_fixed_weights(bench: Any) -> None:
    """Constant weights reproduce plain KD; no gradient passes through the weights."""
    student, teacher, labels = bench.student(3), bench.teacher(4), bench.labels()[:, ::2, ::2]
    loss = bench.build("pfs", similarity_weight=0.0)
    logits = student.logits.clone().requires_grad_()
    value = loss(replace(student, logits=logits), teacher, labels)["pfs_imitation"]
    weight = loss.knowledge_gap(student.logits, teacher.logits, labels) * (labels != bench.IGNORE)
    expected = (weight * kl_rows(logits, teacher.logits, dim=1)).sum() / weight.sum()
    torch.testing.assert_close(*(torch.autograd.grad(v, logits)[0] for v in (value, expected)))


def test_golden(bench: Any) -> None:
    terms = bench.build("pfs")(bench.student(3), bench.teacher(4), bench.labels())
    golden = {"pfs_similarity": 0.596441441297, "pfs_imitation": 0.505453757911}
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(golden, abs=1e-9)
