"""What `compare` runs and writes: the same steps or the same minutes, a split, best and last weights, INT8."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline import artifact
from pipeline.errors import UserError
from pipeline.reporting import comparison, comparison_table
from pipeline.settings import params
from pipeline.settings.params import Params
from pipeline.verbs import _equal_minutes, _experiments, compare

ROOT = Path(__file__).parents[2]
#: Seconds of a training step by loss.
SECONDS = {"none": 0.1, "kd": 0.25}
LOSSES = {"alone": "none", "kd": "kd"}


class Experiments:
    """Instead of DVC: keeps what it was asked for, and answers with numbers that follow from loss, seed and split."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, Any]]] = []
        self.finished: set[str] = set()
        self.cached = 0.0  # seconds before the first step of kd

    def run(self, name: str, *, target: str, params: dict[str, Any]) -> tuple[str, bool]:
        self.asked.append((name, target, params))
        key = json.dumps([target, params], sort_keys=True)
        new = key not in self.finished
        self.finished.add(key)
        return key, new

    def read(self, commit: str, path: str) -> dict[str, Any]:
        target, changed = json.loads(commit)
        loss, seed = changed["students.kd.loss"], changed["distill.seed"]
        seconds, steps = SECONDS[loss], changed.get("distill.steps", 300)
        better = 2.0 if loss == "kd" else 0.0

        def metrics(lower: float) -> dict[str, Any]:
            mious = {"val": 50.0 + better + seed - lower, "test": 40.0 + better + seed - lower}
            return {split: {"miou": miou, "per_class_iou": [miou + 10, miou - 10]} for split, miou in mious.items()}

        assert not path.startswith("results/") or target == "check@kd", "results are written by check"
        int8 = metrics(1.5)[changed.get("check.split", "val")]
        return {
            "artifacts/students/kd/meta.json": {
                "classes": ["a", "b"],
                "parents": {"dataset": "ab", "teacher": "cd"},
                "metrics": metrics(0.0),
                "last": {"step": steps, "metrics": metrics(1.0)},
            },
            "artifacts/teacher/meta.json": {"metrics": {"val": {"miou": 60.0}, "test": {"miou": 55.0}}},
            "artifacts/costs/kd.json": {
                "seconds_per_step": seconds,
                "cached_seconds": self.cached if loss == "kd" else 0.0,
                "training_seconds": seconds * steps + (self.cached if loss == "kd" else 0.0),
                "peak_memory_mib": 100.0,
                "device": "cpu, 2 threads",
            },
            "results/kd.json": {"variants": {"int8": int8}, "drop": {"classes": [0.5, 2.5]}},
        }[path]

    def read_text(self, commit: str, path: str) -> str:
        assert path == "artifacts/curves/kd/plots/metrics/val/miou.tsv"
        seed = json.loads(commit)[1]["distill.seed"]
        return f"step\tmiou\n100\t{40.0 + seed}\n300\t50.5\n"


@pytest.fixture
def experiments(monkeypatch: pytest.MonkeyPatch) -> Experiments:
    answers = Experiments()
    monkeypatch.setattr(_experiments, "run", answers.run)
    monkeypatch.setattr(_experiments, "read", answers.read)
    monkeypatch.setattr(_experiments, "read_text", answers.read_text)
    monkeypatch.setattr(compare, "Prepared", lambda path: SimpleNamespace(splits={"train": ["frame"] * 400}))
    return answers


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., Params]:
    """The committed params with two losses and two seeds, changed."""

    def changed(*, recipe: dict[str, Any] | None = None, dataset: str = "streets", **options: Any) -> Params:
        yaml = YAML()
        raw = yaml.load(ROOT / "params.yaml")
        raw["dataset"] = dataset
        raw["distill"] |= {"steps": 300, "epochs": None, "warmup": 20, "validate_every": 100, **(recipe or {})}
        raw["compare"].update(seeds=[0, 1], losses=LOSSES, **options)
        yaml.dump(raw, tmp_path / "params.yaml")
        return params.load(tmp_path / "params.yaml", kinds=())

    return changed


def length(changed: dict[str, Any]) -> tuple[int, int, int]:
    return changed["distill.steps"], changed["distill.validate_every"], changed["distill.warmup"]


