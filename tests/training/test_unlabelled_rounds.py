"""Rounds of training with frames without labels: each starts afresh and resumes."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.prepared import Unlabelled
from pipeline.training import rounds, run
from tests.training.conftest import Bench

IGNORE, PADDING = 255, 254


@pytest.fixture
def in_rounds(bench: Bench, frames: Unlabelled, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two rounds of four steps with hard labels and the loss ``i2ckd``."""
    monkeypatch.setattr(run, "estimate", mock.Mock(side_effect=UserError("not estimated in this test")))
    settings = replace(bench.SETTINGS, unlabelled_images=2)

    def learn(task: Any, folder: Path, **options: Any) -> Any:
        start = partial(
            run.train, settings=settings, prepared=bench.prepared, checkpoint_seconds=0.0, unlabelled=frames
        )
        places: dict[str, Any] = {"curves": folder / "curves", "checkpoints": folder / "kept"}
        return rounds.learn(start, task, **{"rounds": 2, "inputs": {}, "title": "test", **places, **options})

    return learn


@pytest.mark.parametrize("steps", [2, 4, 6])
def test_an_interruption_in_any_round_changes_no_bit(
    bench: Bench, in_rounds: Any, tmp_path: Path, steps: int, caplog: pytest.LogCaptureFixture
) -> None:
    whole, cut, resumed = (bench.labelling("i2ckd", "both") for _ in range(3))
    expected = in_rounds(whole, tmp_path / "whole")
    with bench.interrupted(cut, after=steps), pytest.raises(KeyboardInterrupt):
        in_rounds(cut, tmp_path / "cut")
    caplog.set_level(logging.INFO)
    results = in_rounds(resumed, tmp_path / "cut")
    assert [line for line in caplog.messages if line.startswith("resuming")] == [
        f"resuming after step {step}" for step in {2: [2], 4: [4], 6: [4, 2]}[steps]
    ]
    assert [each.facts for each in results] == [each.facts for each in expected]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    for each in results:
        each.finish()
    assert not (tmp_path / "cut/kept").exists()


def test_each_round_starts_afresh_and_the_last_student_labels(bench: Bench, in_rounds: Any, tmp_path: Path) -> None:
    task = bench.labelling("none", "hard")
    start = {name: value.clone() for name, value in task.state_dict().items()}
    seen: list[dict[str, Tensor]] = []
    labellers: list[dict[str, Tensor]] = []
    get_ready = run.ready_for_unlabelled

    def noted(task: Any, *args: Any, **options: Any) -> None:
        seen.append({name: value.clone() for name, value in task.state_dict().items()})
        labellers.extend({n: v.clone() for n, v in network.state_dict().items()} for network in task._labeller)
        get_ready(task, *args, **options)

    with mock.patch.object(run, "ready_for_unlabelled", noted):
        first, second = in_rounds(task, tmp_path)
    for state in seen:
        assert len(seen) == 2 and all(torch.equal(state[name], value) for name, value in start.items())
    (labeller,) = labellers
    alone = bench.labelling("none", "hard")
    (only,) = in_rounds(alone, tmp_path / "alone", rounds=1)
    assert only.facts == first.facts and second.facts != first.facts
    assert all(torch.equal(labeller[name], value) for name, value in alone.network.state_dict().items())
