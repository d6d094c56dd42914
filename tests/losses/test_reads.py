"""Every loss declares what it reads of its teacher; other fields do not reach its terms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pipeline import losses
from pipeline.losses import Composition

#: Options with which a loss reads more or less than by default.
OPTIONS: list[tuple[str, dict[str, Any], set[str]]] = [
    ("kd", {}, {"logits"}),
    ("cwd", {}, {"logits"}),
    ("cwd", {"feature_weight": 50.0}, {"logits", "embedding"}),
    ("pfs", {}, {"logits", "embedding"}),
    ("cirkd", {}, {"embedding"}),
    ("i2ckd", {}, {"embedding"}),
    ("i2ckd", {"layers": ["stage1"]}, {"embedding", "stages"}),
    ("af_dcd", {}, {"stages"}),
    ("af_dcd", {"feature": "embedding"}, {"embedding"}),
    ("dist", {}, {"logits", "aux"}),
]


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, {}) for name in losses.available() if name != "none"] + [(name, options) for name, options, _ in OPTIONS],
)
def test_what_a_loss_does_not_declare_changes_nothing(name: str, options: dict[str, Any], bench: Any) -> None:
    student, teacher = bench.student(), bench.teacher()
    first, second = (bench.build(name, **options) for _ in range(2))
    second.load_state_dict(first.state_dict())
    assert set(first.reads) <= {"logits", "embedding", "stages", "aux"}
    nothing = {
        field: tuple(torch.full_like(stage, torch.nan) for stage in teacher.stages)
        if field == "stages"
        else torch.full_like(getattr(teacher, field), torch.nan)
        for field in ("logits", "embedding", "stages")
        if field not in first.reads
    }
    terms = []
    for loss, output in ((first, teacher), (second, replace(teacher, **nothing))):
        torch.manual_seed(0)
        terms.append(loss(student, output, bench.labels()))
    assert terms[0] and all(torch.equal(value, terms[1][term]) for term, value in terms[0].items())


@pytest.mark.parametrize(("name", "options", "reads"), OPTIONS)
def test_options_decide_what_is_read(name: str, options: dict[str, Any], reads: set[str], bench: Any) -> None:
    assert set(bench.build(name, **options).reads) == reads


def test_a_composition_reads_what_its_parts_read(bench: Any) -> None:
    parts = {name: bench.build(name) for name in ("kd", "fitnet", "none")}
    assert set(Composition(parts).reads) == {"logits", "embedding"}, "none reads nothing"
