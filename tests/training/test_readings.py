"""Losses are read every few steps: which messages are late, and that nothing else changes."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.training import costs, fit
from pipeline.training.costs import Meter
from pipeline.training.curves import Curves
from pipeline.training.guards import Watch
from pipeline.training.learner import Learner
from pipeline.training.optimization import learning_rate_factor
from pipeline.training.processes import accelerator
from pipeline.training.readings import Reading, Readings
from pipeline.training.seeding import seed_step

NAN = float("nan")


def broken(task: Any, *, after: int) -> list[int]:
    """Let the cross-entropy be NaN in one pass; the list gets a number for each pass."""
    forward, passes = task.cross_entropy, []

    def cross_entropy(*args: Any) -> Tensor:
        passes.append(len(passes))
        return forward(*args) * (NAN if len(passes) == after else 1.0)

    task.cross_entropy = cross_entropy
    return passes


def tables(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*.tsv")}


def test_a_late_message_is_the_one_of_the_step(bench: Any, tmp_path: Path) -> None:
    """The loss of step 3 is read at step 5, together with those before; the message has the step and its samples."""
    messages = []
    for log_every in (1, 5):
        task = bench.supervised()
        passes = broken(task, after=3)
        with pytest.raises(
            UserError, match=r"not finite at step 3 \(loss nan, ce nan\), on (train_\d{4}, ){3}"
        ) as error:
            bench.train(task, tmp_path / str(log_every), steps=9, validate_every=9, log_every=log_every)
        messages.append(str(error.value))
        assert len(passes) == max(3, log_every)
    assert messages[0] == messages[1]


def test_weights_of_a_step_that_was_not_checked_are_neither_validated_nor_stored(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[int] = []
    write = fit.Checkpoints.write
    monkeypatch.setattr(
        fit.Checkpoints,
        "write",
        lambda self, step, *args, **kwargs: (stored.append(step), write(self, step, *args, **kwargs)),
    )
    task = bench.supervised()
    passes = broken(task, after=3)
    with pytest.raises(UserError, match="not finite at step 3"):
        bench.train(
            task, tmp_path / "curves", steps=9, validate_every=4, log_every=100,
            checkpoints=tmp_path / "kept", checkpoint_seconds=0.0,
        )  # fmt: skip
    assert len(passes) == 4, "the validation after step 4 reads the losses first"
    assert not stored and not list((tmp_path / "curves").rglob("miou.tsv"))


def test_a_checkpoint_is_written_when_the_losses_before_it_were_read(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[int] = []
    monkeypatch.setattr(fit.Checkpoints, "write", lambda self, step, *_, **__: stored.append(step))
    bench.train(
        bench.supervised(), tmp_path / "curves", steps=8, validate_every=5, log_every=3,
        checkpoints=tmp_path / "kept", checkpoint_seconds=0.0,
    )  # fmt: skip
    assert stored == [3, 5, 6, 8]


def test_reading_less_often_changes_no_result(bench: Any, tmp_path: Path) -> None:
    runs = {}
    for log_every in (1, 3):
        task = bench.distillation("kd")
        trained = bench.train(task, tmp_path / str(log_every), steps=5, validate_every=4, ema=0.9, log_every=log_every)
        assert len(trained.costs.seconds) == 5 and min(trained.costs.seconds) > 0
        runs[log_every] = (trained.facts, task.state_dict(), tables(tmp_path / str(log_every)))
    often, seldom = runs[1], runs[3]
    assert often[0] == seldom[0] and often[2] == seldom[2]
    assert len(often[2]["plots/metrics/train/loss.tsv"].splitlines()) == 6, "one row per step, and the head"
    assert all(torch.equal(value, seldom[1][name]) for name, value in often[1].items())


def test_a_run_that_ends_between_two_reads_resumes_to_the_same_bits(
    bench: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Interrupted in step 6, after the read of step 4: the losses of step 5 were not read; it is computed again."""
    options: dict[str, Any] = {"steps": 8, "validate_every": 8}
    whole, cut, resumed = (bench.distillation("i2ckd") for _ in range(3))
    expected = bench.train(whole, tmp_path / "whole", **options)
    options |= {"checkpoints": tmp_path / "kept", "checkpoint_seconds": 0.0, "log_every": 4}
    forward, passes = cut.forward, []

    def interrupted(*args: Any) -> Any:
        passes.append(args)
        if len(passes) == 6:
            raise KeyboardInterrupt
        return forward(*args)

    cut.forward = interrupted
    with pytest.raises(KeyboardInterrupt):
        bench.train(cut, tmp_path / "cut", **options)
    caplog.set_level(logging.INFO)
    trained = bench.train(resumed, tmp_path / "cut", **options)
    assert "resuming after step 4" in caplog.text
    assert trained.facts == expected.facts and len(trained.costs.seconds) == 8
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())
    assert tables(tmp_path / "whole") == tables(tmp_path / "cut")


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adamw"},
        {"optimizer": "sgd", "clip_norm": 0.5, "class_balance": 0.5},
    ],
)
def test_an_update_has_the_bits_of_a_plain_loop(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """Forward, backward, clip, step, one after the other, as torch's own loop would be written."""
    batches: list[Any] = []
    after: list[dict[str, Tensor]] = []
    update = Learner.update

    def recorded(self: Learner, parts: Any, **kwargs: Any) -> None:
        batches.append([part.clone() for part in parts[0]])
        update(self, parts, **kwargs)
        after.append({name: value.clone() for name, value in self.task.state_dict().items()})

    ours, plain = bench.supervised(), bench.supervised()
    with monkeypatch.context() as patched:
        patched.setattr(Learner, "update", recorded)
        bench.train(ours, tmp_path, steps=4, validate_every=4, log_every=4, **options)
    plain.class_weights, plain.padding = ours.class_weights, ours.padding
    settings = bench.SETTINGS
    build = {
        "adamw": lambda: torch.optim.AdamW(plain.parameters(), weight_decay=settings.weight_decay, fused=True),
        "sgd": lambda: torch.optim.SGD(
            plain.parameters(), momentum=0.9, weight_decay=settings.weight_decay, fused=True
        ),
    }
    optimizer = build[options["optimizer"]]()
    losses = []
    for step, (images, target, _) in enumerate(batches, start=1):
        plain.train()
        seed_step(settings.seed, step=step, process=0)
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * learning_rate_factor(step - 1, schedule="poly", steps=4, warmup=1, power=0.9)
        loss = plain(images, target)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), options.get("clip_norm", float("inf")))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        differing = [
            name for name, value in plain.state_dict().items() if not torch.equal(value, after[step - 1][name])
        ]
        assert not differing, step
    rows = next(tmp_path.rglob("loss.tsv")).read_text().splitlines()[1:]
    assert [float(row.split("\t")[1]) for row in rows] == losses


