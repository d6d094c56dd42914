"""Presets: valid params, comments are kept, the default changes no value, and a mistake changes no byte."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.settings import params, presets

ROOT = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml"))


def test_the_default_preset_is_the_committed_params_file(file: Path) -> None:
    before = file.read_bytes()
    assert presets.apply("streets", file) == [] and file.read_bytes() == before


@pytest.mark.parametrize("name", [name for name in presets.available() if name != "streets"])
def test_a_preset_is_valid_and_the_default_can_be_restored(name: str, file: Path) -> None:
    before = file.read_text()
    assert "distill.steps" in "\n".join(presets.apply(name, file))
    settings = params.load(file)
    assert settings.dataset != "streets" and settings.compare.student in settings.students
    assert len(presets.available()[name]) > 20
    assert before.count("#") - file.read_text().count("#") < 15, "comments are kept, except in removed sections"
    assert "null" in file.read_text() and "&id" not in file.read_text()
    presets.apply("streets", file)
    changed = params.load(file).model_dump()
    original = params.load(ROOT / "params.yaml").model_dump()
    assert {key: changed[key] for key in ("dataset", "input_size", "students")} == {
        key: original[key] for key in ("dataset", "input_size", "students")
    }


def test_the_cirkd_protocol_against_the_paper(file: Path) -> None:
    """Table in section 4.1 of arXiv 2204.06986 and its official configuration."""
    presets.apply("cirkd_cityscapes", file)
    recipe = params.load(file).distill
    assert (recipe.optimizer, recipe.lr, recipe.momentum, recipe.weight_decay) == ("sgd", 0.02, 0.9, 1e-4)
    assert (recipe.schedule, recipe.power, recipe.warmup, recipe.steps, recipe.batch_size) == (
        "poly",
        0.9,
        0,
        40000,
        16,
    )
    assert recipe.crop == (512, 1024) and recipe.scale == (0.5, 2.0) and recipe.sync_batch_norm
    assert recipe.class_balance == 0.0 and recipe.colour_jitter == 0.0
    presets.apply("cirkd_camvid", file)
    assert params.load(file).distill.crop == (360, 360)


def test_mistakes_leave_the_file_as_it_was(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()
    with pytest.raises(UserError, match="no preset 'cirkd_camvit'; did you mean 'cirkd_camvid'"):
        presets.apply("cirkd_camvit", file)
    monkeypatch.setattr(presets, "FOLDER", tmp_path)
    (tmp_path / "wrong.yaml").write_text("# wrong\ndistill: {lr: -1.0}\n")
    with pytest.raises(UserError, match=r"distill.lr: got -1.0"):
        presets.apply("wrong", file)
    assert file.read_bytes() == before
    with pytest.raises(UserError, match="no such file"):
        presets.apply("wrong", tmp_path / "absent.yaml")


@pytest.mark.parametrize("name", [name for name in presets.available() if name.startswith("cirkd_")])
def test_every_network_of_the_cirkd_protocol_has_an_auxiliary_head(name: str, file: Path) -> None:
    presets.apply(name, file)
    settings = params.load(file)
    for model in (settings.teacher.model, *(student.model for student in settings.students.values())):
        assert model.options["aux_loss"] is True
