"""Several losses as one: the terms of each loss alone, none of them hidden; `none` cannot be mixed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline import losses
from pipeline.errors import UserError
from pipeline.losses import Composition, DistillationLoss

OFFERED = {"num_classes": 3, "ignore_index": 255, "student_channels": 4, "teacher_channels": 6, "steps": 10}


def build(mixture: dict[str, Any]) -> DistillationLoss:
    torch.manual_seed(0)
    return losses.build_all(mixture, **OFFERED).double()


def test_terms_are_those_of_the_parts(bench: Any) -> None:
    student, teacher, labels = bench.student(), bench.teacher(), bench.labels()
    mixture = build({"kd": {"weight": 2.0}, "fitnet": {}})
    assert isinstance(mixture, Composition) and mixture.uses_teacher
    terms = mixture(student, teacher, labels)
    alone = {
        **build({"kd": {"weight": 2.0}})(student, teacher, labels),
        **build({"fitnet": {}})(student, teacher, labels),
    }
    assert sorted(terms) == ["fitnet", "kd"]
    for name, term in terms.items():
        torch.testing.assert_close(term, alone[name])
    assert float(terms["kd"]) == pytest.approx(2 * float(build({"kd": {}})(student, teacher, labels)["kd"]))


def test_parameters_of_the_parts_are_trained(bench: Any) -> None:
    mixture = build({"kd": {}, "fitnet": {}})
    assert [name for name, _ in mixture.named_parameters()] == ["parts.fitnet.adapter.weight"]
    sum(mixture(bench.student(), bench.teacher(), bench.labels()).values()).backward()
    assert all(parameter.grad is not None for parameter in mixture.parameters())


def test_the_order_in_the_recipe_changes_nothing(bench: Any) -> None:
    arguments = bench.student(), bench.teacher(), bench.labels()
    one, other = (build(mixture)(*arguments) for mixture in ({"kd": {}, "fitnet": {}}, {"fitnet": {}, "kd": {}}))
    assert list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def test_one_loss_is_built_without_a_mixture() -> None:
    assert type(build({"kd": {}})) is type(losses.build("kd", {}))
    assert not build({"none": {}}).uses_teacher


class Silent(DistillationLoss):
    """A loss of one term that needs no teacher."""

    uses_teacher = False

    def forward(self, student: Any, teacher: Any, target: Any) -> dict[str, torch.Tensor]:
        return {"kd": student.logits.sum()}


def test_the_teacher_runs_if_one_part_needs_it() -> None:
    assert not Composition({"a": Silent(), "b": Silent()}).uses_teacher
    assert Composition({"a": Silent(), "kd": losses.build("kd", {})}).uses_teacher


def test_two_terms_of_one_name_are_refused(bench: Any) -> None:
    mixture = Composition({"kd": losses.build("kd", {}), "twin": Silent()})
    with pytest.raises(UserError, match=r"losses kd and twin both have a term 'kd'; .*pipeline/losses/twin\.py"):
        mixture(bench.student(), bench.teacher(), bench.labels())


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ({}, "a student needs a loss; 'none' is the student alone"),
        ({"none": {}, "kd": {}}, r"losses none\+kd: 'none' is the student alone and cannot be combined with others"),
        ({"kd": {}, "fitnt": {}}, "pipeline/losses has no plugin 'fitnt'; did you mean 'fitnet'"),
        ({"kd": {}, "fitnet": {"wieght": 1.0}}, "wieght: unknown option; did you mean 'weight'"),
    ],
)
def test_invalid_mixtures_are_refused(mixture: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(mixture)
