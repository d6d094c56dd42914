"""Frames without labels that are left out: copies of labelled and of earlier frames, and frames that show nothing."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.frames import read_frame
from pipeline.preparation.copies import ALIKE, Index, thumbnail
from pipeline.prepared import Prepared, Unlabelled
from pipeline.settings import unlabelled as settings
from pipeline.video.selection import Selection
from pipeline.video.sources import open_source
from tests.preparation.conftest import scene
from tests.preparation.unlabelled_run import left_out, refused, run, save


def test_near_duplicates_are_left_out(tmp_path: Path, labelled: Prepared) -> None:
    first, other = scene(1), scene(2)
    near = cv2.addWeighted(first, 0.94, other, 0.06, 0)
    folder = save(
        tmp_path / "f", a=first, b=other, c=first, d=cv2.add(first, np.full_like(first, 9)), e=near,
        f=cv2.resize(first, None, fx=2, fy=2), g=cv2.flip(first, 1),
    )  # fmt: skip
    counts, warnings = run(labelled, tmp_path / "out", folder)
    like = ("near-duplicate", "unlabelled/f/a")
    assert left_out(tmp_path / "out") == {f"f/{name}": like for name in "cdef"}
    assert Unlabelled(tmp_path / "out").names == ["f/a", "f/b", "f/g"]
    assert counts["left_out"] == {"near-duplicate": 4} and counts["read"] == 7 and counts["kept"] == 3
    assert warnings == ["frames that are left out: 4 like an earlier frame"]
    run(labelled, tmp_path / "strict", folder, duplicates=0.999)
    assert "f/e" in Unlabelled(tmp_path / "strict").names and "f/c" in left_out(tmp_path / "strict")
    run(labelled, tmp_path / "all", folder, duplicates=None)
    assert len(Unlabelled(tmp_path / "all")) == 7


def test_real_frames_of_val_are_found_in_a_video_of_them(real_data: Path) -> None:
    """CamVid's val split, and the same frames in H.264."""
    index = Index(0.995)
    for file in sorted((real_data / "camvid" / "val").glob("*.png")):
        index.add(file.stem, thumbnail(read_frame(file)))
    video = real_data / "video" / "camvid_val_0016E5_480x360_15fps.mp4"
    matches = [index.like(thumbnail(frame.picture.bgr())) for frame in Selection().frames(open_source(str(video)))]
    assert len(matches) == 101 and None not in matches


@pytest.mark.parametrize("duplicates", [0.995, None])
def test_labelled_frames_of_every_split_are_left_out(
    tmp_path: Path, labelled: Prepared, duplicates: float | None
) -> None:
    """Also if they were encoded again, and whether near-duplicates stay or not."""
    folder = save(tmp_path / "f", own=scene(7))
    for split in ("train", "val"):
        for number in range(len(labelled.splits[split])):
            quality = [cv2.IMWRITE_JPEG_QUALITY, 95]
            cv2.imwrite(str(folder / f"{split}{number}.jpg"), labelled.split(split).frame(number), quality)
    counts, warnings = run(labelled, tmp_path / "out", folder, duplicates=duplicates)
    assert Unlabelled(tmp_path / "out").names == ["f/own"] and counts["left_out"] == {"labelled": 7}
    reasons = left_out(tmp_path / "out")
    assert reasons["f/val1"] == ("labelled", f"val/{labelled.splits['val'][1]}")
    assert warnings == ["frames that are left out: 7 like a labelled frame"]


def test_a_frame_like_one_of_val_counts_as_such(tmp_path: Path, labelled: Prepared) -> None:
    """Also if an earlier frame, which was left out, is closer."""
    val = labelled.split("val").frame(0)
    folder = save(tmp_path / "f", a=scene(1), b=val, c=cv2.add(val, np.full_like(val, 3)))
    run(labelled, tmp_path / "out", folder)
    name = f"val/{labelled.splits['val'][0]}"
    assert left_out(tmp_path / "out") == {"f/b": ("labelled", name), "f/c": ("labelled", name)}


def test_a_frame_that_shows_nothing_or_is_tiny_is_left_out(tmp_path: Path, labelled: Prepared) -> None:
    black = np.zeros((64, 96, 3), np.uint8)
    folder = save(tmp_path / "f", a=scene(1), black=black, icon=scene(3, size=(31, 200)), least=scene(4, size=(32, 32)))
    run(labelled, tmp_path / "out", folder)
    assert left_out(tmp_path / "out") == {"f/black": ("blank", None), "f/icon": ("small", None)}
    assert Unlabelled(tmp_path / "out").names == ["f/a", "f/least"]


def test_no_frame_left_is_an_error(tmp_path: Path, labelled: Prepared) -> None:
    folder = save(tmp_path / "f", black=np.zeros((64, 96, 3), np.uint8), copy=labelled.split("val").frame(0))
    message = refused(labelled, tmp_path / "out", folder)
    assert "no frame is left: 1 without contrast, 1 like a labelled frame; add other sources" in message
    assert "distill.unlabelled.sources" in message


def test_the_allowed_correlations_leave_out_copies_of_labelled_frames() -> None:
    """A higher value would leave out only equal frames, and keep frames of val that were encoded again."""
    section = settings.Unlabelled.model_validate
    assert section({"duplicates": 0.999}).duplicates == 0.999 < ALIKE
    for value in (ALIKE, 1.0, 0.89):
        with pytest.raises(ValidationError):
            section({"duplicates": value})
