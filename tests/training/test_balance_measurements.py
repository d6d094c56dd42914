"""Measurements of ``weight: auto`` one by one: means, bounds, warnings, and the tensor at which they are taken."""

from __future__ import annotations

import logging
import math
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.losses._weights import TermWeight
from pipeline.models import SegOutput
from pipeline.training import balance
from pipeline.training.balance import FIRST, Balance, interval, strength
from pipeline.training.learner import Learner


class Scene:
    """A balance of one term on an embedding (1, 1, 1, 2); the strengths of a step are given."""

    def __init__(self, **weight: Any) -> None:
        self.balance = Balance({"t": TermWeight(2.0, share=0.5, **weight)})
        self.step = 0

    def update(self, *, ce: float, term: float | None) -> dict[str, Tensor]:
        self.step += 1
        self.balance.begin(self.step, steps=1000)
        x = torch.zeros(1, 1, 1, 2, requires_grad=True)
        output = SegOutput(logits=x + 0, embedding=x)
        terms = {} if term is None else {"t": term * x.sum() / 2}
        weighted, curves = self.balance(terms, {"ce": ce * x.sum() / 2}, output)
        self.balance.finish()
        return {**weighted, **curves}

    @property
    def weight(self) -> float:
        return self.balance.values()["t"]


def test_measurements_are_averaged_geometrically() -> None:
    scene = Scene()
    for ce, term in ((4.0, 1.0), (1.0, 1.0), (16.0, 1.0)):
        scene.update(ce=ce, term=term)
    assert scene.weight == pytest.approx(2.0 * 0.5 * 4.0)  # base, share, (4 * 1 * 16) ** (1 / 3)
    for _ in range(FIRST - 3):
        scene.update(ce=4.0, term=1.0)
    scene.step = interval(1000) - 1
    scene.update(ce=64.0, term=1.0)
    assert scene.weight == pytest.approx(4.0 * 16**balance.RATE)
    assert interval(1000) == 66


@pytest.mark.parametrize(
    ("ce", "term"), [(0.0, 1.0), (1.0, 0.0), (math.nan, 1.0), (1.0, math.inf), (1.0, None), (0.0, 0.0)]
)
def test_a_batch_that_says_nothing_changes_nothing(ce: float, term: float | None) -> None:
    """No labels, no gradient, NaN, or a term that is absent: before the first measurement the term does not count."""
    scene = Scene()
    terms = scene.update(ce=ce, term=term)
    assert scene.weight == 0 and float(terms.get("share/t", torch.zeros(()))) == 0
    scene.update(ce=3.0, term=1.0)
    scene.update(ce=ce, term=term)
    assert scene.weight == pytest.approx(2.0 * 0.5 * 3.0)


def test_a_weight_stays_within_its_bounds(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    for _ in range(FIRST):
        scene.update(ce=1.0, term=1.0)
    scene.balance.warn()
    assert not caplog.records
    for _ in range(40):
        scene.step = interval(1000) - 1
        scene.update(ce=1.0, term=1e-9)
    assert scene.weight == pytest.approx(100.0, rel=1e-4)
    with caplog.at_level(logging.WARNING):
        scene.balance.warn()
        scene.balance.warn()
    (record,) = caplog.records
    assert "the weight auto of the term t reached its bound" in record.message
    early = Scene()
    early.update(ce=1.0, term=1e-12)
    assert early.weight == pytest.approx(1e6, rel=1e-3)


def test_a_term_that_is_never_measured_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    with caplog.at_level(logging.WARNING):
        for step in range(1, FIRST + 2):
            scene.update(ce=1.0, term=None)
            scene.balance.warn()
            assert len(caplog.records) == (step > FIRST)
    assert "the term t has the weight auto, but in the first 5 steps" in caplog.records[0].message


def test_of_several_processes_the_first_one_warns() -> None:
    for first in (True, False):
        learner = mock.Mock()
        learner.accelerator.is_main_process = first
        Learner.read(learner)
        assert learner.task.check.called == first and learner._readings.read.called


def test_a_term_that_reaches_nothing_in_common_is_refused() -> None:
    scene = Balance({"t": TermWeight(1.0, share=0.5)})
    x, y = (torch.zeros(1, 1, 1, 2, requires_grad=True) for _ in range(2))
    with pytest.raises(UserError, match=r"the term t has the weight auto, .* give it a number"):
        scene({"t": x.sum()}, {"ce": y.sum()}, SegOutput(logits=y, embedding=x))


def test_the_tensor_is_the_first_that_both_reach() -> None:
    """Embedding, logits, auxiliary logits, then encoder stages from deep to shallow."""
    shallow = torch.ones(1, 1, 1, 2, requires_grad=True)
    deep = 2 * shallow
    embedding = 3 * deep
    logits, aux = 5 * embedding, 7 * shallow
    output = SegOutput(logits=logits, embedding=embedding, stages=(shallow, deep), aux=aux)
    fitted = Balance({name: TermWeight(1.0, share=1.0) for name in ("on_logits", "on_deep", "on_aux")})
    terms = {"on_logits": logits.sum(), "on_deep": deep.sum(), "on_aux": 2 * aux.sum()}
    fitted(terms, {"ce": 10 * logits.sum(), "aux": aux.sum()}, output)
    measured = {name: fitted.strengths[:, index].tolist() for index, name in enumerate(fitted.auto)}
    ce_at_deep = 2 * 10 * 5 * 3.0
    assert measured == {"on_logits": [100, 10], "on_deep": [ce_at_deep, 2], "on_aux": [2, 4]}


def test_gradients_below_the_range_of_float16_are_measured() -> None:
    x = torch.ones(1, 4, 2, 2, dtype=torch.float16, requires_grad=True)
    term = 1e-8 * x.float().sum()
    assert float(torch.autograd.grad(term, x, retain_graph=True)[0].abs().max()) == 0
    measured = strength(term, x)
    assert measured is not None and float(measured) == pytest.approx(4 * 2e-8, rel=1e-3)
