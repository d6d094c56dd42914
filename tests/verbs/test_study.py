"""Studies: the file, stages of dvc.yaml in a folder of their own, the order of the runs, and a whole small study."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.errors import UserError
from pipeline.settings import presets
from pipeline.settings import study as study_file
from pipeline.settings.study import changed
from pipeline.verbs import _graph, _study, study
from pipeline.verbs._steps import TIME_OVER

ROOT = Path(__file__).parents[2]
STUDY: dict[str, Any] = {
    "params": {},
    "comparisons": {
        "losses": {"title": "Losses", "student": "kd", "seeds": [0, 1], "rows": {"none": {}, "kd": {"loss": "kd"}}},
        "int8": {
            "title": "INT8", "student": "kd", "seeds": [0],
            "rows": {"minmax": {"training": "losses/kd", "params": {"quantize.method": "minmax"}}},
        },
    },
    "shown": {"small": "losses/kd/0", "large": "teacher"},
}  # fmt: skip


def write(folder: Path, content: Any) -> Path:
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


def with_value(value: Any, *keys: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(json.dumps(STUDY))
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return content


@pytest.mark.parametrize(
    "content, message",
    [
        (
            with_value("losses/none/2", "shown", "small"),
            r"shown.small: got 'losses/none/2'; allowed: teacher, or a run",
        ),
        (
            with_value({"training": "losses/kdd"}, "comparisons", "int8", "rows", "minmax"),
            "got 'losses/kdd'.*losses/kd",
        ),
        (
            with_value({"training": "int8/minmax"}, "comparisons", "int8", "rows", "minmax"),
            "must name a row that trains",
        ),
        (with_value([0, 7], "comparisons", "int8", "seeds"), r"losses/kd has no training with the seeds \[7\]"),
        (with_value("alone", "comparisons", "int8", "student"), "losses/kd trains another student, kd"),
        (
            with_value({"training": "losses/kd", "loss": "kd"}, "comparisons", "int8", "rows", "minmax"),
            "this row trains nothing",
        ),
        (with_value({}, "comparisons", "int8", "rows"), "comparisons.int8.rows"),
        (with_value(0, "comparisons", "losses", "minutes"), "comparisons.losses.minutes: got 0"),
        (with_value({}, "comparison"), "comparison: unknown key.*comparisons"),
    ],
)
def test_an_invalid_study_is_one_message(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        study_file.load(write(tmp_path, content))


@pytest.mark.parametrize("file", sorted(ROOT.glob("studies/*/*.yaml")), ids=lambda file: file.stem)
def test_studies_of_the_repository_are_valid(file: Path) -> None:
    loaded = study_file.load(file)
    values = presets.merged(yaml.safe_load((ROOT / "params.yaml").read_text()), loaded.params)
    study_file.require_valid(loaded, values, of=file)


def test_invalid_rows_are_refused_before_the_first_run(tmp_path: Path) -> None:
    rows = {"none": {}, "kd": {"loss": {"kd": {"wait": 1}}}, "x": {"params": {"quantise.method": "mse"}}}
    file = write(tmp_path, with_value(rows, "comparisons", "losses", "rows"))
    with pytest.raises(UserError) as raised:
        study.main([str(file), "--work", str(tmp_path / "work")])
    lines = str(raised.value).splitlines()
    assert lines[0] == f"{file}: 3 problems"
    assert lines[1].endswith("losses.rows.kd: students.kd.loss.kd.wait: unknown key; did you mean 'weight'?")
    assert "losses.rows.x: quantise.method: params.yaml has no section 'quantise' there" in lines[2]
    assert "int8.rows.minmax: students.kd.loss.kd.wait" in lines[3]  # it uses the students of kd
    assert not (tmp_path / "work").exists()


def test_dotted_keys_change_a_copy() -> None:
    values = {"distill": {"steps": 3, "stage0": {"steps": 0}}, "seed": 0}
    got = changed(values, {"distill.stage0.steps": 5, "seed": 1, "check": {}, "check.split": 2})
    assert got == {"distill": {"steps": 3, "stage0": {"steps": 5}}, "seed": 1, "check": {"split": 2}}
    assert values["distill"]["stage0"]["steps"] == 0
    with pytest.raises(UserError, match=r"distil\.steps.*section 'distil'.*distill"):
        changed(values, {"distil.steps": 1})
    with pytest.raises(UserError, match="no section 'seed'"):
        changed(values, {"seed.of": 1})


class Recorded:
    """In place of the work folder: records what is asked of it; another process has some runs."""

    def __init__(self, taken: set[tuple[str, str, int]]) -> None:
        self.taken, self.calls = taken, list[Any]()

    def prepare(self) -> None:
        self.calls.append("prepare")

    def lengths(self, name: str) -> dict[str, dict[str, Any]]:
        return {"none": {"distill.steps": 3}, "kd": {}, "minmax": {}}

    def run(self, name: str, key: str, seed: int, *, length: dict[str, Any]) -> bool:
        self.calls.append((name, key, seed, length))
        return (name, key, seed) not in self.taken

    def write(self, name: str, lengths: dict[str, dict[str, Any]]) -> None:
        self.calls.append(("write", name))

    def reached(self, name: str, key: str, seed: int) -> str:
        return "torch 1.00"

    def strayed(self, name: str, key: str, seed: int) -> str:
        return "a step took 3 ms" if (name, seed) == ("losses", 1) else ""

    def show(self, name: str, *, threads: int) -> bool:
        self.calls.append((name, threads))
        return True

    def report(self) -> None:
        self.calls.append("report")


def test_the_first_seed_of_all_comparisons_runs_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = Recorded(taken={("losses", "kd", 0)})
    spec = study_file.load(write(tmp_path, with_value([2, 1], "threads")))
    study.run(work, spec, list(spec.comparisons))  # type: ignore[arg-type]
    assert work.calls == [
        "prepare",
        *[("losses", "none", 0, {"distill.steps": 3}), ("write", "losses")],
        ("losses", "kd", 0, {}),  # the other process writes its results
        *[("int8", "minmax", 0, {}), ("write", "int8")],
        *[("losses", "none", 1, {"distill.steps": 3}), ("write", "losses")],
        *[("losses", "kd", 1, {}), ("write", "losses")],
        *[("small", 2), ("small", 1), ("large", 2), ("large", 1)],
        "report",
    ]
    lines = capsys.readouterr().out.splitlines()
    assert "int8/minmax/0: torch 1.00 (0.0 min)" in lines and "losses/none/1: a step took 3 ms" in lines


def test_two_processes_do_not_take_the_same_run(tmp_path: Path) -> None:
    with _graph.locked(tmp_path / "run") as first, _graph.locked(tmp_path / "run") as second:
        assert first and not second
    with _graph.locked(tmp_path / "run") as again:
        assert again


def test_a_measurement_waits_until_no_run_is_left(tmp_path: Path) -> None:
    work = object.__new__(_study.Work)
    work.folder = tmp_path
    order: list[str] = []
    with work._processor(alone=False):
        with work._processor(alone=False):  # runs do not wait for each other
            pass

        def measure() -> None:
            with work._processor(alone=True):
                order.append("measured")

        thread = threading.Thread(target=measure)
        thread.start()
        thread.join(0.3)
        order.append("run ends")
    thread.join(10)
    assert order == ["run ends", "measured"]


def test_a_run_that_uses_another_one_waits_for_it(tmp_path: Path) -> None:
    work = object.__new__(_study.Work)
    work.folder = tmp_path
    source = tmp_path / "runs/losses/kd-0"
    with pytest.raises(UserError, match="int8/minmax uses the students of losses/kd, and the one with seed 0 is not"):
        work._trained("losses/kd", 0, of="int8/minmax")
    found: list[Path] = []
    with _graph.locked(source):  # another process is at it
        thread = threading.Thread(target=lambda: found.append(work._trained("losses/kd", 0, of="int8/minmax")))
        thread.start()
        thread.join(0.3)
        assert not found
        (source / "results").mkdir()
        (source / "results/kd.json").touch()
    thread.join(10)
    assert found == [source]


def test_results_of_other_params_do_not_count(tmp_path: Path) -> None:
    spec = study_file.load(write(tmp_path, STUDY))
    work = _study.Work(spec, yaml.safe_load((ROOT / "params.yaml").read_text()), tmp_path / "work", until=None)
    folder = work.folder / "runs/losses/kd-0"
    (folder / "results").mkdir(parents=True)
    work._params(folder, work._run_changes("losses", "kd", 0, {"distill.steps": 3}))
    assert work._is_current(folder, work._run_changes("losses", "kd", 0, {"distill.steps": 3}))
    assert not work._is_current(folder, work._run_changes("losses", "kd", 0, {"distill.steps": 4}))
    (folder / "results/kd.json").write_text("{}")
    lengths = {"none": {}, "kd": {"distill.steps": 4}}
    work.write("losses", lengths)  # would fail with this results file
    assert not (work.folder / "results").exists()


def test_times_are_those_of_the_short_trainings(tmp_path: Path) -> None:
    spec = study_file.load(write(tmp_path, with_value(1, "comparisons", "losses", "minutes")))
    work = _study.Work(spec, yaml.safe_load((ROOT / "params.yaml").read_text()), tmp_path / "work", until=None)
    for folder, seconds in (("times/losses/kd", 0.5), ("runs/losses/kd-0", 0.8)):
        (work.folder / folder / "artifacts/costs").mkdir(parents=True)
        (work.folder / folder / "artifacts/costs/kd.json").write_text(json.dumps({"seconds_per_step": seconds}))
    assert work._timed("losses", "none") is None
    assert (
        work._timed("losses", "kd") == work._timed("int8", "minmax") == {"seconds_per_step": 0.5}
    )  # the same students
    assert work.strayed("losses", "kd", 0).startswith("a step took 800.0 ms, and 500.0 ms when its loss was timed")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--set", "seed"], r"--set: got 'seed'; write KEY=VALUE"),
        (["--set", "seed=[1"], "not valid YAML"),
        (
            ["--set", "distill.step=3"],
            r"(?s)3 problems.*losses.rows.kd: distill.step: unknown key; did you mean 'steps'",
        ),
        (["--only", "loses"], r"--only: the study has no loses; it has losses, int8"),
    ],
)
def test_invalid_arguments_are_refused_before_the_first_run(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        study.main([str(write(tmp_path, STUDY)), "--work", str(tmp_path / "work"), *arguments])
    assert not (tmp_path / "work").exists()


@pytest.mark.slow
def test_a_study_from_data_to_report(tmp_path: Path) -> None:
    content = with_value(
        {
            "datasets": {"streets": {"train": 24, "val": 8, "sequence": 4}},
            "teacher": {"train": {"steps": 10, "validate_every": 10}},
            "distill": {"steps": 8, "validate_every": 4, "warmup": 2},
            "calibrate": {"images": 8}, "quantize": {"trial_images": 0}, "check": {"runs": 10, "seconds": 0.1},
        },
        "params",
    )  # fmt: skip
    content["comparisons"]["losses"]["seeds"] = [1]
    content["comparisons"]["int8"]["seeds"] = [1]
    content["shown"]["small"] = "losses/kd/1"
    file, work = write(tmp_path, content), tmp_path / "work"

    def go(*more: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "pipeline.verbs", "study", str(file), "--work", str(work), *more]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=1500)
        return done.returncode, done.stdout + done.stderr

    status, output = go("--minutes", "0.02")
    assert status == TIME_OVER and "run the same command again" in output, output
    status, output = go()
    assert status == 0, output
    losses = json.loads((work / "results/comparison-losses.json").read_text())
    none, kd = losses["rows"]
    assert none["name"] == "none" and none["best"]["gain"] is None
    (before,), (after,) = none["best"]["miou"], kd["best"]["miou"]
    assert kd["best"]["gain"] == pytest.approx(after - before, abs=1e-3) and len(kd["curves"][0]["steps"]) == 2
    int8 = json.loads((work / "results/comparison-int8.json").read_text())["rows"][0]
    assert int8["loss"] == "kd" and int8["best"]["miou"] == kd["best"]["miou"]  # the same network
    assert int8["options"]["quantize.method"] == "minmax"
    assert int8["int8"]["miou"] != [None]
    shown = {name: json.loads((work / f"results/{name}.json").read_text()) for name in ("small", "large")}
    assert shown["small"]["variants"]["torch"]["miou"] == pytest.approx(after, abs=0.01)
    assert shown["large"]["loss"] == "teacher"
    teacher = json.loads((work / "shared/artifacts/teacher/meta.json").read_text())
    assert shown["large"]["variants"]["torch"]["miou"] == pytest.approx(teacher["metrics"]["val"]["miou"], abs=0.01)
    page = (work / "report/index.html").read_text()
    assert "small" in page and "large" in page

    network = work / "runs/losses/kd-1/artifacts/students/kd/weights.safetensors"
    written = network.stat().st_mtime_ns
    status, output = go()
    assert status == 0 and "distill ->" not in output and network.stat().st_mtime_ns == written, output
    shutil.rmtree(network.parent)
    status, output = go("--only", "losses")
    assert status == 0 and output.count("distill ->") == 1 and "losses/kd/1" in output, output
