"""Frames without labels: which input is an error, and what an interrupted run leaves."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import UserError
from pipeline.frames import write_png
from pipeline.preparation import unlabelled
from pipeline.prepared import Prepared
from tests.preparation.conftest import scene
from tests.preparation.unlabelled_run import bytes_of, refused, run, save

Film = Callable[..., Path]


def test_all_files_that_cannot_be_read_are_one_error(tmp_path: Path, labelled: Prepared) -> None:
    folder = save(tmp_path / "f", fine=scene(1))
    Image.fromarray(np.arange(64 * 96, dtype=np.uint16).reshape(64, 96)).save(folder / "deep.png")
    data = (folder / "fine.png").read_bytes()
    (folder / "half.png").write_bytes(data[: len(data) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    Image.fromarray(scene(2)).convert("CMYK").save(folder / "cmyk.jpg")
    (folder / "clip.mp4").write_bytes(b"no video")
    message = refused(labelled, tmp_path / "out", folder)
    assert message.startswith("frames without labels: 6 problems\n")
    for name, reason in (
        ("deep.png", "more than 8 bits per channel"), ("half.png", "not a readable image"), ("empty.png", "empty file"),
        ("gone.png", "no such file"), ("cmyk.jpg", "CMYK"), ("clip.mp4", ""),
    ):  # fmt: skip
        assert any(name in line and reason in line for line in message.splitlines()), (name, message)
    assert message.endswith("Nothing was written. Correct these errors, then run dvc repro again.")


def test_missing_sources_and_other_errors_come_before_any_reading(tmp_path: Path, labelled: Prepared) -> None:
    folder = save(tmp_path / "f", a=scene(1))
    message = refused(labelled, tmp_path / "out", folder, tmp_path / "gone", tmp_path / "f" / "*.jpg")
    assert (
        "2 problems" in message and "gone: no such file or folder" in message and "except for their suffix" in message
    )


def test_two_frames_of_one_name_are_an_error(tmp_path: Path, labelled: Prepared, film: Film) -> None:
    """Frame 0 of a video, and an image in a folder that has the name of the video."""
    video = film("clip.mp4", [scene(80)], [0.0])
    folder = save(tmp_path / "cut" / "clip.mp4", **{"000000": scene(81)})
    message = refused(labelled, tmp_path / "out", video, folder)
    assert "1 problem\n  clip.mp4/000000: the name of two frames; rename clip.mp4" in message


def test_results_of_an_earlier_run_are_no_source(tmp_path: Path, labelled: Prepared) -> None:
    """They would be the originals, and the user's frames their near-duplicates; each run would give other names."""
    frames, out = save(tmp_path / "all" / "f", a=scene(1)), tmp_path / "all" / "unlabelled"
    run(labelled, out, frames)
    before = bytes_of(out)
    with pytest.raises(UserError, match=r"1 file \(.*f/a\.png\) of .*unlabelled, which this stage writes; name the"):
        run(labelled, out, tmp_path / "all")
    assert bytes_of(out) == before


def test_a_full_disk_leaves_nothing_and_is_named(
    tmp_path: Path, labelled: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **options: Any) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(unlabelled, "write_image", full)
    with pytest.raises(OSError, match="No space left on device") as error:
        run(labelled, tmp_path / "out", save(tmp_path / "f", a=scene(1)))
    assert str(error.value.filename).startswith(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f"]


def test_files_of_a_killed_run_are_removed(tmp_path: Path, labelled: Prepared) -> None:
    left = tmp_path / ".out.unfinished" / "files" / "unlabelled" / "images" / "x.png"
    write_png(left, scene(2))
    run(labelled, tmp_path / "out", save(tmp_path / "f", a=scene(1)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f", "out"]
    assert not [name for name in bytes_of(tmp_path / "out") if "x.png" in name]