def test_equal_steps_change_nothing_but_loss_and_seed(
    experiments: Experiments, settings: Callable[..., Params], tmp_path: Path
) -> None:
    compare.compare(settings(), out=tmp_path / "c.json")
    assert [(name, target) for name, target, _ in experiments.asked] == [
        (f"compare-{name}-{seed}", "distill@kd") for seed in (0, 1) for name in LOSSES
    ]
    assert experiments.asked[1][2] == {"students.kd.loss": "kd", "distill.seed": 0}
    written = comparison.load(tmp_path / "c.json")
    assert (written.steps, written.minutes, written.rows[0].steps) == (300, None, None)
    assert (written.rows[1].best.miou, written.rows[1].last.miou) == ((52.0, 53.0), (51.0, 52.0))
    assert (written.rows[1].best.gain, written.rows[1].last.gain) == (2.0, 2.0)
    curves = [(100, 300), (40.0, 50.5)], [(100, 300), (41.0, 50.5)]
    assert [[curve.steps, curve.miou] for curve in written.rows[1].curves if curve] == list(map(list, curves))
    assert written.rows[1].best.ious == ((62.0, 42.0), (63.0, 43.0))


def test_every_loss_is_timed_and_gets_the_steps_of_the_same_minutes(
    experiments: Experiments, settings: Callable[..., Params], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without minutes: those of `none`, 300 steps of 0.1 s; steps of 0.25 s leave 120 of them."""
    compare.compare(settings(budget="minutes"), out=tmp_path / "c.json")
    timed, runs = experiments.asked[:2], experiments.asked[2:]
    assert [name for name, _, _ in timed] == ["compare-alone-time", "compare-kd-time"]
    assert {length(changed) for _, _, changed in timed} == {(_equal_minutes.TIMED, _equal_minutes.TIMED, 20)}
    assert [(name, length(changed)) for name, _, changed in runs] == [
        ("compare-alone-0", (300, 100, 20)), ("compare-kd-0", (120, 40, 8)),
        ("compare-alone-1", (300, 100, 20)), ("compare-kd-1", (120, 40, 8)),
    ]  # fmt: skip
    written = comparison.load(tmp_path / "c.json")
    assert (written.steps, written.minutes, [row.steps for row in written.rows]) == (None, 0.5, [300, 120])
    assert [row.training_seconds for row in written.rows] == pytest.approx([30.0, 30.0])
    printed = capsys.readouterr().out
    assert "kd: 250.0 ms per step (over 60 steps)" in printed
    assert "0.50 minutes of training per run; steps: alone 300, kd 120" in printed
    assert "4/4  kd, seed 1: mIoU 53.00 (best), 52.00 (last) (" in printed


@pytest.mark.parametrize(
    ("losses", "options", "unlabelled", "steps"),
    [
        (LOSSES, {}, {}, [300, 40]),  # 30 s of training, 20 of them before the first step; steps of 0.25 s
        (LOSSES, {"minutes": 1.0}, {"sources": ["frames"], "labels": "hard", "rounds": 2}, [300, 80]),
        ({"kd": "kd"}, {}, {}, [300]),
    ],
)
def test_the_time_before_the_first_step_counts(
    experiments: Experiments, settings: Callable[..., Params], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    losses: dict[str, str], options: dict[str, Any], unlabelled: dict[str, Any], steps: list[int],
) -> None:  # fmt: skip
    """The teacher sees whole frames for 20 s, before the first round; that is no reason to warn of slow steps."""
    experiments.cached = 20.0
    chosen = settings(budget="minutes", recipe={"unlabelled": unlabelled}, **options)
    chosen = chosen.model_copy(update={"compare": chosen.compare.model_copy(update={"losses": losses})})
    compare.compare(chosen, out=tmp_path / "c.json")
    assert [row.steps for row in comparison.load(tmp_path / "c.json").rows] == steps
    assert "when its loss was timed" not in capsys.readouterr().out


def test_minutes_that_end_before_the_first_step_are_refused(
    experiments: Experiments, settings: Callable[..., Params], tmp_path: Path
) -> None:
    experiments.cached = 31.0
    message = r"compare\.minutes: .* 0\.50 minutes: kd 0\.52 .* raise compare\.minutes"
    with pytest.raises(UserError, match=message):
        compare.compare(settings(budget="minutes"), out=tmp_path / "c.json")
    assert len(experiments.asked) == 2, "only the timing"


@pytest.mark.parametrize(
    ("options", "recipe", "steps"),
    [
        ({"minutes": 1.0}, {}, (600, 240)),
        ({}, {"steps": None, "epochs": 2.0}, (200, 80)),  # 2 x 400 images, 4 per step
        ({}, {"steps": None, "epochs": 2.0, "unlabelled": {"sources": ["drives"]}}, (400, 160)),  # 2 of 4 have labels
        ({"minutes": 0.0001}, {}, (1, 1)),
    ],
)
def test_minutes_may_be_stated_and_epochs_become_steps(
    experiments: Experiments, settings: Callable[..., Params], tmp_path: Path,
    options: dict[str, Any], recipe: dict[str, Any], steps: tuple[int, int],
) -> None:  # fmt: skip
    compare.compare(settings(budget="minutes", recipe=recipe, **options), out=tmp_path / "c.json")
    assert tuple(changed["distill.steps"] for _, _, changed in experiments.asked[2:4]) == steps
    epochs = {changed.get("distill.epochs", "as it is") for _, _, changed in experiments.asked}
    assert epochs == ({None} if recipe else {"as it is"})


FRAMES = {"sources": ["frames"], "share": 0.5}


@pytest.mark.parametrize(("unlabelled", "steps"), [({}, 200), (FRAMES, 400)])
def test_epochs_are_the_same_steps_for_every_loss(
    experiments: Experiments, settings: Callable[..., Params], tmp_path: Path, unlabelled: dict[str, Any], steps: int
) -> None:
    """With frames without labels, `none` has batches of labelled images only, so its own epochs have half the steps."""
    recipe = {"steps": None, "epochs": 2.0, "unlabelled": unlabelled}
    compare.compare(settings(recipe=recipe), out=tmp_path / "c.json")
    lengths = {(changed["distill.steps"], changed["distill.epochs"]) for _, _, changed in experiments.asked}
    assert lengths == {(steps, None)}
    written = comparison.load(tmp_path / "c.json")
    assert written.steps == steps and [row.steps for row in written.rows] == [None, None]
    compare.compare(settings(budget="minutes", recipe=recipe), out=tmp_path / "c.json")
    assert comparison.load(tmp_path / "c.json").rows[0].steps == steps


def test_steps_that_take_another_time_than_in_the_timing_are_a_warning(
    experiments: Experiments, settings: Callable[..., Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """By a fifth, as where other work ran while a loss was timed: its runs would be longer than the others."""
    compare.compare(settings(budget="minutes"), out=tmp_path / "c.json")
    assert "when its loss was timed" not in capsys.readouterr().out
    read = experiments.read

    def faster(commit: str, path: str) -> dict[str, Any]:
        value = read(commit, path)
        if "costs" in path and json.loads(commit)[1]["distill.steps"] != _equal_minutes.TIMED:
            value["seconds_per_step"] /= 1.25
        return value

    monkeypatch.setattr(_experiments, "read", faster)
    compare.compare(settings(budget="minutes"), out=tmp_path / "c.json")
    printed = capsys.readouterr().out
    assert "kd, seed 1: a step took 200.0 ms, and 250.0 ms when its loss was timed" in printed
    assert printed.count("put another seed first in compare.seeds") == 4


def test_stage_0_is_not_timed_and_rounds_share_the_minutes(
    experiments: Experiments, settings: Callable[..., Params], tmp_path: Path
) -> None:
    recipe = {"stage0": {"steps": 50}, "unlabelled": {**FRAMES, "labels": "hard", "rounds": 2}}
    compare.compare(settings(budget="minutes", minutes=1.0, recipe=recipe), out=tmp_path / "c.json")
    timed, runs = experiments.asked[:2], experiments.asked[2:4]
    for _, _, changed in timed:
        assert (changed["distill.stage0.steps"], changed["distill.unlabelled.rounds"]) == (0, 1)
    assert [changed["distill.steps"] for _, _, changed in runs] == [300, 120], "half a minute in each of two rounds"
    assert not any(key.startswith(("distill.stage0", "distill.unlabelled")) for _, _, x in runs for key in x)


def test_without_the_student_alone_the_first_loss_sets_the_minutes(
    experiments: Experiments, settings: Callable[..., Params], tmp_path: Path
) -> None:
    settings_of_one = settings(budget="minutes")
    only = settings_of_one.compare.model_copy(update={"losses": {"kd": "kd"}})
    compare.compare(settings_of_one.model_copy(update={"compare": only}), out=tmp_path / "c.json")
    assert length(experiments.asked[1][2]) == (300, 100, 20)


def test_an_interrupted_comparison_asks_for_the_same_runs_again(
    experiments: Experiments, settings: Callable[..., Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The measured times of a step are among the finished runs, so the steps are the same."""
    chosen, out = settings(budget="minutes"), tmp_path / "c.json"
    run = experiments.run

    def interrupted(name: str, **options: Any) -> tuple[str, bool]:
        if name == "compare-kd-1":
            raise KeyboardInterrupt
        return run(name, **options)

    monkeypatch.setattr(_experiments, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare.compare(chosen, out=out)
    unfinished = comparison.load(out)
    assert unfinished.rows[0].best.miou == (50.0, 51.0) and unfinished.rows[1].best.miou == (52.0, None)
    done = set(experiments.finished)
    monkeypatch.setattr(_experiments, "run", run)
    capsys.readouterr()
    compare.compare(chosen, out=out)
    assert len(experiments.finished - done) == 1, "only the run that was interrupted"
    printed = capsys.readouterr().out
    assert "kd: 250.0 ms per step (from the run cache)" in printed and printed.count("from the run cache") == 5
    assert comparison.load(out).rows[1].best.miou == (52.0, 53.0)


def test_split_and_weights_of_the_comparison(
    experiments: Experiments, settings: Callable[..., Params], tmp_path: Path
) -> None:
    compare.compare(settings(split="test", weights="last"), out=tmp_path / "c.json")
    written = comparison.load(tmp_path / "c.json")
    assert (written.split, written.weights, written.teacher.miou) == ("test", "last", 55.0)
    assert (written.rows[1].best.miou, written.rows[1].last.miou) == ((42.0, 43.0), (41.0, 42.0))
    assert [target for _, target, _ in experiments.asked] == ["distill@kd"] * 4, "streets are rendered: no INT8"


@pytest.mark.parametrize("options", [{"dataset": "camvid"}, {"int8": True}])
def test_runs_are_checked_in_int8_on_real_data_or_where_it_is_asked_for(
    experiments: Experiments, settings: Callable[..., Params], tmp_path: Path, options: dict[str, Any]
) -> None:
    compare.compare(settings(split="test", weights="last", **options), out=tmp_path / "c.json")
    assert {target for _, target, _ in experiments.asked} == {"check@kd"}
    measured = {key: value for key, value in experiments.asked[0][2].items() if not key.endswith(("loss", "seed"))}
    assert measured == {
        "check.warmup": 0, "check.runs": 10, "check.seconds": 0.0, "check.split": "test",
        "students.kd.export": "last",
    }  # fmt: skip
    kd = comparison.load(tmp_path / "c.json").rows[1]
    assert (kd.int8.miou, kd.int8.gain, kd.int8_drop) == ((40.5, 41.5), 2.0, (0.5, 2.5))
    assert "| b 2.5 |" in comparison_table.markdown(comparison.load(tmp_path / "c.json"))


def test_int8_can_be_left_out_on_real_data(
    experiments: Experiments, settings: Callable[..., Params], tmp_path: Path
) -> None:
    compare.compare(settings(dataset="camvid", int8=False), out=tmp_path / "c.json")
    assert {target for _, target, _ in experiments.asked} == {"distill@kd"}
    assert "INT8 mIoU" not in comparison_table.markdown(comparison.load(tmp_path / "c.json"))


def test_a_split_without_labels_is_refused_before_the_first_run(
    settings: Callable[..., Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    metrics = {"val": {"miou": 60.0}, "test": {"miou": 55.0}, "bare": {"miou": None}}
    with artifact.create(tmp_path / "artifacts/teacher", kind="network", meta={"metrics": metrics}):
        pass
    compare.require_split(settings(split="test"))
    for split in ("tset", "bare"):
        with pytest.raises(UserError, match=rf"compare\.split: got '{split}', .* choose one of \['test', 'val'\]"):
            compare.require_split(settings(split=split))
