"""The stages `raw_data` and `prepare_unlabelled` on frames without labels, as a user runs them."""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from ruamel.yaml import YAML

from pipeline import datasets
from pipeline.frames import write_png
from pipeline.preparation.prepare import prepare
from pipeline.prepared import Unlabelled
from tests.preparation.conftest import scene

ROOT = Path(__file__).parents[2]


class Project:
    """A folder with params.yaml and a prepared data set; ``run`` runs a stage there, in this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        options = {"train": 2, "val": 1, "sequence": 0, "size": [64, 96], "seed": 3}
        prepare(datasets.build("streets", options), folder / "dataset", name="streets", options=options,
                progress=lambda *step: None)  # fmt: skip

    def choose(self, *sources: str, **options: Any) -> None:
        params = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
        params["distill"]["unlabelled"].update(sources=list(sources), **options)
        with (self.folder / "params.yaml").open("w") as stream:
            YAML().dump(params, stream)

    def run(self, stage: str, *arguments: str) -> tuple[int, str]:
        output = io.StringIO()
        with (
            contextlib.chdir(self.folder), contextlib.redirect_stdout(output), contextlib.redirect_stderr(output),
            mock.patch.object(sys, "argv", [f"{stage}.py", *arguments]), pytest.raises(SystemExit) as ended,
        ):  # fmt: skip
            runpy.run_path(str(ROOT / "stages" / f"{stage}.py"), run_name="__main__")
        return int(ended.value.code or 0), output.getvalue()

    def raw_data(self) -> tuple[bytes, str]:
        """The file on which `prepare_unlabelled` depends, and what the stage prints."""
        status, output = self.run("raw_data", "--out", "raw_data.json", "--unlabelled", "raw_unlabelled.json")
        assert status == 0, output
        return (self.folder / "raw_unlabelled.json").read_bytes(), output

    def prepare(self) -> tuple[int, str]:
        return self.run("prepare_unlabelled", "--dataset", "dataset", "--out", "unlabelled")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "project"
    folder.mkdir()
    for number in range(3):
        write_png(folder / "my drives" / f"{number}.png", scene(number))
    return Project(folder)


def test_sources_are_relative_to_the_project(project: Project) -> None:
    project.choose("my drives", "my drives/1.png")
    before, output = project.raw_data()
    assert json.loads(before)["files"] == 3 and "raw_unlabelled.json: 3 files without labels" in output
    status, output = project.prepare()
    assert status == 0 and "warning: my drives/1.png: files of other sources are left out: 1 file" in output
    assert "unlabelled: 3 of 3 frames; 3 images, 0 videos" in output
    assert Unlabelled(project.folder / "unlabelled").names == [f"my drives/{number}" for number in range(3)]


def test_what_changes_the_frames_changes_the_fingerprint_and_nothing_else_does(project: Project) -> None:
    project.choose("my drives")
    before, _ = project.raw_data()
    drives = project.folder / "my drives"
    (drives / "notes.txt").write_text("x")
    (drives / "0.png").touch()
    project.choose("my drives", share=0.25)
    assert project.raw_data()[0] == before, "times, other files, and options of the training"
    drives.rename(project.folder / "away")
    drives.symlink_to(project.folder / "away")
    assert project.raw_data()[0] == before, "a link to the same frames"
    seen = {before}
    for change in (
        lambda: write_png(drives / "3.png", scene(3)),
        lambda: write_png(drives / "0.png", scene(4)),
        lambda: (drives / "1.png").rename(drives / "9.png"),
        (drives / "2.png").unlink,
        lambda: project.choose("my drives", every=5),
        lambda: project.choose("my drives", every=5, duplicates=None),
        lambda: project.choose("my drives/*.png", every=5, duplicates=None),
    ):
        change()
        now, _ = project.raw_data()
        assert now not in seen
        seen.add(now)


def test_without_sources_there_is_little_to_do(project: Project) -> None:
    project.choose()
    before, output = project.raw_data()
    assert json.loads(before)["files"] == 0 and project.raw_data()[0] == before
    status, output = project.prepare()
    assert status == 0 and "unlabelled: 0 of 0 frames" in output
    assert len(Unlabelled(project.folder / "unlabelled")) == 0


def test_missing_sources_count_as_unchanged(project: Project) -> None:
    """The clone of a project has the file of the cache, and not the data."""
    project.choose("my drives")
    before, _ = project.raw_data()
    (project.folder / "my drives").rename(project.folder / "away")
    now, output = project.raw_data()
    assert now == before
    assert "my drives: no such file or folder" in output and "the raw data count as unchanged" in output
    (project.folder / "my drives").mkdir()
    now, output = project.raw_data()
    assert now == before and "no image or video in this folder or below it" in output, "a disk that is not mounted"


def test_options_that_are_changed_and_changed_back_without_the_data_change_nothing(project: Project) -> None:
    project.choose("my drives")
    before, _ = project.raw_data()
    (project.folder / "my drives").rename(project.folder / "away")
    project.choose("my drives", every=5)
    now, output = project.raw_data()
    assert now != before and "my drives: no such file or folder" in output and "unchanged" not in output
    assert project.raw_data()[0] == now
    status, output = project.prepare()
    assert status == 1 and "my drives: no such file or folder" in output
    project.choose("my drives")
    assert project.raw_data()[0] == before


def test_missing_sources_are_an_error_if_they_are_new(project: Project) -> None:
    project.choose("my drives")
    before, _ = project.raw_data()
    project.choose("my drives", "gone")
    assert project.raw_data()[0] != before, "so that the next stage runs"
    status, output = project.prepare()
    assert status == 1 and output.lstrip().startswith("error: frames without labels: 1 problem")
    assert "distill.unlabelled.sources: gone: no such file or folder; allowed: a folder" in output
    assert not (project.folder / "unlabelled").exists()
    (project.folder / "raw_unlabelled.json").unlink()
    assert json.loads(project.raw_data()[0])["files"] == 3, "a first run without the data ends in the same error"


def test_errors_in_files_reach_the_user_through_the_stage(project: Project) -> None:
    project.choose("my drives")
    before, _ = project.raw_data()
    (project.folder / "my drives" / "bad.png").write_bytes(b"no image")
    (project.folder / "my drives" / "twin.png").write_bytes((project.folder / "my drives" / "0.png").read_bytes())
    (project.folder / "my drives" / "twin.jpg").write_bytes(b"x")
    assert project.raw_data()[0] != before
    status, output = project.prepare()
    assert status == 1 and "1 problem" in output and "the same sample as my drives/twin.jpg" in output
    (project.folder / "my drives" / "twin.jpg").unlink()
    project.raw_data()
    status, output = project.prepare()
    assert status == 1 and "1 problem" in output and "bad.png: not a readable image" in output