class Pair(SimpleNamespace):
    """An accelerator of two processes; the other one has these values."""

    num_processes, scaler = 2, None

    def reduce(self, value: Tensor, *, reduction: str) -> Tensor:
        assert reduction == "sum"
        return value + self.other


def pair(*steps: tuple[float, float], other: list[float]) -> Readings:
    """Readings of steps (loss, norm of the gradient) of this process."""
    readings = Readings(Watch(), accelerator=Pair(other=torch.tensor(other)))  # type: ignore[arg-type]
    for number, (loss, norm) in enumerate(steps, start=1):
        terms = {"loss": torch.tensor(loss), "ce": torch.tensor(loss)}
        readings.add(number, samples=[f"s{number}"], terms=terms, gradient=torch.tensor(norm))
    return readings


def test_what_is_read_is_the_mean_over_processes_and_is_read_once() -> None:
    readings = pair((1.0, 9.0), (2.0, 9.0), other=[3.0, 3.0, 9.0, 6.0, 6.0, 9.0])
    assert readings.read() == [Reading(1, {"loss": 2.0, "ce": 2.0}), Reading(2, {"loss": 4.0, "ce": 4.0})]
    assert len(readings) == 0 and readings.read() == []


def test_the_process_with_the_samples_has_the_message_and_the_others_leave() -> None:
    with pytest.raises(SystemExit) as ended:
        pair((1.0, 9.0), (2.0, 9.0), other=[3.0, 3.0, 9.0, NAN, NAN, NAN]).read()
    assert ended.value.code == 1
    with pytest.raises(UserError, match=r"the loss is not finite at step 2 \(.*\), on s2;"):
        pair((1.0, 9.0), (NAN, NAN), (NAN, NAN), other=[1.0, 1.0, 9.0, 1.0, 1.0, 9.0, NAN, NAN, NAN]).read()
    with pytest.raises(UserError, match=r"the gradient is not finite at step 1 \(.*\), on s1;"):
        pair((1.0, NAN), other=[1.0, 1.0, NAN]).read()


def test_the_state_of_steps_that_were_not_checked_is_refused(bench: Any, tmp_path: Path) -> None:
    learner = Learner(bench.supervised(), bench.SETTINGS, accelerator=accelerator(precision="fp32"), images=2)
    parts = [(torch.zeros(2, 3, 64, 96, dtype=torch.uint8), torch.zeros(2, 64, 96, dtype=torch.uint8))]
    learner.update(parts, step=1, names=["a", "b"])
    with pytest.raises(AssertionError, match="not checked"):
        learner.state()
    (reading,) = learner.read()
    assert reading.step == 1 and set(reading.terms) == {"loss", "ce"} and learner.state()["watch"]["average"] > 0


def test_seconds_are_divided_among_the_steps_that_were_read_together() -> None:
    meter = Meter(torch.device("cpu"))
    meter.stop(steps=4)
    assert len(meter.seconds) == 4 and len(set(meter.seconds)) == 1 and meter.seconds[0] > 0


def test_rows_of_curves_wait_until_they_are_written(tmp_path: Path) -> None:
    table = tmp_path / "plots/metrics/train/loss.tsv"
    with Curves(tmp_path) as curves:
        curves.log(1, {"train/loss": 2.0})
        assert not table.exists()
        curves.write()
        assert table.read_text().splitlines() == ["step\tloss", "1\t2.0"]
        curves.log(2, {"train/loss": 1.0})
        assert "2\t1.0" in curves.state()["plots/metrics/train/loss.tsv"]
        curves.log(3, {"train/loss": 0.5})
    assert table.read_text().splitlines()[-1] == "3\t0.5"


def test_curves_leave_no_file_open(tmp_path: Path) -> None:
    """DVCLive opens the repository, and a run may train many networks."""
    opened = []
    for run in range(3):
        with Curves(tmp_path / str(run)) as curves:
            curves.log(1, {"train/loss": 2.0})
        opened.append(len(os.listdir("/proc/self/fd")))
    assert opened[1] == opened[2]


def test_memory_that_shrinks_is_no_negative_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    residents = iter([100, 90])
    monkeypatch.setattr(costs, "peak_resident", lambda: next(residents))
    assert Meter(torch.device("cpu")).read().peak_memory_mib == 0
