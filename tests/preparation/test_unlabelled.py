"""Frames without labels: what the artifact holds and lists, what is left out, and which input is an error."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from pipeline import artifact
from pipeline.errors import UserError
from pipeline.frames import Array, digest, read_frame, write_png
from pipeline.preparation import unlabelled
from pipeline.preparation.copies import ALIKE, Index, thumbnail
from pipeline.preparation.frame_sources import find_files
from pipeline.preparation.unlabelled import prepare_unlabelled
from pipeline.prepared import Prepared, Unlabelled
from pipeline.settings import unlabelled as settings
from pipeline.video.selection import Selection
from pipeline.video.sources import open_source
from tests.preparation.conftest import scene

Film = Callable[..., Path]


def run(labelled: Prepared, out: Path, *sources: Path | str, **options: Any) -> tuple[dict[str, Any], list[str]]:
    """Prepare; the counts of meta.json, and the warnings."""
    warnings: list[str] = []
    options = {"every": "auto", "duplicates": 0.995, "workers": 2, **options}
    files = find_files([str(source) for source in sources])
    facts = prepare_unlabelled(files, out, prepared=labelled, warn=warnings.append, **options)
    return facts["unlabelled"], warnings


def refused(labelled: Prepared, out: Path, *sources: Path | str, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        run(labelled, out, *sources, **options)
    assert not out.exists() and not [path for path in out.parent.iterdir() if path.name.startswith(".")]
    return str(error.value)


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "frames.jsonl").read_text(encoding="utf-8").splitlines()]


def left_out(out: Path) -> dict[str, tuple[str, str | None]]:
    """Name -> reason and the frame that it is like."""
    return {line["name"]: (line["left_out"], line["like"]) for line in lines(out) if line["left_out"]}


def save(folder: Path, **frames: Array) -> Path:
    for name, frame in frames.items():
        write_png(folder / f"{name}.png", frame)
    return folder


def bytes_of(out: Path) -> dict[str, bytes]:
    return {file.relative_to(out).as_posix(): file.read_bytes() for file in out.rglob("*") if file.is_file()}


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


def seconds(out: Path) -> list[float]:
    return [line["seconds"] for line in lines(out)]


@pytest.mark.parametrize(
    ("times", "every", "expected"),
    [
        (np.arange(0, 3, 0.04), "auto", [0.0, 1.0, 2.0]),
        (np.arange(0, 3, 0.04), 30, [0.0, 1.2, 2.4]),
        (np.arange(0.0, 2.2, 1 / 29.97), "auto", [0.0, 1.001, 2.002]),
        ([0.0, 0.1, 0.2, 2.7, 2.8, 3.1, 3.2, 9.0, 9.9], "auto", [0.0, 2.7, 3.1, 9.0]),
        ([0.0, 0.1, 0.2, 2.7, 2.8, 3.1], 2, [0.0, 0.2, 2.8]),
        ([0.0, 5.0, 10.0], "auto", [0.0, 5.0, 10.0]),
    ],
    ids=["25 fps", "25 fps, every 30", "29.97 fps", "variable rate", "variable rate, every 2", "slow"],
)  # fmt: skip
def test_which_frames_of_a_video_are_read(
    tmp_path: Path, labelled: Prepared, film: Film, times: Sequence[float], every: Any, expected: list[float]
) -> None:
    video = film("clip.mp4", [scene(100 + n) for n in range(len(times))], list(times))
    run(labelled, tmp_path / "out", video, every=every)
    assert seconds(tmp_path / "out") == pytest.approx(expected, abs=0.021)


def test_frames_of_a_video_are_those_that_infer_reads(tmp_path: Path, labelled: Prepared, film: Film) -> None:
    """Rotation and colours too; numbers are those of the names that `segpress infer` gives to its results."""
    video = film("phone.mp4", [scene(60 + n) for n in range(6)], [n / 25 for n in range(6)], rotation=90)
    run(labelled, tmp_path / "out", video, every=2)
    source = open_source(str(video))
    expected = {frame.name.rpartition("-")[2]: frame.picture.bgr() for frame in Selection(every=2).frames(source)}
    split = Unlabelled(tmp_path / "out").split()
    assert split.names == [f"phone.mp4/{number}" for number in expected] and len(expected) == 3
    for number, frame in enumerate(expected.values()):
        assert frame.shape == (96, 64, 3) and np.array_equal(split.frame(number), frame)


def test_damage_of_a_video_is_one_warning_and_part_of_the_artifact(
    tmp_path: Path, labelled: Prepared, film: Film, caplog: pytest.LogCaptureFixture
) -> None:
    video = film("clip.mp4", [scene(70 + n) for n in range(60)], [n / 25 for n in range(60)])
    data = bytearray(video.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = bytes(4000)
    video.write_bytes(bytes(data))
    counts, warnings = run(labelled, tmp_path / "out", video, every=1)
    assert 0 < counts["read"] <= 60 and not [text for text in warnings if "damaged" in text]
    assert [record.getMessage() for record in caplog.records] == [f"{video}: damaged: {counts['damaged']['clip.mp4']}"]
    assert "packets could not be decoded" in counts["damaged"]["clip.mp4"]


def test_a_frame_like_one_of_val_counts_as_such(tmp_path: Path, labelled: Prepared) -> None:
    """Also if an earlier frame, which was left out, is closer."""
    val = labelled.split("val").frame(0)
    folder = save(tmp_path / "f", a=scene(1), b=val, c=cv2.add(val, np.full_like(val, 3)))
    run(labelled, tmp_path / "out", folder)
    name = f"val/{labelled.splits['val'][0]}"
    assert left_out(tmp_path / "out") == {"f/b": ("labelled", name), "f/c": ("labelled", name)}


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


def test_the_allowed_correlations_leave_out_copies_of_labelled_frames() -> None:
    """A higher value would leave out only equal frames, and keep frames of val that were encoded again."""
    section = settings.Unlabelled.model_validate
    assert section({"duplicates": 0.999}).duplicates == 0.999 < ALIKE
    for value in (ALIKE, 1.0, 0.89):
        with pytest.raises(ValidationError):
            section({"duplicates": value})
