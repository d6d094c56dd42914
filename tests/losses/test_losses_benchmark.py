"""benchmarks/losses.py in its smallest size: shares of kd's whole step, sizes, and GPUs that are too small."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks/losses.py"


@pytest.fixture
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("losses_benchmark", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    def call(*arguments: object) -> object:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "160")
        return benchmark.main()

    return call


def test_a_loss_is_a_share_of_the_step_of_kd(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "losses.json"
    assert run("--tiny", "--stride", 16, "--losses", "at", "pfs", "--precision", "bf16", "--json", out) == 0
    figures = json.loads(out.read_text())["losses 2x128x192, stride 16"]
    assert figures["device"] == "cpu" and figures["precision"] == "bf16"
    assert [row["name"] for row in figures["rows"]] == ["kd", "at", "pfs"]
    assert all(row["seconds"] > 0 and 0 < row["of_kd_step"] < 1 for row in figures["rows"])
    shown = capsys.readouterr().out
    last = shown.splitlines()[-1].partition("loss alone / kd's step: ")[2]
    assert "of kd's step" in shown and {part.split()[0] for part in last.split(", ")} == {"kd", "at", "pfs"}


def test_a_step_is_a_multiple_of_the_step_of_kd(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "losses.json"
    assert run("--tiny", "--step", "--losses", "at", "--json", out) == 0
    rows = json.loads(out.read_text())["step 2x128x192"]["rows"]
    assert [row["name"] for row in rows] == ["kd", "at"] and all("of_kd_step" not in row for row in rows)
    last = capsys.readouterr().out.splitlines()[-1]
    assert "x kd: " in last and "kd 1.00" in last and "at " in last


def test_memory_is_measured_in_a_process_of_its_own(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--peak", "loss", "kd", 8, 64, 64, 11, 4) == 0
    assert 0 <= float(capsys.readouterr().out) < 500


def test_a_size_that_the_stride_does_not_divide_is_refused(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--size", 100, 96, "--stride", 4, 8) == 1
    assert "--size: got 100 96; needed: multiples of each --stride, and so of 8" in capsys.readouterr().err


def test_images_of_kd_s_step_have_sides_that_its_networks_take(
    run: Any, benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Features of 45 x 60 at stride 8, among the defaults, are those of images of 360 x 480: no multiples of 16."""
    assert benchmark.SHAPES["8x45x60"].of_images[:3] == (8, 368, 480)
    monkeypatch.setattr(benchmark, "SHAPES", {"small": benchmark.Shape(2, 5, 6, 11)})
    assert run("--losses", "at", "--rounds", 1, "--no-memory") == 0
    assert "loss alone / kd's step: " in capsys.readouterr().out
    assert run("--step", "--size", 40, 48, "--batch", 2, "--losses", "at", "--rounds", 1, "--no-memory") == 1
    assert "--size: got [40, 48]; this network needs multiples of 16" in capsys.readouterr().err


def test_what_does_not_fit_into_the_memory_is_named(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Imitated: one loss fails where it is built, one in its first round, and kd's step too."""
    full = torch.OutOfMemoryError("CUDA out of memory")

    def build(name: str, shape: Any, place: Any) -> Any:
        def work() -> None:
            if name == "b":
                raise full

        if name in ("a", "step"):
            raise full
        return work

    monkeypatch.setitem(benchmark.WORK, "loss", build)
    monkeypatch.setattr(benchmark, "step_work", lambda name, shape, place: build("step", shape, place))
    shape, place = benchmark.Shape(1, 8, 8, 3), benchmark.Place("cpu", "fp32")
    *_, rows = benchmark.measure("loss", ["kd", "a", "b"], shape, rounds=2, place=place, memory=False)
    assert [row.get("fails") for row in rows] == [None, "out of memory", "out of memory"]
    benchmark.show("title", rows, base="kd")
    assert capsys.readouterr().out.count("out of memory") == 2


def test_steps_that_measure_are_compared_with_others(run: Any, benchmark: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "losses.json"
    assert run("--tiny", "--auto", "--losses", "at", "--json", out) == 0
    rows = json.loads(out.read_text())["auto"]["rows"]
    assert [row["name"] for row in rows] == ["kd", "at", "kd+fitnet"]
    assert all(row["plain"] > 0 and row["measuring"] > 0 for row in rows)
    extra = 100 * (rows[0]["measuring"] / rows[0]["plain"] - 1)
    assert rows[0]["of_300"] == pytest.approx(extra * benchmark.measured_steps(300) / 300, abs=0.01)
    assert benchmark.all_auto("cwd") == {"logit_weight": "auto"}  # the feature term is off
