"""Schedules against their formulas, parameter groups against a hand count, the average against a plain loop."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import UserError
from pipeline.training.averaging import Average
from pipeline.training.learner import Learner
from pipeline.training.optimization import (
    fill_momentum,
    learning_rate_factor,
    make_optimizer,
    parameter_groups,
    restore_optimizer,
    set_learning_rate,
)

ONE = {"encoder": 1.0, "head": 1.0, "loss": 1.0}


def factors(schedule: Any, *, steps: int = 100, warmup: int = 0, power: float = 0.9) -> list[float]:
    return [
        learning_rate_factor(step, schedule=schedule, steps=steps, warmup=warmup, power=power) for step in range(steps)
    ]


def test_poly_against_its_formula() -> None:
    assert factors("poly") == pytest.approx([(1 - step / 100) ** 0.9 for step in range(100)])


def test_cosine_against_torch() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
    expected = []
    for _ in range(50):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    assert factors("cosine", steps=50) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("schedule", ["poly", "cosine", "constant"])
def test_every_schedule_warms_up_linearly_and_starts_at_its_peak(schedule: str) -> None:
    curve = factors(schedule, steps=20, warmup=4)
    assert curve[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert curve[5:] == sorted(curve[5:], reverse=True) and curve[-1] > 0


def test_groups_hold_every_parameter_once_with_its_rate_and_decay(bench: Any) -> None:
    task = bench.distillation("fitnet")
    groups = parameter_groups(
        task, lr=0.1, lr_factors={"encoder": 0.1, "head": 1.0, "loss": 2.0}, weight_decay=0.5, decay_norms=False
    )
    options = {id(p): (g["peak_lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert len(options) == sum(len(g["params"]) for g in groups) == len(list(task.parameters()))
    for name, parameter in task.named_parameters():
        rate = 0.2 if name.startswith("loss.") else 0.01 if ".encoder." in name else 0.1
        assert options[id(parameter)] == (pytest.approx(rate), 0.5 if parameter.ndim > 1 else 0.0), name


def test_a_factor_of_zero_freezes(bench: Any, tmp_path: Path) -> None:
    task = bench.supervised()
    before = {name: value.detach().clone() for name, value in task.named_parameters()}
    bench.train(task, tmp_path, steps=2, validate_every=1, lr_factors={**ONE, "encoder": 0.0})
    for name, value in task.named_parameters():
        assert torch.equal(value, before[name]) == (".encoder." in name), name
    with pytest.raises(UserError, match=r"lr_factors: got .* at least one part"):
        parameter_groups(task, lr=1.0, lr_factors=dict.fromkeys(ONE, 0.0), weight_decay=0.0, decay_norms=True)


def test_set_learning_rate_keeps_the_ratio_of_groups(bench: Any) -> None:
    groups = parameter_groups(
        bench.supervised(), lr=0.1, lr_factors={**ONE, "encoder": 0.1}, weight_decay=0.0, decay_norms=True
    )
    optimizer = make_optimizer(groups, name="sgd", momentum=0.9)
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.005, 0.05])


def test_clipping_limits_the_update(bench: Any, tmp_path: Path) -> None:
    """One step of SGD moves the weights by the learning rate times the gradient, whose norm is limited."""
    task = bench.supervised()
    before = {name: value.detach().clone() for name, value in task.named_parameters()}
    bench.train(
        task, tmp_path, steps=1, optimizer="sgd", lr=1.0, warmup=0, weight_decay=0.0, momentum=0.0, clip_norm=0.01
    )
    moved = torch.cat([(value - before[name]).flatten() for name, value in task.named_parameters()])
    assert float(moved.norm()) == pytest.approx(0.01, rel=1e-2)


def test_the_average_against_a_plain_loop(bench: Any) -> None:
    network = bench.network()
    average = Average(network, decay=0.6)
    expected = None
    generator = torch.Generator().manual_seed(0)
    for update in range(12):
        with torch.no_grad():
            for value in [*network.parameters(), *(b for b in network.buffers() if b.is_floating_point())]:
                value.add_(torch.randn(value.shape, generator=generator))
        weight = next(network.parameters()).detach().double()
        if expected is None:
            expected = weight.clone()
        else:
            decay = min(0.6, (1 + update) / (10 + update))
            expected = decay * expected + (1 - decay) * weight
        average.update_parameters(network)
    assert torch.allclose(next(average.module.parameters()).double(), expected, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in average.module.parameters())


def test_the_average_does_not_wait_for_the_device(bench: Any) -> None:
    """Tensors without data stand in for a GPU's: reading one of their values is an error."""
    network = bench.network().to("meta")
    average = Average(network, decay=0.6)
    for _ in range(2):
        average.update_parameters(network)
    assert int(average.n_averaged) == 2


