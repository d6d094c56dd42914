"""The choice of a reader for the text of the user; images; errors in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.frames import Array, read_frame
from pipeline.video._av import load_av
from pipeline.video.sources import Source, open_source
from pipeline.video.sources._address import of_url, redacted
from pipeline.video.sources.images import Images
from pipeline.video.sources.opencv import CvFile
from pipeline.video.sources.video_file import VideoFile


def names(source: Source) -> list[str]:
    return [frame.name for frame in source.frames()]


def test_images_in_name_order(folder: Path) -> None:
    source = open_source(str(folder))
    assert isinstance(source, Images)
    assert (source.live, source.is_video, source.fps, source.count) == (False, False, None, 3)
    assert (source.name, source.stem) == (str(folder), "frames")
    for _ in range(2):
        assert [(f.name, f.timestamp) for f in source.frames()] == [("a", None), ("b", None), ("c", None)]
    first = next(source.frames())
    assert first.picture.yuv is None
    assert np.array_equal(first.picture.bgr(), read_frame(folder / "a.png"))


def test_one_image(folder: Path, frame: Array) -> None:
    source = open_source(str(folder / "a.png"))
    assert (source.count, source.stem, source.is_video) == (1, "a", False)
    assert np.array_equal(next(source.frames()).picture.bgr(), frame)


def test_relative_folder_has_a_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert open_source(".").stem == "frames"


@pytest.fixture
def drives(tmp_path: Path, frame: Array) -> Path:
    """Images of the same name in folders of different depth."""
    root = tmp_path / "drives"
    for name in ("left/1.png", "left/2.png", "right/cam/1.png", "right/cam/3.txt", "right/cam/._1.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(cv2.imencode(".png", frame)[1].tobytes())
    return root


def test_patterns(drives: Path) -> None:
    assert names(open_source(f"{drives}/**/*.png")) == ["left-1", "left-2", "right-cam-1"]
    assert names(open_source(f"{drives}/left/[12].png")) == ["1", "2"]
    assert names(open_source(f"{drives}/**/?.*")) == ["left-1", "left-2", "right-cam-1"]
    assert open_source(f"{drives}/left/*").stem == "left"


def test_a_pattern_relative_to_here(drives: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(drives)
    assert names(open_source("**/*.png")) == ["left-1", "left-2", "right-cam-1"]
    monkeypatch.chdir(drives / "right")
    assert open_source("../left/*.png").stem == "left"
    assert open_source("../**/*.png").stem == "drives"
    monkeypatch.chdir(drives / "right/cam")
    assert open_source("../cam/*.png").stem == "cam"
    assert open_source("../../left/*.png").stem == "left"


def test_what_exists_wins_over_patterns_numbers_and_addresses(
    tmp_path: Path, frame: Array, monkeypatch: pytest.MonkeyPatch, make_video: Callable[..., Path]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = cv2.imencode(".png", frame)[1].tobytes()
    for name in ("frame[1].png", "a ! b.png"):
        Path(name).write_bytes(data)
        assert names(open_source(name)) == [Path(name).stem]
    Path("0").mkdir()
    Path("0/x.png").write_bytes(data)
    assert names(open_source("0")) == ["x"]
    Path("rtsp:").mkdir()
    Path("rtsp:/host.mp4").write_bytes(make_video(count=2).read_bytes())
    for module in (sys.modules["av"], None):
        monkeypatch.setitem(sys.modules, "av", module)
        assert len(names(open_source("rtsp://host.mp4"))) == 2
        Path("http:host.mp4").write_bytes(Path("rtsp:/host.mp4").read_bytes())
        assert len(names(open_source("http:host.mp4"))) == 2


def test_readers(make_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(make_video())
    assert isinstance(open_source(path), VideoFile)
    monkeypatch.setitem(sys.modules, "av", None)
    assert isinstance(open_source(path), CvFile)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", r"\(nothing\): no such file"),
        ("gone.mp4", r"^gone\.mp4: no such file or folder; give a video"),
        ("x" * 5000, "no such file or folder"),
        ("a\0b", "no such file or folder"),
        ("frames/%04d.png", r"^frames/%04d\.png: no such file; for numbered images write \* .*: 'frames/\*\.png'$"),
        ("gone/*.png", r"^gone/\*\.png: no such file, and nothing matches .*; quote patterns"),
        ("/dev/video77", r"^/dev/video77: cannot be opened .*cameras here: "),
        ("77", r"^camera 77: cannot be opened \(OpenCV cannot open it\); cameras here: .*nvarguscamerasrc"),
        ("rtps://host/x", r"^rtps://host/x: rtps:// cannot be opened; did you mean 'rt"),
        ("file:///etc/passwd", r"file:// cannot be opened; .*a file is named by its path"),
        ("rtsp:///x", r"^rtsp:///x: not an address; write rtsp://HOST:PORT/PATH"),
        ("rtsp://host:port/x", r"not an address"),
        ("rtsp://u:pa/ss@host/x", r"^rtsp://host/x: not an address; .* in a password, / \? # @ are %2F"),
        ("filesrc location=x ! decodebin", r"a pipeline ends in an appsink, got 'decodebin'; write: "),
    ],
)
def test_what_cannot_be_opened(given: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        open_source(given, open_timeout=2, read_timeout=2)


def test_opencv_without_gstreamer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "    GStreamer:                   NO\n")
    with pytest.raises(UserError, match=r"built without GStreamer, as pip's is; on a Jetson or Debian: .*apt install"):
        open_source("rtspsrc location=rtsp://u:secret@host ! rtph264depay ! avdec_h264 ! videoconvert ! appsink")


@pytest.mark.parametrize("name", ["notes.txt", "bare"])
def test_unsupported_suffix(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("FFmpeg would play this as terminal art\n" * 50)
    with pytest.raises(UserError, match=r"neither an image .* nor a video .*ffmpeg -i .* -c:v libx264 out\.mp4"):
        open_source(str(path))


def test_folder_and_pattern_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match=r"no images in this folder .*pattern"):
        open_source(str(tmp_path))
    with pytest.raises(UserError, match="none of the 1 paths that match is an image"):
        open_source(f"{tmp_path}/*")


def test_numbers_in_names_are_numbers(tmp_path: Path, frame: Array) -> None:
    data = cv2.imencode(".png", frame)[1].tobytes()

    def ordered(folder: str, *given: str) -> list[str]:
        for name in given:
            path = tmp_path / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return names(open_source(str(tmp_path / folder)))

    unpadded = [f"frame_{number}" for number in range(1, 13)]
    assert ordered("unpadded", *reversed(unpadded)) == unpadded
    assert names(open_source(f"{tmp_path}/unpadded/*.png")) == unpadded
    assert ordered("padded", "f10", "f9", "f09", "f") == ["f", "f09", "f9", "f10"]
    assert ordered("parts", "s10-2", "s2-10", "s2-9") == ["s2-9", "s2-10", "s10-2"]
    times = ["1305031102.175304", "1305031102.25", "1305031102.5", "1305031103.1"]
    assert ordered("times", *times) == times, "decimals of seconds"
    for number in (10, 9):
        ordered(f"cams/{number}", "x")
    assert names(open_source(f"{tmp_path}/cams/*/x.png")) == ["9-x", "10-x"]


def test_tiff_and_webp_are_read(tmp_path: Path, frame: Array) -> None:
    for name in ("0.png", "1.tif", "2.TIFF", "3.webp"):
        done, data = cv2.imencode(Path(name).suffix.lower(), frame, [cv2.IMWRITE_WEBP_QUALITY, 101])
        assert done
        (tmp_path / name).write_bytes(data.tobytes())
    frames = list(open_source(str(tmp_path)).frames())
    assert [one.name for one in frames] == ["0", "1", "2", "3"]
    for one in frames:
        assert np.array_equal(one.picture.bgr(), frame)
    cv2.imwrite(str(tmp_path / "1.tif"), frame.astype(np.uint16) * 257)
    with pytest.raises(UserError, match=r"1\.tif: uint16; 16 bits per channel or more, .*-depth 8"):
        open_source(str(tmp_path / "1.tif"))


def test_skipped_files_of_a_folder_have_a_warning(
    folder: Path, make_video: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    make_video("frames/drive.mp4")
    make_video("frames/c-overlay.mp4")
    (folder / "d.heic").write_bytes(b"")
    assert names(open_source(str(folder))) == ["a", "b", "c"]
    assert caplog.messages == [
        f"{folder}: 3 of the files are read; skipped: 1 video (give them by name or by a pattern, such as '*.mp4': "
        "drive.mp4), 1 overlay (written by an earlier run: c-overlay.mp4), 1 folder (not searched; the pattern "
        "'**/*.png' does that: more.png), 2 files (neither image nor video: d.heic, notes.txt)"
    ]
    caplog.clear()
    assert names(open_source(f"{folder}/[a-d]*.*")) == ["a", "b", "c"]
    assert "2 files (neither" not in caplog.text
    assert "1 file (neither image nor video: d.heic)" in caplog.text
    caplog.clear()
    assert names(open_source(f"{folder}/*.png")) == ["a"]
    assert "1 folder" in caplog.text


def test_unreadable_images_are_skipped_and_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "b.JPG").write_bytes(b"broken")
    source = open_source(str(folder))
    for _ in range(2):
        assert names(source) == ["a", "c"]
        assert list(source.skipped) == [str(folder / "b.JPG")]
    assert "b.JPG: not a readable image" in caplog.text
    strict = open_source(str(folder), strict=True)
    with pytest.raises(UserError, match=r"b\.JPG: not a readable image"):
        list(strict.frames())
    (folder / "a.png").write_bytes(b"")
    assert names(open_source(str(folder))) == ["c"], "the first one, too"
    with pytest.raises(UserError, match=r"a\.png: not a readable image"):
        open_source(str(folder), strict=True)
    with pytest.raises(UserError, match=r"a\.png: not a readable image"):
        open_source(str(folder / "a.png"))
    (folder / "c.BMP").write_bytes(b"")
    with pytest.raises(UserError, match=r"not one of 3 images can be read; the first: .*a\.png: not a readable image"):
        open_source(str(folder))


def test_many_unreadable_images_have_a_limited_number_of_warnings(
    tmp_path: Path, frame: Array, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(40):
        (tmp_path / f"{number}.png").write_bytes(b"broken" if number else cv2.imencode(".png", frame)[1].tobytes())
    assert names(open_source(str(tmp_path))) == ["0"]
    assert len(caplog.messages) == 11
    assert caplog.messages[-1].endswith("39 images were skipped in all")


def test_grey_is_replicated_and_sixteen_bits_are_refused(tmp_path: Path) -> None:
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    cv2.imwrite(str(tmp_path / "grey.png"), grey)
    picture = next(open_source(str(tmp_path / "grey.png")).frames()).picture
    assert np.array_equal(picture.bgr(), np.repeat(grey[..., None], 3, axis=2))
    for deep in (grey.astype(np.uint16) * 257, np.repeat(grey[..., None], 3, axis=2).astype(np.uint16) * 257):
        cv2.imwrite(str(tmp_path / "deep.png"), deep)
        with pytest.raises(UserError, match=r"deep\.png: 16 bits per channel .*magick IN -depth 8 OUT\.png"):
            open_source(str(tmp_path / "deep.png"))


def test_same_name_twice(folder: Path) -> None:
    cv2.imwrite(str(folder / "a.bmp"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(UserError, match=r"results of .*a\.bmp and .*a\.png would share a name"):
        open_source(str(folder))


def test_images_have_no_times(folder: Path) -> None:
    with pytest.raises(UserError, match="images have no times to start at"):
        open_source(str(folder)).frames(start=1.0)


@pytest.mark.parametrize(
    ("address", "name", "stem"),
    [
        ("rtsp://10.0.0.5:554/live/main.sdp", "rtsp://10.0.0.5:554/live/main.sdp", "10-0-0-5-live-main-sdp"),
        ("rtsp://admin:pw@cam/1", "rtsp://cam/1", "cam-1"),
        ("rtsp://admin:p@w:1@cam/1", "rtsp://cam/1", "cam-1"),
        ("http://cam/video?user=a&pwd=secret", "http://cam/video?...", "cam-video"),
        ("srt://cam:9000?passphrase=secret", "srt://cam:9000?...", "cam"),
        ("rtsp://cam/1#secret", "rtsp://cam/1?...", "cam-1"),
    ],
)
def test_names_of_addresses_have_no_passwords(address: str, name: str, stem: str) -> None:
    parsed = of_url(address)
    assert (parsed.url, parsed.name, parsed.stem) == (address, name, stem)
    assert "secret" not in repr(parsed)


def test_passwords_in_pipelines() -> None:
    text = 'rtspsrc location="rtsp://u:pw@host/x?k=v" user-id=me user-pw=\'a b\' ! fakesrc password="c d" ! appsink'
    shown = redacted(text)
    assert shown == 'rtspsrc location="rtsp://host/x?..." user-id=me user-pw=... ! fakesrc password=... ! appsink'


def test_an_old_pyav_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", SimpleNamespace(__version__="16.1.0"))
    with pytest.raises(UserError, match=r"PyAV 16\.1\.0 is too old; needed: 17 or newer: pip install 'av>=17'"):
        load_av()
