"""The adapter with batch norm: the scale of the student's features does not matter to the losses that have it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pipeline.models import SegOutput

LOSSES = {
    "fitnet": {},
    "cwd": {"feature_weight": 50.0},
    "mgd": {},
    "af_dcd": {},
    "idd": {"position_weight": 1.0},
}


def total(name: str, adapter: str, student: SegOutput, bench: Any, **facts: Any) -> float:
    loss = bench.build(name, adapter=adapter, **LOSSES[name], **facts)
    torch.manual_seed(1)  # random masks
    return float(sum(value.detach() for value in loss(student, bench.teacher(), bench.labels()).values()))


@pytest.mark.parametrize("name", LOSSES)
def test_scale_and_offset_of_the_student_do_not_matter_with_batch_norm(name: str, bench: Any) -> None:
    student = bench.student()
    stages = tuple(7 * stage + 3 for stage in student.stages)
    other = replace(student, embedding=7 * student.embedding + 3, stages=stages)
    values = [[total(name, adapter, s, bench) for s in (student, other)] for adapter in ("norm", "plain")]
    assert values[0][1] == pytest.approx(values[0][0], rel=1e-4)
    assert values[1][1] != pytest.approx(values[1][0], rel=5e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_batch_norm_has_a_convolution_after_it_also_for_equal_numbers_of_channels(name: str, bench: Any) -> None:
    loss = bench.build(name, adapter="norm", teacher_channels=bench.C_S, **LOSSES[name])
    kernels = [m for m in loss.modules() if isinstance(m, torch.nn.Sequential) and len(m) == 2]
    assert kernels and all(list(m[1].weight.shape) == [bench.C_S, bench.C_S, 1, 1] for m in kernels)
