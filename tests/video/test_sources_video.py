"""Video files by both readers: frames, times, colours and rotation."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.video.sources import open_source
from pipeline.video.sources._decoded import picture_of
from pipeline.video.sources.opencv import CvFile
from pipeline.video.sources.video_file import VideoFile

av = pytest.importorskip("av", reason="PyAV makes the test videos")


def smooth(height: int = 48, width: int = 64) -> Array:
    """A picture of soft colours, so that resizing chroma changes little."""
    coarse = np.random.default_rng(1).integers(60, 200, (2, 3, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def encode(path: Path, images: list[Array], *, codec: str, form: str, matrix: int = 2, full: bool = False) -> Path:
    """A video of another pixel format, tagged with a matrix and a range."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"crf": "1"} if codec == "libx264" else {})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = form
        stream.codec_context.color_range = 2 if full else 1
        stream.codec_context.colorspace = matrix
        for image in images:
            picture = av.VideoFrame.from_ndarray(image, format="bgr24")
            picture = picture.reformat(
                format=form,
                dst_colorspace=matrix if matrix != 2 else 5,
                src_color_range=2,
                dst_color_range=2 if full else 1,
            )
            picture.colorspace, picture.color_range = matrix, 2 if full else 1
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def reference(path: Path) -> list[Array]:
    """BGR as PyAV converts it."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]


def test_video(reader: str, make_video: Callable[..., Path], frame: Array) -> None:
    source = open_source(str(make_video(count=8)))
    assert isinstance(source, VideoFile if reader == "av" else CvFile)
    assert (source.live, source.is_video, source.fps, source.count, source.stem) == (False, True, 25, 8, "drive")
    frames = list(source.frames())
    assert [f.name for f in frames] == [f"drive-{i:06d}" for i in range(8)]
    assert [f.timestamp for f in frames] == pytest.approx([i / 25 for i in range(8)])
    assert len(frames[0].picture.planes) == (3 if reader == "av" else 1)
    for index, got in enumerate(frames):  # all are still there, though others were decoded since
        assert abs(got.picture.bgr().astype(int) - np.roll(frame, 16 * index, axis=1)).mean() < 6
    assert len(list(source.frames())) == 8, "a source can be read again"


def test_planes_are_views_that_cannot_be_written(make_video: Callable[..., Path]) -> None:
    path = make_video(count=3, image=np.zeros((50, 70, 3), np.uint8))
    first = next(open_source(str(path)).frames()).picture
    assert [plane.shape for plane in first.planes] == [(50, 70), (25, 35), (25, 35)]
    for plane in first.planes:
        assert plane.strides[0] > plane.shape[1], "lines are padded: nothing was copied"
        with pytest.raises(ValueError, match="read-only"):
            plane[0, 0] = 1


def test_variable_frame_rate_keeps_times(reader: str, make_video: Callable[..., Path]) -> None:
    times = [0.0, 0.04, 0.5, 0.52, 2.0]
    source = open_source(str(make_video(count=5, times=times)))
    assert [f.timestamp for f in source.frames()] == pytest.approx(times, abs=2e-3)


def test_times_count_from_the_start_of_the_file(make_video: Callable[..., Path]) -> None:
    source = open_source(str(make_video("late.mkv", count=3, times=[7.0, 7.2, 7.9])))
    assert [f.timestamp for f in source.frames()] == pytest.approx([0, 0.2, 0.9], abs=2e-3)


@pytest.mark.parametrize("name", ["drive.mp4", "drive.avi", "drive.mkv", "drive.ts", "drive.h264"])
def test_start(reader: str, name: str, make_video: Callable[..., Path], request: pytest.FixtureRequest) -> None:
    path = str(make_video(name, count=60))
    every = {f.name: f for f in open_source(path).frames()}
    assert len(every) == 60
    some = list(open_source(path).frames(start=1.4))
    assert [f.name for f in some] == [f"drive-{i:06d}" for i in range(35, 60)]
    for got in some[:2]:
        assert got.timestamp == every[got.name].timestamp
        assert np.array_equal(got.picture.bgr(), every[got.name].picture.bgr()), "the same frame by the same name"
    with pytest.raises(UserError, match=r"nothing from 9 s on, it ends at 2\.[34]\d s; start earlier"):
        list(open_source(path).frames(start=9))


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_rotation_is_applied(reader: str, rotation: int, make_video: Callable[..., Path]) -> None:
    image = np.zeros((48, 64, 3), np.uint8)
    image[:24, :32] = (0, 0, 255)  # top left is red
    upright = np.rot90(image, rotation // 90)
    got = next(open_source(str(make_video(count=3, rotation=rotation, image=image))).frames()).picture
    assert got.size == upright.shape[:2]
    assert abs(got.bgr().astype(int) - upright).mean() < 8


def test_mirrored_display_matrix(make_video: Callable[..., Path]) -> None:
    """The matrix in the file is changed by hand: x mirrored, as front cameras write it."""
    image = np.zeros((48, 64, 3), np.uint8)
    image[:24, :32] = 255
    path = make_video(count=2, rotation=180, image=image)
    data = path.read_bytes()
    turned = np.array([-65536, 0, 0, 0, -65536], ">i4").tobytes()
    assert data.count(turned) == 1
    path.write_bytes(data.replace(turned, np.array([-65536, 0, 0, 0, 65536], ">i4").tobytes()))
    got = next(open_source(str(path)).frames()).picture.bgr()
    assert abs(got.astype(int) - image[:, ::-1]).mean() < 6


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [1, 5, 6, 9, 2])
@pytest.mark.parametrize("form", ["yuv420p", "yuv420p10le", "yuv422p", "yuv444p"])
def test_colours(form: str, matrix: int, full: bool, tmp_path: Path) -> None:
    path = encode(tmp_path / "x.mp4", [smooth()] * 2, codec="libx264", form=form, matrix=matrix, full=full)
    pictures = [f.picture for f in open_source(str(path)).frames()]
    (expected, _) = reference(path)
    planes = 1 if form == "yuv444p" else 3
    assert len(pictures[0].planes) == planes
    if planes == 3:
        assert pictures[0].yuv is not None
        assert (pictures[0].yuv.matrix, pictures[0].yuv.full_range) == (matrix, full)
    got = pictures[0].bgr().astype(int)
    assert abs(got - expected).mean() < 2, "against swscale, which truncates and repeats chroma"
    assert abs(got - smooth()).mean() < 1.5, "against the picture that was encoded"
    assert abs((got - smooth()).mean()) < 1.3, "encoding truncates; a wrong range shifts by 7"


@pytest.mark.parametrize("form", ["nv12", "yuyv422", "yuva420p", "yuvj420p", "yuvj422p", "yuv411p", "p010le"])
def test_other_layouts_of_yuv_become_planes(form: str) -> None:
    full = 2 if form.startswith("yuvj") else 1
    frame = av.VideoFrame.from_ndarray(smooth(), format="bgr24")
    frame = frame.reformat(format=form, dst_colorspace=1, src_color_range=2, dst_color_range=full)
    frame.colorspace = 1
    picture = picture_of(frame)
    assert picture.yuv is not None
    assert (picture.yuv.matrix, picture.yuv.full_range) == (1, full == 2)
    assert len(picture.planes) == 3
    assert abs(picture.bgr().astype(int) - smooth()).mean() < 1.5


@pytest.mark.parametrize("form", ["bgr24", "rgb24", "gbrp", "bgra", "gray", "rgb48le"])
@pytest.mark.parametrize("size", [(48, 64), (47, 63), (1, 1)])
def test_rgb_and_grey_are_exact(form: str, size: tuple[int, int], tmp_path: Path) -> None:
    image = smooth(*size)
    if form == "gray":
        image = np.repeat(image[..., :1], 3, axis=2)
    path = encode(tmp_path / "x.nut", [image], codec="rawvideo", form=form)
    assert np.array_equal(next(open_source(str(path)).frames()).picture.bgr(), image)


@pytest.mark.parametrize("size", [(20, 30), (7, 5)])
def test_palettes_are_exact(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    palette = rng.integers(0, 256, (256, 4), dtype=np.uint8)  # opacity, red, green, blue
    ids = rng.integers(0, 256, size, dtype=np.uint8)
    palette[:, 0] = 255
    frame = av.VideoFrame.from_ndarray((ids, palette), format="pal8")
    assert np.array_equal(picture_of(frame).bgr(), palette[ids][..., :0:-1])


def test_gif(tmp_path: Path) -> None:
    path = encode(tmp_path / "x.gif", [smooth(), smooth()[::-1].copy()], codec="gif", form="bgr8")
    for got, expected in zip(open_source(str(path)).frames(), reference(path), strict=True):
        assert np.array_equal(got.picture.bgr(), expected)


@pytest.mark.parametrize("form", ["yuv420p", "yuv422p", "yuv420p10le"])
@pytest.mark.parametrize("size", [(47, 64), (48, 63), (1, 1), (1, 2)])
def test_odd_sizes(form: str, size: tuple[int, int], tmp_path: Path) -> None:
    path = encode(tmp_path / "x.nut", [smooth(*size)], codec="rawvideo", form=form, matrix=1)
    picture = next(open_source(str(path)).frames()).picture
    assert picture.size == size
    assert len(picture.planes) == 1
    assert abs(picture.bgr().astype(int) - reference(path)[0]).mean() < 2.5


def test_8k(tmp_path: Path) -> None:
    image = np.full((4320, 7680, 3), 90, np.uint8)
    path = tmp_path / "x.mjpeg"
    path.write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
    picture = next(open_source(str(path)).frames()).picture
    assert picture.size == (4320, 7680)
    assert abs(int(picture.fit((9, 16)).mean()) - 90) <= 1


def test_a_frame_of_another_size_is_given_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "x.mjpeg"
    sizes = [(48, 64), (48, 64), (30, 50), (21, 33), (48, 64)]
    path.write_bytes(b"".join(cv2.imencode(".jpg", smooth(*size))[1].tobytes() for size in sizes))
    frames = list(open_source(str(path)).frames())
    assert [f.picture.size for f in frames] == sizes
    assert [f.timestamp for f in frames] == pytest.approx([i / 25 for i in range(5)])
    for got in frames:
        assert abs(got.picture.bgr().astype(int) - smooth(*got.picture.size)).mean() < 5


def test_cover_art_is_not_the_video(tmp_path: Path, make_video: Callable[..., Path]) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(make_video())) as source, av.open(str(path), "w") as container:
        art = container.add_stream("mjpeg", rate=1)
        art.width, art.height, art.pix_fmt = 32, 32, "yuvj420p"
        art.disposition = av.stream.Disposition.attached_pic
        video = container.add_stream_from_template(source.streams.video[0])
        container.mux(art.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="bgr24")))
        container.mux(art.encode(None))
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                container.mux(packet)
    assert {f.picture.size for f in open_source(str(path)).frames()} == {(48, 64)}


def test_real_drive(reader: str, real_data: Path) -> None:
    source = open_source(str(real_data / "video" / "solidWhiteRight.mp4"))
    assert (source.fps, source.count) == (25, 221)
    frames = [(f.timestamp, f.picture.size) for f in source.frames()]
    assert [size for _, size in frames] == [(540, 960)] * 221
    assert [time for time, _ in frames] == pytest.approx([i / 25 for i in range(221)])


def test_frames_are_freed_at_once(make_video: Callable[..., Path]) -> None:
    """Without the garbage collector: side data of PyAV would tie frames into cycles."""
    source = open_source(str(make_video(count=40, rotation=90)))
    gc.collect()

    def alive() -> int:
        return sum(isinstance(thing, av.VideoFrame) for thing in gc.get_objects())

    before = alive()  # other tests may still keep some
    gc.disable()
    try:
        assert len(list(source.frames())) == 40
        left = alive() - before
    finally:
        gc.enable()
    assert left <= 1
