"""benchmarks/training_speed.py in its smallest size: every figure of every loss, also after a failure."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.prepared import Prepared
from pipeline.training.tasks import SupervisedTask

SCRIPT = Path(__file__).parents[2] / "benchmarks/training_speed.py"


def run(monkeypatch: pytest.MonkeyPatch, prepared: Prepared, *arguments: object) -> object:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("COLUMNS", "160")
    command = [SCRIPT, prepared.artifact.path, "--device", "cpu", "--tiny", *arguments]
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return ended.value.code


def test_every_loss_has_every_figure(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "speed.json"
    assert not run(monkeypatch, prepared, "--loss", "teacher", "kd+fitnet", "--workers", 0, 1, "--json", out)
    ((title, figures),) = json.loads(out.read_text()).items()
    assert title == "streets, crop 64x96, batch 2, teacher kd+fitnet, cpu"
    rows = figures["rows"]
    assert [(row["loss"], row["workers"]) for row in rows] == [
        *(("teacher", 0), ("teacher", 1), ("kd+fitnet", 0), ("kd+fitnet", 1)),
    ]
    for row in rows:
        assert all(
            row[f"{name}_ms"] > 0 for name in ("bare", "arithmetic", "one_batch", "real", "loader", "validation")
        )
        assert row["real_per_bare"] == pytest.approx(row["bare_ms"] / row["real_ms"], abs=1e-3)
        validations = row["validations"] * row["validation_ms"]
        share = validations / (validations + row["steps"] * row["real_ms"])
        assert row["validation_share"] == pytest.approx(share, abs=1e-4)
    assert (rows[0]["steps"], rows[0]["validations"]) == (1200, 3)  # teacher.train of params.yaml
    assert (rows[2]["steps"], rows[2]["validations"]) == (800, 2)  # distill
    assert {"decode frame", "augment", "item, store decoded"} <= set(figures["parts_ms"])
    shown = capsys.readouterr().out
    assert rows[2]["billion_operations"] > rows[0]["billion_operations"] / 3  # the teacher's forward pass is a third
    for column in ("bare", "arithmetic", "one batch", "real", "loader", "real / bare", "validation"):
        assert column in shown
    last = shown.splitlines()[-1]
    assert last.startswith("real / bare: teacher ") and ", kd+fitnet " in last and last.endswith("% of a run")


def test_only_the_bare_loop_is_not_deterministic(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU training is deterministic; the bare loop, which comes first in each round, has the fastest kernels."""
    forward, strict = SupervisedTask.forward, list[bool]()

    def watched(self: SupervisedTask, *args: Any, **kwargs: Any) -> Any:
        strict.append(torch.are_deterministic_algorithms_enabled())
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(SupervisedTask, "forward", watched)
    assert not run(monkeypatch, prepared, "--loss", "teacher", "--count", 1, "--items", 0)
    steps = 3 + 1  # warm-up, and the one that is timed
    assert strict[1:] == [False] * steps + [True] * 2 * steps  # the first one counts operations


def test_a_loss_that_fails_leaves_the_figures_of_the_others(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "speed.json"
    arguments = ("--loss", "kdd", "none", "--items", 0, "--json", out)
    assert run(monkeypatch, prepared, *arguments) == 1
    (figures,) = json.loads(out.read_text()).values()
    assert [row["loss"] for row in figures["rows"]] == ["none"] and "no plugin 'kdd'" in figures["failures"]["kdd"]
    assert "error: not measured: kdd: pipeline/losses has no plugin 'kdd'" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU; the test is about its absence")
def test_a_gpu_that_is_missing_is_an_error(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, prepared, "--device", "cuda") == 1
    assert "--device: got cuda, but torch finds no GPU here; use --device cpu" in capsys.readouterr().err


@pytest.mark.parametrize("groups", [1, 16])
@pytest.mark.parametrize("kind", [torch.nn.Conv2d, torch.nn.ConvTranspose2d])
def test_the_backward_pass_is_twice_the_forward_pass(kind: type[torch.nn.Module], groups: int) -> None:
    convolution = kind(16, 16, 3, padding=1, groups=groups, bias=False)
    frames = torch.rand(1, 16, 8, 8, requires_grad=True)
    count = runpy.run_path(str(SCRIPT))["billion_operations"]
    forward = 2 * 16 * 16 // groups * 3**2 * 8**2  # a multiplication and an addition for each weight and pixel
    assert count(lambda: convolution(frames).sum().backward()) == pytest.approx(3e-9 * forward)
