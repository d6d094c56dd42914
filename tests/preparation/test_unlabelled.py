"""Frames without labels: what the artifact holds and lists."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline import artifact
from pipeline.errors import UserError
from pipeline.frames import digest
from pipeline.preparation import unlabelled
from pipeline.prepared import Prepared, Unlabelled
from tests.preparation.conftest import scene
from tests.preparation.unlabelled_run import bytes_of, lines, run, save

Film = Callable[..., Path]


def test_the_artifact_holds_and_lists_every_frame(tmp_path: Path, labelled: Prepared, film: Film) -> None:
    folder = save(tmp_path / "my frames", a=scene(1), b=scene(2))
    (folder / "deep").mkdir()
    cv2.imwrite(str(folder / "deep" / "c.jpg"), scene(3))
    video = film("clip.mp4", [scene(10 + n) for n in range(4)], [0.0, 0.5, 1.0, 1.5])
    out = tmp_path / "out"
    counts, warnings = run(labelled, out, folder, video)
    assert counts == {"images": 3, "videos": 1, "read": 5, "kept": 5, "left_out": {}, "damaged": {}} and warnings == []
    opened = Unlabelled(out)
    assert opened.names == [
        "my frames/a", "my frames/b", "my frames/deep/c", "clip.mp4/000000", "clip.mp4/000002",
    ]  # fmt: skip
    assert len(opened) == 5 and opened.labels == labelled.labels and opened.name == labelled.name
    split = opened.split()
    assert split.image_file(2).read_bytes() == (folder / "deep" / "c.jpg").read_bytes(), "a JPEG is kept as it is"
    assert np.array_equal(split.frame(0), scene(1))
    for number, line in enumerate(lines(out)):
        frame, label = split[number]
        assert line["name"] == split.names[number] and line["sha256"] == digest(frame).hex()
        assert line["left_out"] is None and line["like"] is None
        assert label.shape == frame.shape[:2] and set(np.unique(label)) == {labelled.labels.ignore_index}
    assert [(line["source"], line["frame"], line["seconds"]) for line in lines(out)[3:]] == [
        ("clip.mp4", 0, 0.0), ("clip.mp4", 2, 1.0),
    ]  # fmt: skip
    assert artifact.load(out, kind="unlabelled").meta["parents"] == {"dataset": labelled.artifact.hash}
    assert "frames.jsonl" in opened.artifact.meta["files"]


def test_the_bytes_depend_on_content_only(tmp_path: Path, labelled: Prepared, film: Film) -> None:
    """Not on the number of threads, nor on the folder or the time; another frame gives another facts_hash."""
    folder = save(tmp_path / "here" / "frames", **{f"f{n}": scene(n) for n in (*range(30, 42), 30)})
    film("here/frames/clip.mkv", [scene(50 + n) for n in range(8)], [0.4 * n for n in range(8)])
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "frames").symlink_to(folder)
    kept = []
    for number, (place, workers) in enumerate([("here", 1), ("here", 7), ("there", 2)]):
        run(labelled, tmp_path / f"out{number}", tmp_path / place / "frames", workers=workers)
        kept.append(bytes_of(tmp_path / f"out{number}"))
    assert kept[0] == kept[1] == kept[2] and len(kept[0]) > 14
    before = Unlabelled(tmp_path / "out0").facts_hash
    save(folder, f30=scene(99))
    run(labelled, tmp_path / "other", folder)
    assert Unlabelled(tmp_path / "other").facts_hash != before


def test_frames_that_this_machine_decodes_otherwise_are_refused(tmp_path: Path, labelled: Prepared) -> None:
    """The message names the stage that prepares them."""
    (tmp_path / "f").mkdir()
    cv2.imwrite(str(tmp_path / "f" / "a.jpg"), scene(1))
    run(labelled, tmp_path / "out", tmp_path / "f")
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    meta["jpeg"]["pixels"] = "0" * 64
    (tmp_path / "out" / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match=r"a\.jpg: OpenCV decodes this JPEG .* dvc repro -f prepare_unlabelled$"):
        Unlabelled(tmp_path / "out")


def test_no_sources_give_an_empty_artifact(tmp_path: Path, labelled: Prepared) -> None:
    counts, warnings = run(labelled, tmp_path / "out")
    assert counts == {"images": 0, "videos": 0, "read": 0, "kept": 0, "left_out": {}, "damaged": {}} and warnings == []
    opened = Unlabelled(tmp_path / "out")
    assert len(opened) == 0 and not opened and len(opened.split()) == 0
    assert sum(len(data) for data in bytes_of(tmp_path / "out").values()) < 4096


def test_without_sources_no_labelled_frame_is_read(
    tmp_path: Path, labelled: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unlabelled, "thumbnail", lambda frame: pytest.fail("a frame was read"))
    run(labelled, tmp_path / "out")


def test_an_exif_orientation_is_applied(tmp_path: Path, labelled: Prepared) -> None:
    (tmp_path / "f").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(scene(1)[..., ::-1]).save(tmp_path / "f" / "phone.jpg", exif=exif, quality=95)
    run(labelled, tmp_path / "out", tmp_path / "f")
    split = Unlabelled(tmp_path / "out").split()
    assert split.frame(0).shape == (96, 64, 3) and split.image_file(0).suffix == ".png"
    assert np.abs(split.frame(0).astype(int) - cv2.rotate(scene(1), cv2.ROTATE_90_CLOCKWISE)).mean() < 6


def test_grey_images_become_colour(tmp_path: Path, labelled: Prepared) -> None:
    (tmp_path / "f").mkdir()
    cv2.imwrite(str(tmp_path / "f" / "grey.png"), scene(1)[..., 0])
    run(labelled, tmp_path / "out", tmp_path / "f")
    frame = Unlabelled(tmp_path / "out").split().frame(0)
    assert frame.shape == (64, 96, 3) and np.array_equal(frame[..., 2], scene(1)[..., 0])


def test_memory_does_not_grow_with_the_pixels(tmp_path: Path, labelled: Prepared) -> None:
    """Only a few frames exist at the same time."""
    import tracemalloc  # noqa: PLC0415

    def peak(count: int) -> int:
        folder = save(tmp_path / str(count), **{f"f{n}": scene(n, size=(240, 320)) for n in range(count)})
        tracemalloc.start()
        run(labelled, tmp_path / f"out{count}", folder, workers=1)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(4)
    assert peak(120) - peak(20) < 100 * 10_000, "bytes per frame; its pixels take 230,400"
