"""Masked generative distillation against plain loops in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor


def convolve(image: list[Any], weight: Tensor, bias: Tensor | None) -> list[Any]:
    """A convolution of odd size with zero padding on nested lists [C][h][w]."""
    outputs, channels, kernel, _ = weight.shape
    w, height, width, reach = weight.tolist(), len(image[0]), len(image[0][0]), kernel // 2
    result = []
    for o in range(outputs):
        rows = []
        for i in range(height):
            row = []
            for j in range(width):
                total = 0.0 if bias is None else float(bias[o])
                for c in range(channels):
                    for y in range(kernel):
                        for x in range(kernel):
                            row_in, column_in = i + y - reach, j + x - reach
                            if 0 <= row_in < height and 0 <= column_in < width:
                                total += w[o][c][y][x] * image[c][row_in][column_in]
                row.append(total)
            rows.append(row)
        result.append(rows)
    return result


def generated(features: Tensor, kept: Tensor, state: dict[str, Tensor]) -> list[Any]:
    """The student's features through the loss's own weights, image by image."""
    images = []
    for image, mask in zip(features.tolist(), kept.tolist(), strict=True):
        adapted = convolve(image, state["adapter.weight"], None) if "adapter.weight" in state else image
        holes = [
            [[v if k else 0.0 for v, k in zip(*r, strict=True)] for r in zip(m, mask[0], strict=True)] for m in adapted
        ]
        hidden = convolve(holes, state["generator.0.weight"], state["generator.0.bias"])
        hidden = [[[max(value, 0.0) for value in row] for row in rows] for rows in hidden]
        images.append(convolve(hidden, state["generator.2.weight"], state["generator.2.bias"]))
    return images


@pytest.mark.parametrize("adapter", [True, False])
@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_mgd_equals_plain_loops(adapter: bool, ratio: float, bench: Any) -> None:
    channels = bench.C_T if adapter else bench.C_S
    student, teacher = bench.student(3), bench.output(channels, 4)
    loss = bench.build("mgd", teacher_channels=channels, mask_ratio=ratio, weight=0.5).requires_grad_(False)
    torch.manual_seed(5)
    kept = torch.rand(2, 1, bench.H, bench.W) >= ratio
    images = generated(student.stages[-1], kept, loss.generation.state_dict())
    gaps = torch.tensor(images, dtype=torch.float64) - teacher.stages[-1]
    expected = 0.5 * sum(gap**2 for gap in gaps.flatten().tolist()) / 2
    expected *= 64 * 64 / (bench.H * bench.W)  # positions of the published crops
    torch.manual_seed(5)
    assert float(loss(student, teacher, bench.labels())["mgd"]) == pytest.approx(expected, rel=1e-9)


def test_golden(bench: Any) -> None:
    """A generator of zero weights and bias 2 against a teacher of ones: 2e-5 * C_T, at 64 * 64 positions."""
    loss = bench.build("mgd").requires_grad_(False)
    for parameter in loss.parameters():
        parameter.zero_()
    loss.generation.generator[2].bias.fill_(2.0)
    ones = bench.teacher().map(torch.ones_like)
    golden = 2e-5 * bench.C_T * 64 * 64
    assert float(loss(bench.student(3), ones, bench.labels())["mgd"]) == pytest.approx(golden, rel=1e-12)


def test_the_ratio_is_the_part_of_positions_dropped_in_all_channels(bench: Any) -> None:
    student, loss = bench.student(3, size=(64, 64)), bench.build("mgd", mask_ratio=0.75, teacher_channels=bench.C_S)
    seen: list[Tensor] = []
    loss.generation.generator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    loss(student, student, bench.labels())
    dropped = seen[0] == 0
    assert bool((dropped == dropped[:, :1]).all()) and float(dropped.double().mean()) == pytest.approx(0.75, abs=0.02)


def test_a_teacher_of_another_size_is_resized(bench: Any) -> None:
    loss, student = bench.build("mgd").requires_grad_(False), bench.student(3)
    flat = bench.teacher().map(torch.ones_like)
    other = replace(flat, stages=(torch.ones(2, bench.C_T, 2, 7, dtype=torch.float64),))
    values = []
    for teacher in (flat, other):
        torch.manual_seed(5)
        values.append(float(loss(student, teacher, bench.labels())["mgd"]))
    assert values[0] == pytest.approx(values[1], rel=1e-12)