def test_the_average_is_what_is_validated_and_kept(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights after each step of a run without it, averaged here, are those of a run with it."""
    after: list[torch.Tensor] = []
    update = Learner.update

    def recorded_update(self: Learner, *args: Any, **options: Any) -> Any:
        terms = update(self, *args, **options)
        after.append(torch.cat([value.detach().flatten() for value in self.task.network.parameters()]).double())
        return terms

    averaged, plain = bench.supervised(), bench.supervised()
    bench.train(averaged, tmp_path / "b", steps=4, validate_every=4, lr=1e-2, ema=0.9)
    monkeypatch.setattr(Learner, "update", recorded_update)
    bench.train(plain, tmp_path / "a", steps=4, validate_every=4, lr=1e-2)
    expected = after[0]
    for count, weights in enumerate(after[1:], start=1):
        decay = (1 + count) / (10 + count)  # below 0.9 in so few steps
        expected = decay * expected + (1 - decay) * weights
    weights_averaged = torch.cat([value.detach().flatten() for value in averaged.network.parameters()]).double()
    assert float((weights_averaged - expected).abs().max()) < 1e-6 < float((after[-1] - expected).abs().max())


def test_accumulated_parts_are_the_whole_batch(bench: Any, tmp_path: Path) -> None:
    """Without batch norm, two parts of two images move the weights as one batch of four, however labels are spread."""
    tasks = []
    for accumulate in (1, 2):
        task = bench.image_by_image(bench.supervised())
        bench.train(task, tmp_path / str(accumulate), steps=3, accumulate=accumulate, crop=(96, 128), **bench.SGD)
        tasks.append(task)
    whole, parts = (torch.cat([value.detach().flatten() for value in task.parameters()]) for task in tasks)
    assert float((whole - parts).abs().max()) < 1e-5


def group(weight: torch.Tensor) -> list[dict[str, Any]]:
    return [{"params": [torch.nn.Parameter(weight.clone())], "lr": 0.1, "peak_lr": 0.1, "weight_decay": 0.01}]


def stepped(optimizer: torch.optim.Optimizer, gradient: torch.Tensor) -> torch.Tensor:
    (parameter,) = optimizer.param_groups[0]["params"]
    parameter.grad = gradient.clone()
    optimizer.step()
    weights: torch.Tensor = parameter.detach().clone()
    return weights


def unfused(weight: torch.Tensor, name: str) -> torch.optim.Optimizer:
    """What torch computes operation by operation."""
    kind: Any = partial(torch.optim.SGD, momentum=0.9) if name == "sgd" else torch.optim.AdamW
    optimizer: torch.optim.Optimizer = kind(group(weight), fused=False)
    return optimizer


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_fused_kernels_compute_what_the_others_do_and_skip_an_overflow(name: Any) -> None:
    """Run with the fused kernels of the CPU, which take the same flag. In torch alone, an overflow in the first step
    leaves the momentum of SGD without a value."""
    weight, gradient = torch.randn(8, 3, 3, 3), torch.randn(8, 3, 3, 3)
    fused, plain = make_optimizer(group(weight), name=name, momentum=0.9), unfused(weight, name)
    fill_momentum(fused)
    fused.grad_scale, fused.found_inf = None, torch.tensor(1.0)  # type: ignore[attr-defined]
    assert torch.equal(stepped(fused, torch.full_like(gradient, float("inf"))), weight)
    del fused.found_inf, fused.grad_scale
    (state,) = fused.state.values()
    assert all(not bool(value.any()) for value in state.values())
    for factor in (1.0, -0.5):
        assert torch.allclose(stepped(fused, factor * gradient), stepped(plain, factor * gradient), atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_restored_state_has_the_strides_of_its_parameters(name: Any) -> None:
    """Checkpoints hold contiguous tensors; fused kernels need equal strides."""
    weight, gradient = (torch.randn(8, 4, 3, 3).to(memory_format=torch.channels_last) for _ in range(2))
    before = make_optimizer(group(weight), name=name, momentum=0.9)
    middle = stepped(before, gradient)
    state = before.state_dict()
    values = {key: value.clone().contiguous() for key, value in state["state"][0].items()}
    after = make_optimizer(group(middle), name=name, momentum=0.9)
    restore_optimizer(after, {**state, "state": {0: values}})
    assert all(
        value.stride() == weight.stride() for key, value in after.state_dict()["state"][0].items() if key != "step"
    )
    assert torch.allclose(stepped(after, -gradient), stepped(before, -gradient), atol=1e-6)
