"""Animated PNG, WebP and GIF files are videos."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.video.sources import open_source
from pipeline.video.sources._animated import is_animated
from tests.video.fakes import quarters

pytest.importorskip("av")
pytestmark = pytest.mark.skipif(not hasattr(cv2, "imwriteanimation"), reason="OpenCV before 4.11 writes no animations")

DURATIONS = (100, 100, 200, 100)  # milliseconds


@pytest.fixture(params=["moving.png", "moving.webp", "moving.gif"])
def moving(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / request.param
    animation = cv2.Animation()
    animation.frames = [np.full((48, 64, 3), 255 - 60 * index, np.uint8) for index in range(4)]
    animation.durations = np.array(DURATIONS, np.int32)
    assert cv2.imwriteanimation(str(path), animation)
    return path


def test_an_animation_is_a_video(moving: Path) -> None:
    source = open_source(str(moving))
    assert (source.is_video, source.live, list(source.paths)) == (True, False, [moving])
    for _ in range(2):
        frames = list(source.frames())
        assert [frame.name for frame in frames] == [f"moving-{index:06d}" for index in range(4)]
        assert [frame.timestamp for frame in frames] == pytest.approx([0.0, 0.1, 0.2, 0.4])
        greens = [int(frame.picture.bgr()[24, 32, 1]) for frame in frames]
        assert greens == pytest.approx([255, 195, 135, 75], abs=25), "a GIF has few colours"
    assert [frame.timestamp for frame in source.frames(start=0.35)] == pytest.approx([0.4])


def test_another_rate(moving: Path) -> None:
    source = open_source(str(moving), fps=10)
    assert source.fps == pytest.approx(10)
    assert [frame.timestamp for frame in source.frames()] == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_webp_of_many_frames(tmp_path: Path) -> None:
    path = tmp_path / "long.webp"
    animation = cv2.Animation()
    animation.frames = [np.full((16, 16, 3), 250 - 6 * index, np.uint8) for index in range(40)]
    animation.durations = np.full(40, 40, np.int32)
    cv2.imwriteanimation(str(path), animation)
    source = open_source(str(path))
    assert source.count == 40
    assert source.fps == pytest.approx(25)
    frames = list(source.frames(start=0.8))
    assert [frame.name for frame in frames] == [f"long-{index:06d}" for index in range(20, 40)]
    assert int(frames[-1].picture.bgr()[8, 8, 0]) == pytest.approx(16, abs=4)
    with pytest.raises(UserError, match=r"nothing from 9 s on, it ends at 1\.60 s"):
        list(source.frames(start=9))


def test_pictures_that_are_missing_are_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    animation = cv2.Animation()
    animation.frames = [np.full((16, 16, 3), 250 - 6 * index, np.uint8) for index in range(20)]
    animation.durations = np.full(20, 40, np.int32)
    cv2.imwriteanimation(str(tmp_path / "long.webp"), animation)
    source = open_source(str(tmp_path / "long.webp"))
    assert len(list(source.frames())) == 20
    assert source.damage == ""
    read = cv2.imreadanimation
    monkeypatch.setattr(
        cv2,
        "imreadanimation",
        lambda name, start, count: read(name, start=start, count=count) if not start else (False, None),
    )
    assert len(list(source.frames())) == 16
    assert source.damage == "16 of 20 pictures were read"
    assert "long.webp: damaged: 16 of 20 pictures were read" in caplog.text


def test_damaged_animation(tmp_path: Path, moving: Path) -> None:
    if moving.suffix == ".gif":
        return
    path = tmp_path / f"cut{moving.suffix}"
    path.write_bytes(moving.read_bytes()[:150])
    with pytest.raises(UserError, match=r"cut\.\w+: (not one|not a readable)"):
        open_source(str(path))


def test_still_images_are_not_animations(tmp_path: Path) -> None:
    for name in ("a.png", "a.webp", "a.jpg"):
        cv2.imwrite(str(tmp_path / name), quarters())
        assert not is_animated(tmp_path / name)
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    assert not is_animated(tmp_path / "b.png")
    assert not is_animated(tmp_path / "gone.png")


def test_an_animation_among_images_has_a_warning(moving: Path, caplog: pytest.LogCaptureFixture) -> None:
    cv2.imwrite(str(moving.with_name("a.png")), quarters())
    frame_names = [frame.name for frame in open_source(str(moving.parent)).frames()]
    if moving.suffix == ".gif":
        assert frame_names == ["a"]
        assert "skipped: 1 video (" in caplog.text
    else:
        assert frame_names == ["a", "moving"]
        assert f"{moving}: holds more than one picture, only the first one is read" in caplog.text


def test_pages_of_a_tiff_have_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cv2.imwritemulti(str(tmp_path / "pages.tif"), [quarters(0), quarters(1)])
    assert len(list(open_source(str(tmp_path / "pages.tif")).frames())) == 1
    assert "pages.tif: holds more than one picture" in caplog.text
