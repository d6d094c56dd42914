"""Training stops, with step, terms and samples, when a loss or gradient goes wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import UserError
from pipeline.training.guards import SKIPPED, Watch

NAN = float("nan")


def check(watch: Watch, loss: float, *, step: int = 7, gradient: float = 1.0, scaled: bool = False) -> None:
    terms = {"loss": loss, "ce": 1.5, "kd": loss - 1.5}
    watch.check(terms, step=step, names=["a_01", "b_02"], gradient=gradient, scaled=scaled)


def test_a_loss_that_is_not_finite_stops_with_its_terms_and_samples() -> None:
    with pytest.raises(
        UserError, match=r"not finite at step 7 \(loss nan, ce 1.5, kd nan\), on a_01, b_02; .*learning"
    ):
        check(Watch(), NAN)
    with pytest.raises(UserError, match=r"the loss is not finite"):
        check(Watch(), float("inf"))


def test_a_loss_that_explodes_stops() -> None:
    watch = Watch()
    for _ in range(5):
        check(watch, 2.0)
    check(watch, 99.0)  # a hard batch
    with pytest.raises(UserError, match=r"the loss explodes \(its running mean was .*\) at step 7"):
        check(watch, 5000.0)
    small = Watch()
    check(small, 0.001)
    check(small, 50.0)  # a thousand times a tiny loss is not yet divergence


def test_a_gradient_that_is_not_finite_stops_but_fp16_may_skip() -> None:
    with pytest.raises(UserError, match=r"the gradient is not finite at step 7"):
        check(Watch(), 1.0, gradient=NAN)
    watch = Watch()
    for _ in range(SKIPPED):
        check(watch, 1.0, gradient=float("inf"), scaled=True)
    with pytest.raises(UserError, match=r"overflowed in fp16; use bf16 or fp32"):
        check(watch, 1.0, gradient=float("inf"), scaled=True)
    check(watch, 1.0, gradient=1.0, scaled=True)
    assert watch.skipped == 0


def test_the_state_can_be_restored() -> None:
    first, second = Watch(), Watch()
    check(first, 3.0)
    check(first, 2.0, gradient=float("inf"), scaled=True)
    second.restore(first.state())
    assert second.state() == first.state() == {"average": pytest.approx(2.98), "skipped": 1}


def test_a_run_names_the_samples_of_the_batch(bench: Any, tmp_path: Path) -> None:
    task = bench.supervised()
    forward, steps = task.cross_entropy, []

    def breaking(*args: Any) -> torch.Tensor:
        steps.append(args)
        return forward(*args) * (float("nan") if len(steps) == 3 else 1.0)

    task.cross_entropy = breaking
    with pytest.raises(
        UserError, match=r"not finite at step 3 \(loss nan, ce nan\), on (train_\d{4}, ){3}train_\d{4};"
    ):
        bench.train(task, tmp_path, validate_every=4)
