"""The loss of a student in its three forms, and the stage that writes it with the hashes of its code."""

from __future__ import annotations

import hashlib
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.errors import UserError
from pipeline.settings import loss_mixture, plugin_options

ROOT = Path(__file__).parents[2]
OPTIONS = {"kd": {"temperature": 2.0, "weight": 1.0}, "fitnet": {"weight": 10.0}}


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("kd", {"kd": OPTIONS["kd"]}),
        ("at", {"at": {}}),
        (["fitnet", "kd"], {"fitnet": OPTIONS["fitnet"], "kd": OPTIONS["kd"]}),
        (
            {"kd": {}, "fitnet": {"weight": 5.0, "other": 1}},
            {"kd": OPTIONS["kd"], "fitnet": {"weight": 5.0, "other": 1}},
        ),
    ],
)
def test_options_beside_a_name_override_those_of_the_section(loss: Any, expected: dict[str, Any]) -> None:
    assert loss_mixture.form_problem(loss) == ""
    resolved = loss_mixture.resolve(loss, OPTIONS)
    assert resolved == expected and list(resolved) == list(expected)
    assert OPTIONS["fitnet"] == {"weight": 10.0}


@pytest.mark.parametrize("loss", ["canonical", ["canonical"], {"canonical": {}}])
def test_canonical_is_logits_and_standardised_features_whose_weights_fit_themselves(loss: Any) -> None:
    assert loss_mixture.form_problem(loss) == ""
    assert loss_mixture.resolve(loss, OPTIONS) == {
        "kd": {"temperature": 2.0, "weight": "auto"},
        "fitnet": {"weight": "auto", "normalize": "channels", "adapter": "norm"},
    }
    assert loss_mixture.title(loss_mixture.resolve(loss, OPTIONS)) == "kd+fitnet"
    assert set(loss_mixture.resolve(["canonical", "at"], OPTIONS)) == {"kd", "fitnet", "at"}


@pytest.mark.parametrize(
    ("loss", "problem"),
    [
        (["canonical", "kd"], "a loss is named twice; name each once, and change its weight by its options"),
        (
            {"canonical": {"weight": 2.0}},
            "canonical has no options; write out what it stands for: {kd: {weight: auto}, "
            "fitnet: {weight: auto, normalize: channels, adapter: norm}}",
        ),
    ],
)
def test_canonical_is_neither_doubled_nor_changed(loss: Any, problem: str) -> None:
    assert loss_mixture.form_problem(loss) == problem


def test_a_wrong_name_may_mean_canonical() -> None:
    (message,) = plugin_options.problems({"students": {"a": {"loss": "canonicl"}}}, ["losses"])
    assert message.startswith("students.a.loss: got 'canonicl'") and "did you mean 'canonical'" in message


def test_the_title_of_a_mixture_names_its_parts() -> None:
    assert loss_mixture.title(loss_mixture.resolve(["kd", "fitnet"], OPTIONS)) == "kd+fitnet"
    assert loss_mixture.title(loss_mixture.resolve("kd", OPTIONS)) == "kd"


class Stage:
    """``run()`` writes the lists of the committed params.yaml after a change, for two students."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.out, self.params = root / "out", root / "params.yaml"
        self.patch = monkeypatch

    def run(self, change: Callable[[dict[str, Any]], object] = lambda raw: None) -> dict[str, bytes]:
        raw = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
        model = raw["students"]["kd"]["model"]
        raw["students"] = {"kd": {"model": model, "loss": "kd"}, "both": {"model": model, "loss": ["kd", "fitnet"]}}
        raw["compare"]["student"] = "kd"
        change(raw)
        with self.params.open("w") as stream:
            YAML().dump(raw, stream)
        self.patch.setattr(sys, "argv", ["sources.py", "--params", str(self.params), "--out", str(self.out)])
        assert runpy.run_path(str(ROOT / "stages/sources.py"))["main"]() == 0
        return {file.relative_to(self.out).as_posix(): file.read_bytes() for file in self.out.rglob("*.json")}


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(tmp_path, monkeypatch)


def test_the_stage_writes_a_list_per_stage_and_student(stage: Stage) -> None:
    written = stage.run(lambda raw: raw["students"]["kd"].update(loss={"kd": {"weight": 3.0}}))
    assert {name for name in written if "/" not in name} == {
        "prepare.json", "prepare_unlabelled.json", "train_teacher.json", "report.json", "gate.json",
    }  # fmt: skip
    assert {name for name in written if name.startswith("distill/")} == {"distill/both.json", "distill/kd.json"}
    kd, both = (json.loads(written[f"distill/{name}.json"])["loss"] for name in ("kd", "both"))
    assert (kd["name"], both["name"]) == ("kd", "kd+fitnet")
    assert kd["options"]["kd"]["weight"] == 3.0 and both["options"]["kd"]["weight"] == 1.0
    assert "pipeline/losses/kd.py" in kd["sources"] and "pipeline/losses/fitnet.py" not in kd["sources"]
    assert {"pipeline/losses/kd.py", "pipeline/losses/fitnet.py"} <= set(both["sources"])
    assert json.loads(written["qat/both.json"])["loss"] == both and "loss" not in json.loads(written["export/kd.json"])


def test_a_changed_value_changes_only_the_files_that_depend_on_it(stage: Stage) -> None:
    before = stage.run()
    assert stage.run() == before
    after = stage.run(lambda raw: raw["losses"]["fitnet"].update(weight=3.0))
    assert {name for name in before if after[name] != before[name]} == {"distill/both.json", "qat/both.json"}
    runtime = stage.run(lambda raw: raw["convert"].update(runtime="tensorrt"))
    changed = {name for name in before if runtime[name] != before[name]}
    assert changed == {f"{stage}/{student}.json" for stage in ("convert", "check") for student in ("kd", "both")}


def test_weights_are_identified_by_their_bytes(stage: Stage, tmp_path: Path) -> None:
    file = tmp_path / "own.safetensors"

    def weights(raw: dict[str, Any]) -> None:
        raw["teacher"]["model"]["encoder_weights"] = str(file)

    file.write_bytes(b"one")
    before = stage.run(weights)
    digest = hashlib.sha256(b"one").hexdigest()
    named = {"encoder_weights": {"value": str(file), "sha256": digest}}
    assert json.loads(before["train_teacher.json"])["weights"] == named
    assert json.loads(before["distill/kd.json"])["weights"] == {}
    file.write_bytes(b"other")
    after = stage.run(weights)
    assert {name for name in before if after[name] != before[name]} == {"train_teacher.json"}


def test_files_of_removed_students_are_removed(stage: Stage) -> None:
    stage.run()
    assert not [name for name in stage.run(lambda raw: raw["students"].pop("both")) if "both" in name]


@pytest.mark.parametrize("text", ["{}", '{"loss": "kd"}'])
def test_a_file_without_losses_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "export.json").write_text(text)
    with pytest.raises(UserError, match=r"export\.json: names no losses; needed: .*; write it with: dvc repro sources"):
        loss_mixture.read(tmp_path / "export.json")
