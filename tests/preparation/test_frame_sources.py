"""Which files the sources of frames without labels name, under which names, and which sources are errors."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.frames import write_png
from pipeline.preparation.frame_sources import find_files
from tests.preparation.conftest import scene


def images(root: Path, *names: str) -> Path:
    for name in names:
        write_png(root / name, scene(0))
    return root


def test_a_folder_is_read_with_all_folders_inside(tmp_path: Path) -> None:
    images(tmp_path / "drives", "b/2.png", "b/1.png", "a.png", "._a.png", ".hidden/x.png")
    (tmp_path / "drives" / "clip.MP4").write_bytes(b"video")
    (tmp_path / "drives" / "notes.txt").write_text("no image")
    files = find_files([str(tmp_path / "drives")])
    assert list(files.images) == ["drives/a", "drives/b/1", "drives/b/2"]
    assert files.videos == {"drives/clip.MP4": tmp_path / "drives" / "clip.MP4"}
    assert files.images["drives/b/1"] == tmp_path / "drives" / "b" / "1.png"
    assert not files.missing and not files.problems and not files.warnings


def test_patterns_files_and_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images(tmp_path / "my drives", "monday/left/1.png", "monday/right/1.png", "tuesday/left/1.png", "one.png")
    monkeypatch.chdir(tmp_path)
    files = find_files(["my drives/**/left/*.png", "my drives/one.png", "./my drives/monday/right"])
    assert list(files.images) == ["my drives/monday/1", "my drives/tuesday/1", "one", "right/1"]
    assert not files.missing and not files.problems


def test_a_video_and_a_folder_of_its_frames_have_other_names(tmp_path: Path) -> None:
    images(tmp_path / "drives", "clip/000000.png")
    (tmp_path / "drives" / "clip.mp4").write_bytes(b"video")
    files = find_files([str(tmp_path / "drives")])
    assert list(files.names.values()) == ["drives/clip/000000", "drives/clip.mp4"]


def test_a_video_and_its_preview_are_both_found(tmp_path: Path) -> None:
    """They have one name, and a change of either is noticed."""
    images(tmp_path / "drives", "clip.mp4.png")
    (tmp_path / "drives" / "clip.mp4").write_bytes(b"video")
    files = find_files([str(tmp_path / "drives")])
    assert list(files.images) == list(files.videos) == ["drives/clip.mp4"]
    assert set(files.names) == {tmp_path / "drives" / "clip.mp4", tmp_path / "drives" / "clip.mp4.png"}


def test_a_hidden_folder_may_be_a_source(tmp_path: Path) -> None:
    files = find_files([str(images(tmp_path / ".frames", "1.png"))])
    assert list(files.images) == ["frames/1"] and not files.problems


def test_sources_with_one_name_get_numbers(tmp_path: Path) -> None:
    images(tmp_path, "a/left/1.png", "b/left/1.png")
    files = find_files([str(tmp_path / "a" / "left"), str(tmp_path / "b" / "left")])
    assert list(files.images) == ["left/1", "left-2/1"]


def test_names_never_leave_the_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images(tmp_path, "a/1.png", "b/c/2.png")
    monkeypatch.chdir(tmp_path / "b")
    for source in (
        "..",
        "../a",
        "../a/../a",
        "../*/*.png",
        ".",
        os.path.relpath("/", tmp_path / "b") + str(tmp_path / "a"),
    ):
        files = find_files([source])
        assert files.images and not files.problems, source
        assert not [name for name in files.images if ".." in name.split("/") or name.startswith("/")], source


def test_links_are_followed_and_a_loop_ends(tmp_path: Path) -> None:
    images(tmp_path / "there", "1.png", "2.png")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "linked").symlink_to(tmp_path / "there")
    (tmp_path / "there" / "loop").symlink_to(tmp_path / "there")
    (tmp_path / "here" / "3.png").symlink_to(tmp_path / "there" / "1.png")
    (tmp_path / "short").symlink_to(tmp_path / "there")
    assert list(find_files([str(tmp_path / "short")]).images) == ["short/1", "short/2"]
    assert list(find_files([str(tmp_path / "here" / "linked")]).images) == ["linked/1", "linked/2"]


def test_a_file_of_two_sources_is_used_once(tmp_path: Path) -> None:
    images(tmp_path / "a", "1.png", "2.png")
    files = find_files([str(tmp_path / "a" / "1.png"), str(tmp_path / "a")])
    assert list(files.images) == ["1", "a/2"]
    assert files.warnings == [f"{tmp_path}/a: files of other sources are left out: 1 file ({tmp_path}/a/1.png)"]


def test_overlays_of_infer_are_left_out(tmp_path: Path) -> None:
    images(tmp_path / "a", "1.png", "1-overlay.png", "other-overlay.png")
    files = find_files([str(tmp_path / "a")])
    assert list(files.images) == ["a/1", "a/other-overlay"]
    assert "overlays of an earlier run are left out: 1 file" in files.warnings[0]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("gone", "gone: no such file or folder; allowed: a folder, an image, a video file, or a pattern in quotes"),
        ("rtsp://camera/1", "no such file or folder; allowed: a folder"),
        ("empty", "empty: no image or video in this folder or below it; allowed"),
        ("full/*.jpg", "match 'full/*.jpg' except for their suffix; set distill.unlabelled.sources: full/*.png"),
        ("full/*.png.png", "full/*.png.png: matches no image or video; allowed"),
        ("gone/*.png", "gone/*.png: gone: no such folder; allowed"),
        ("full/notes.txt", "full/notes.txt: '.txt' is neither an image nor a video that is read; allowed"),
        ("*/1.png", "allowed: a path below the root with a * in its last part"),
        ("phone", "1 file (phone/1.heic) of 'phone/**/*': .heic is not read; allowed: .png"),
        ("twins", "the same sample as twins/1.jpg; remove one, or narrow the pattern"),
        ("odd", "not a file name; allowed: printable and not too long; rename it"),
        ("x" * 5000, "no such file or folder"),
        ("a\0b", "no such file or folder"),
    ],
)
def test_a_source_without_frames_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    images(Path(), "full/1.png", "twins/1.png", "phone/2.png", "odd/a\nb.png")
    for file in ("full/notes.txt", "twins/1.jpg", "phone/1.heic"):
        Path(file).write_text("x")
    Path("empty").mkdir()
    files = find_files([source])
    (problem,) = (*files.missing, *files.problems)
    assert said in problem
    assert "full/1.png" in problem or source[:9] in problem or "twins" in problem
