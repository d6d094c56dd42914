"""The loss of a student in its three forms, and the stage that writes it down with the code it comes from."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline import recipes

ROOT = Path(__file__).parents[1]
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
def test_options_beside_a_name_stand_above_those_of_the_section(loss: Any, expected: dict[str, Any]) -> None:
    assert recipes.form_fault(loss) == ""
    found = recipes.resolve(loss, OPTIONS)
    assert found == expected and list(found) == list(expected)
    assert OPTIONS["fitnet"] == {"weight": 10.0}


def test_a_mixture_is_called_by_its_parts() -> None:
    assert recipes.title(recipes.resolve(["kd", "fitnet"], OPTIONS)) == "kd+fitnet"
    assert recipes.title(recipes.resolve("kd", OPTIONS)) == "kd"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Losses that import one another in every way that Python has."""
    texts = {
        "a": "from pipeline.losses import DistillationLoss\nfrom pipeline.losses._one import x\nimport torch\n",
        "b": "def f():\n    import pipeline.losses._three\n",
        "_one": "from pipeline.losses import _two\nfrom pipeline.models import SegOutput\n",
        "_two": "from ._three import x\nfrom . import _one\n",
        "_three": "",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


def test_sources_are_the_files_that_a_loss_imports(folder: Path) -> None:
    assert list(recipes.sources(["a"], folder=folder)) == ["_one.py", "_three.py", "_two.py", "a.py"]
    assert list(recipes.sources(["b"], folder=folder)) == ["_three.py", "b.py"]
    both = recipes.sources(["a", "b"], folder=folder)
    assert both == {**recipes.sources(["a"], folder=folder), **recipes.sources(["b"], folder=folder)}


def test_a_changed_private_module_changes_the_recipes_that_use_it(folder: Path) -> None:
    before = [recipes.sources([name], folder=folder) for name in ("a", "b")]
    (folder / "_two.py").write_text("from ._three import y\n")
    after = [recipes.sources([name], folder=folder) for name in ("a", "b")]
    assert before[0] != after[0] and before[1] == after[1]


class Stage:
    """``run()`` writes the recipes of the committed params.yaml after a change, with a copy of the losses."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.out, self.params, self.losses = root / "out", root / "params.yaml", root / "losses"
        shutil.copytree(recipes.FOLDER, self.losses)
        self.patch = monkeypatch
        monkeypatch.setattr(recipes.sources, "__kwdefaults__", {"folder": self.losses})

    def run(self, change: Callable[[dict[str, Any]], object] = lambda raw: None) -> dict[str, bytes]:
        raw = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
        model = raw["students"]["kd"]["model"]
        raw["students"] = {"kd": {"model": model, "loss": "kd"}, "both": {"model": model, "loss": ["kd", "fitnet"]}}
        raw["compare"]["student"] = "kd"
        change(raw)
        with self.params.open("w") as stream:
            YAML().dump(raw, stream)
        self.patch.setattr(sys, "argv", ["losses.py", "--params", str(self.params), "--out", str(self.out)])
        assert runpy.run_path(str(ROOT / "stages/losses.py"))["main"]() == 0
        return {file.name: file.read_bytes() for file in self.out.iterdir()}


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(tmp_path, monkeypatch)


def test_the_stage_writes_name_options_and_sources(stage: Stage) -> None:
    written = stage.run(lambda raw: raw["students"]["kd"].update(loss={"kd": {"weight": 3.0}}))
    assert sorted(written) == ["both.json", "kd.json"]
    kd, both = json.loads(written["kd.json"]), json.loads(written["both.json"])
    assert (kd["name"], both["name"]) == ("kd", "kd+fitnet")
    assert kd["options"]["kd"]["weight"] == 3.0 and both["options"]["kd"]["weight"] == 1.0
    assert {"kd.py", "_base.py"} <= set(kd["sources"]) and "fitnet.py" not in kd["sources"]
    assert {"kd.py", "fitnet.py"} <= set(both["sources"])


def test_only_what_changed_is_written_anew(stage: Stage) -> None:
    before = stage.run()
    assert stage.run() == before
    (stage.losses / "another.py").write_text("")
    assert stage.run() == before
    options = stage.run(lambda raw: raw["losses"]["fitnet"].update(weight=3.0))
    assert options["kd.json"] == before["kd.json"] and options["both.json"] != before["both.json"]
    (stage.losses / "fitnet.py").write_text((stage.losses / "fitnet.py").read_text() + "\n")
    code = stage.run()
    assert code["kd.json"] == before["kd.json"] and code["both.json"] != before["both.json"]


def test_files_of_students_that_are_gone_are_removed(stage: Stage) -> None:
    stage.run()
    assert sorted(stage.run(lambda raw: raw["students"].pop("both"))) == ["kd.json"]
