"""Folders of raw data: each is read once, hidden ones are skipped, and one that cannot be read is an error."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.datasets._patterns import compiled, find
from pipeline.datasets._walk import walk
from pipeline.datasets.streets import Streets
from pipeline.errors import Problems, command
from pipeline.preparation.frame_sources import find_files


@pytest.fixture
def unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with a folder that cannot be read, also by root."""
    for name in ("a/1.png", "secret/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    real = os.scandir

    def scandir(path: Any) -> Any:
        if Path(path).name == "secret":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    return tmp_path


def test_an_unreadable_folder_is_one_clear_error(unreadable: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its files would be missing from the data without a message."""

    class Plugin(Streets):
        root = unreadable

    pattern = compiled("**/*", Problems("x"), key="images")
    for read in (
        lambda: list(walk(unreadable)),
        lambda: find(unreadable, pattern, []),
        lambda: find_files([str(unreadable)]),
        lambda: list(super(Streets, Plugin(train=1, val=1, sequence=0, size=(64, 96), seed=0)).raw_files()),
    ):
        assert command(lambda read=read: read() and None)() == 1  # type: ignore[misc]
        error = capsys.readouterr().err
        assert error == f"error: {unreadable}/secret: Permission denied; fix this and run the command again\n"


def test_links_are_followed_once_and_hidden_names_skipped(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/.3.png", ".git/4.png", "a/1.png", "a/0.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "c").symlink_to(tmp_path / "b")
    found = [(folder.relative_to(tmp_path).as_posix(), files) for folder, files in walk(tmp_path)]
    assert found == [(".", []), ("a", ["0.png", "1.png"]), ("b", ["2.png"])]


def test_no_root_has_no_folders(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert not list(walk(tmp_path / "gone")) and not list(walk(tmp_path / "file"))
