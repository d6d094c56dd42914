"""Several sources in one call of the stage: one run per source, no result replaced, bad sources reported."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.errors import EXIT_DAMAGED, UserError
from pipeline.video import command
from pipeline.video.inputs import inputs_of
from pipeline.video.sinks import folders
from tests.video.fakes import quarters


def texts(*given: object) -> list[tuple[str, str | None]]:
    """Text and name of every input."""
    return [(one.text, one.name) for one in inputs_of([str(text) for text in given])]


@pytest.fixture
def drives(make_video: Callable[..., Path], tmp_path: Path) -> Path:
    """A folder with two videos and a note."""
    (tmp_path / "drives").mkdir()
    make_video("drives/b10.mp4", count=3)
    make_video("drives/b9.mp4", count=5)
    (tmp_path / "drives/notes.txt").write_text("")
    return tmp_path / "drives"


# the runs


def test_one_source_is_one_run(folder: Path, drives: Path) -> None:
    for text in (folder, drives / "b9.mp4", f"{folder}/*.png", "rtsp://camera/1", "0", "gone.mp4"):
        assert texts(text) == [(str(text), None)]


def test_folders_and_patterns_of_videos(drives: Path, caplog: pytest.LogCaptureFixture) -> None:
    videos = [(str(drives / "b9.mp4"), "b9"), (str(drives / "b10.mp4"), "b10")]
    assert texts(drives) == videos
    assert "2 of the files are read; skipped: 1 file (neither image nor video: notes.txt)" in caplog.text
    assert texts(f"{drives}/*.mp4") == videos
    assert texts(drives, drives / "b9.mp4", f"{drives}/b9.*") == videos, "each once"


def test_images_named_one_by_one_are_one_sequence(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (one,) = inputs_of([str(folder / name) for name in ("c.BMP", "a.png", "b.JPG")])
    assert "3 images are read as one sequence" in caplog.text
    assert [frame.name for frame in one.open().frames()] == ["a", "b", "c"]


def test_names_are_unique(drives: Path, make_video: Callable[..., Path]) -> None:
    (drives / "x").mkdir()
    for name in ("drives/x/b9.mp4", "drives/b10.mkv", "drives/c.mp4", "drives/x-b9.mp4"):
        make_video(name, count=1)
    inputs = texts(drives, drives / "x", "http://host/c.mp4")
    names = [name for _, name in inputs]
    assert len({name.casefold() for name in names if name}) == len(inputs) == 7
    named = dict(inputs)
    assert named[str(drives / "c.mp4")] == "c"
    assert {named[str(drives / f"b10.{end}")] for end in ("mp4", "mkv")} == {"b10-mp4", "b10-mkv"}


def test_folders_have_their_whole_names(drives: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.rename(drives / "frames.v1")
    (drives / "here").mkdir()
    monkeypatch.chdir(drives / "here")
    assert texts("../frames.v1", "../b9.mp4", "../here/../b10.mp4") == [
        *(("../frames.v1", "frames.v1"), ("../b9.mp4", "b9"), ("../here/../b10.mp4", "b10")),
    ]
    assert texts("../b9.mp4", drives / "b9.mp4", "../here/../b9.mp4") == [("../b9.mp4", None)]
    monkeypatch.chdir(drives / "frames.v1")
    assert [name for _, name in texts(".", "../b9.mp4")] == ["frames.v1", "b9"]
    (drives / "link.mp4").symlink_to("b9.mp4")
    assert [name for _, name in texts("../b9.mp4", "../link.mp4")] == ["b9", "link"]
    monkeypatch.chdir(drives / "here")
    assert [name for _, name in texts("../b9.mp4", "../frames.v1/a.png", "../frames.v1/b.JPG")] == ["b9", "frames.v1"]
    monkeypatch.chdir(drives / "frames.v1")
    assert texts("a.png", "./a.png") == [("a.png", None)]


def test_standard_input_has_a_name(drives: Path) -> None:
    assert texts("-") == [("-", None)]
    assert texts("-", drives / "b9.mp4") == [("-", "stdin"), (str(drives / "b9.mp4"), "b9")]


def test_a_folder_of_animations(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if not hasattr(cv2, "imwriteanimation"):
        pytest.skip("OpenCV before 4.11 writes no animations")
    animation = cv2.Animation()
    animation.frames = [quarters(index) for index in range(3)]
    animation.durations = np.array([100] * 3, np.int32)
    (tmp_path / "moving").mkdir()
    for name in ("a.png", "b.webp", "c.gif"):
        cv2.imwriteanimation(str(tmp_path / "moving" / name), animation)
    assert [name for _, name in texts(tmp_path / "moving")] == ["a", "b", "c"]
    cv2.imwrite(str(tmp_path / "moving/d.png"), quarters())
    (one,) = inputs_of([str(tmp_path / "moving")])
    assert [frame.name for frame in one.open().frames()] == ["d"], "images come first"
    assert "skipped: 3 videos (give them by name or by a pattern" in caplog.text


def test_live_sources_are_known_by_their_text(drives: Path) -> None:
    for live in ("0", "rtsp://u:secret@camera/1", "videotestsrc ! appsink"):
        inputs = inputs_of([str(drives), live])
        assert [given.is_live for given in inputs] == [False, False, True]
        assert "secret" not in inputs[2].shown + str(inputs[2].name)


# their results


def test_a_run_for_each(infer: Any, engine: Any, drives: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert infer(drives, "--json", "all.json") == 0
    assert sorted(path.name for path in Path().iterdir()) == ["all.json", "b10-overlay.mp4", "b9-overlay.mp4"]
    assert engine.closed
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["source", "frames", "fps", "result"]
    assert [(line[0], line[1], line[3]) for line in lines[1:3]] == [
        (str(drives / "b9.mp4")[-37:].rjust(40, "."), "5", "b9-overlay.mp4"),
        (str(drives / "b10.mp4")[-37:].rjust(40, "."), "3", "b10-overlay.mp4"),
    ]
    assert " ".join(lines[4]) == "2 of 2 sources were processed"
    meta = json.loads(Path("all.json").read_text())
    assert [(one["frames"], one["status"], one["written"]) for one in meta["sources"]] == [
        (5, 0, ["b9-overlay.mp4"]),
        (3, 0, ["b10-overlay.mp4"]),
    ]


def test_places_of_results(infer: Any, drives: Path) -> None:
    assert infer(drives, "--out", "o/{name}.mp4", "--masks", "m", "--lines", "l/{name}.jsonl") == 0
    written = sorted(str(path) for path in Path().rglob("*.*") if path.suffix in (".mp4", ".jsonl"))
    assert written == ["l/b10.jsonl", "l/b9.jsonl", "o/b10.mp4", "o/b9.mp4"]
    assert (len(list(Path("m/b9").glob("*.png"))), len(list(Path("m/b10").glob("*.png")))) == (5, 3)
    assert infer(drives / "b9.mp4", "--out", "{name}.mp4") == 0
    assert Path("b9.mp4").exists()


def test_folders_of_several_are_not_replaced_by_one(
    infer: Any,
    drives: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert infer(folder, "--masks", "m") == 0
    assert infer(drives, "--masks", "m") == 0
    assert sorted(path.name for path in Path("m").iterdir()) == ["a.png", "b.png", "b10", "b9", "c.png", "classes.json"]
    assert infer(folder, "--masks", "m") == 1
    assert "m: holds the folder b" in capsys.readouterr().err
    assert len(list(Path("m/b9").glob("*.png"))) == 5


def test_runs_among_their_own_results(
    infer: Any,
    drives: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(drives)
    for _ in range(2):
        assert infer("*.mp4") == 0
        assert sorted(path.name for path in drives.glob("*.mp4")) == [
            *("b10-overlay.mp4", "b10.mp4", "b9-overlay.mp4", "b9.mp4"),
        ]
    assert "2 overlays (written by an earlier run: b9-overlay.mp4, b10-overlay.mp4)" in caplog.text
    assert "b9-overlay.mp4: exists already and will be replaced" in caplog.text
    before = (drives / "b9-overlay.mp4").read_bytes()
    assert infer("b9.mp4", "b9-overlay.mp4") == EXIT_DAMAGED
    assert (drives / "b9-overlay.mp4").read_bytes() == before, "a source is not replaced"


def test_a_bad_source_is_reported_and_skipped(
    infer: Any,
    drives: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (drives / "a.mp4").write_bytes(b"no video")
    assert infer(drives, "gone.mp4", "--json", "-") == EXIT_DAMAGED
    output = capsys.readouterr()
    meta = json.loads(output.out)
    assert [(one["source"].rpartition("/")[2], one["status"]) for one in meta["sources"]] == [
        *(("a.mp4", 1), ("b9.mp4", 0), ("b10.mp4", 0), ("gone.mp4", 1)),
    ]
    assert meta["status"] == EXIT_DAMAGED
    assert "a.mp4: not a readable video" in meta["sources"][0]["error"]
    assert "failed: not a readable video" in output.err
    assert "2 of 4 sources were processed; 2 failed" in output.err
    assert "gone.mp4: no such file" in caplog.text
    assert sorted(path.name for path in Path().iterdir()) == ["b10-overlay.mp4", "b9-overlay.mp4"]
    assert infer(drives / "a.mp4", "gone.mp4") == 1, "no source was processed"


def test_strict_stops_at_the_first(infer: Any, drives: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (drives / "a.mp4").write_bytes(b"no video")
    assert infer(drives, "--strict") == 1
    assert "0 of 3 sources were processed; 1 failed; 2 not started" in capsys.readouterr().out
    assert not list(Path().iterdir())


@pytest.mark.parametrize("strict", [False, True])
def test_an_unreadable_image(
    infer: Any,
    folder: Path,
    strict: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder / "b.JPG").write_bytes(b"broken")
    assert infer(folder, "--out", "o", "--json", "s.json", *(["--strict"] if strict else [])) == (
        1 if strict else EXIT_DAMAGED
    )
    if strict:
        assert "b.JPG: not a readable image" in capsys.readouterr().err
        assert not Path("o").exists()
        return
    assert sorted(path.name for path in Path("o").glob("*.png")) == ["a.png", "c.png"]
    assert json.loads(Path("s.json").read_text())["skipped"] == [str(folder / "b.JPG")]
    assert "images that could not be read and were skipped: 1\n" in capsys.readouterr().out


def test_a_full_disk_ends_it_all(
    infer: Any,
    drives: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(path: Path, image: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(folders, "write_png", full)
    assert infer(drives, "--masks", "m") == 1
    assert "0 of 2 sources were processed; 1 failed; 1 not started" in capsys.readouterr().out


def test_ctrl_c_ends_it_all(
    infer: Any,
    engine: Any,
    drives: Path,
    make_video: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_video("drives/b9.mp4", count=200)
    run = engine.run

    def interrupting(given: Any) -> Any:
        if engine.calls == 4:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
        return run(given)

    monkeypatch.setattr(engine, "run", interrupting)
    assert infer(drives) == 130
    output = capsys.readouterr().out
    assert "interrupted: b9-overlay.mp4" in output
    assert "1 of 2 sources were processed; 1 not started" in output
    assert [path.name for path in Path().iterdir()] == ["b9-overlay.mp4"]


def test_standard_output(infer: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert infer(folder, "--masks", "m", "--json", "-") == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["frames"] == 3
    assert "3 frames in" in output.err
    for option in ("--out", "--masks"):
        assert infer(folder, option, "-") == 1
        assert f"{option} -: pictures are not written to standard output" in capsys.readouterr().err
    assert [path.name for path in Path().iterdir()] == ["m"]


def test_the_summary_is_not_written_over_a_source(infer: Any, drives: Path) -> None:
    before = (drives / "b9.mp4").read_bytes()
    assert infer(drives, "--json", drives / "b9.mp4") == 1
    assert infer(drives / "b9.mp4", "--json", "{name}.json") == 1
    assert (drives / "b9.mp4").read_bytes() == before
    assert not list(Path().iterdir())


def test_passwords_are_not_shown(
    infer: Any,
    drives: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert infer(drives / "b9.mp4", "http://me:secret@127.0.0.1:9/x.mp4", "--masks", "m") == EXIT_DAMAGED
    output = capsys.readouterr()
    assert "http://127.0.0.1:9/x.mp4" in output.out
    assert "secret" not in output.out + output.err + caplog.text


def test_without_an_engine_nothing_starts(
    infer: Any,
    drives: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none(*args: object, **options: object) -> None:
        raise UserError("engine: is none")

    monkeypatch.setattr(command, "open_engines", none)
    assert infer(drives) == 1
    assert capsys.readouterr().err == "error: engine: is none\n"


def test_ctrl_c_while_it_starts_leaves_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "cv2.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(5)\n")
    root = Path(__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, str(root / "stages/infer.py"), "engine", "drive.mp4"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == -signal.SIGINT
    assert (ended.stdout, ended.stderr) == ("", "")
