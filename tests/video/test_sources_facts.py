"""Properties of a stream: shape of pixels, other streams, covers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.video.drawing.picture import Picture, Yuv
from pipeline.video.outputs import Outputs
from pipeline.video.sinks import H264Sink, Result
from pipeline.video.sources import StreamOptions, open_source
from pipeline.video.sources._address import of_file
from pipeline.video.sources._container import ReadError, Timeouts, open_container
from pipeline.video.sources._facts import Remarks
from pipeline.video.sources._live import Patience
from pipeline.video.sources.stream import _AvConnection
from tests.video.test_hdr import clip as hdr_clip
from tests.video.test_interlaced import clip as interlaced_clip

av = pytest.importorskip("av", reason="PyAV makes the test videos")

#: Grey and (height, width) of the streams of a file.
Kind = tuple[int, tuple[int, int]]


def clip(path: Path, *kinds: Kind | str, aspect: Fraction | None = None, rotation: int = 0, count: int = 4) -> Path:
    """A video with a stream for each grey, and sound or a cover in place of the words "sound" and "cover"."""
    with av.open(str(path), "w") as container:
        streams: list[tuple[Any, list[Any]]] = []
        for kind in kinds:
            if kind == "sound":
                stream = container.add_stream("aac", rate=48_000)
                sound = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), format="fltp", layout="mono")
                sound.sample_rate, sound.pts = 48_000, 0
                stream.codec_context.layout = "mono"
                streams.append((stream, [sound]))
                continue
            grey, (height, width) = (70, (32, 32)) if isinstance(kind, str) else kind
            stream = container.add_stream("mjpeg" if kind == "cover" else "libx264", rate=25)
            stream.width, stream.height = width, height
            stream.pix_fmt = "yuvj420p" if kind == "cover" else "yuv420p"
            if kind == "cover":
                stream.disposition = av.stream.Disposition.attached_pic
            if aspect:
                stream.codec_context.sample_aspect_ratio = aspect
            if rotation:
                stream.set_display_rotation(rotation)
            image = np.full((height, width, 3), grey, np.uint8)
            frames = [av.VideoFrame.from_ndarray(image, format="bgr24") for _ in range(1 if kind == "cover" else count)]
            streams.append((stream, frames))
        for stream, frames in streams:
            for frame in [*frames, None]:
                container.mux(stream.encode(frame))
    return path


def greys(path: Path, **options: Any) -> set[int]:
    source = open_source(str(path), reading=StreamOptions(**options))
    return {round(float(frame.picture.bgr().mean()) / 10) * 10 for frame in source.frames()}


TWO: tuple[Kind, Kind] = ((60, (48, 64)), (180, (36, 64)))


def test_the_choice_of_a_stream_has_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = clip(tmp_path / "two.mp4", TWO[0], "sound", TWO[1])
    chosen = greys(path)
    assert chosen in ({60}, {180})
    number = 0 if chosen == {60} else 2
    assert caplog.messages == [
        f"{path}: holds 2 video streams: 0 (64x48, h264), 2 (64x36, h264); stream {number} is read; another one is "
        "chosen with --stream N"
    ]


@pytest.mark.parametrize(("number", "grey"), [(0, 60), (2, 180)])
@pytest.mark.parametrize("name", ["two.mp4", "two.mkv", "two.ts"])
def test_another_stream(tmp_path: Path, name: str, number: int, grey: int) -> None:
    path = clip(tmp_path / name, TWO[0], "sound", TWO[1])
    assert greys(path, number=number) == {grey}
    source = open_source(str(path), reading=StreamOptions(number=number))
    assert source.stream == number
    some = [frame.picture for frame in source.frames(start=0.08)]
    assert len(some) in (2, 3), "the sound of a transport stream begins a little earlier, and so does its time"
    assert all(abs(picture.bgr().mean() - grey) < 12 for picture in some), "seeking keeps to the stream"


@pytest.mark.parametrize("number", [1, 3])
def test_unknown_stream(tmp_path: Path, number: int) -> None:
    path = clip(tmp_path / "two.mp4", TWO[0], "sound", TWO[1])
    with pytest.raises(
        UserError,
        match=rf"two\.mp4: --stream {number}: no video stream has this number; allowed: 0 \(64x48, h264\), 2 \(64x36",
    ):
        greys(path, number=number)


def test_one_stream_has_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = clip(tmp_path / "one.mp4", TWO[0])
    assert greys(path) == greys(path, number=0) == {60}
    assert not caplog.messages


def test_a_stream_of_images_cannot_be_chosen(folder: Path) -> None:
    reading = StreamOptions(number=0)
    with pytest.raises(UserError, match="--stream chooses a video stream of a file or an address that PyAV reads"):
        reading.check(open_source(str(folder), reading=reading))


def test_cover_art_has_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = clip(tmp_path / "concert.mp4", TWO[0], "cover")
    assert greys(path) == {60}
    assert caplog.messages == [f"{path}: its cover art is not carried over"]


def test_cover_art_alone_is_no_video(tmp_path: Path) -> None:
    path = clip(tmp_path / "song.mp4", "sound", "cover")
    with pytest.raises(UserError, match=r"holds no video stream, only cover art.*--stream 1 takes that picture"):
        open_source(str(path))
    assert greys(path, number=1) == {70}


@pytest.mark.parametrize(
    ("rotation", "shown"), [(0, Fraction(16, 11)), (90, Fraction(11, 16)), (180, Fraction(16, 11))]
)
def test_shape_of_pixels(tmp_path: Path, rotation: int, shown: Fraction) -> None:
    path = clip(tmp_path / "dvd.mp4", TWO[0], aspect=Fraction(16, 11), rotation=rotation)
    source = open_source(str(path))
    assert source.aspect == shown
    assert {frame.picture.aspect for frame in source.frames()} == {shown}


@pytest.mark.parametrize("aspect", [None, Fraction(16, 11), Fraction(8, 9)])
def test_shape_of_pixels_is_carried_to_the_overlay_video(
    tmp_path: Path, aspect: Fraction | None, make_result: Callable[..., Result]
) -> None:
    source = open_source(str(clip(tmp_path / "dvd.mp4", TWO[0], aspect=aspect)))
    with H264Sink(tmp_path / "o.mp4") as sink:
        for index, frame in enumerate(source.frames()):
            sink.write(make_result(index, picture=frame.picture))
    with av.open(str(tmp_path / "o.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.sample_aspect_ratio == (aspect or 1), "in the file"
        next(container.decode(stream))
        assert stream.codec_context.sample_aspect_ratio == (aspect or 1), "in the stream"


def test_shape_of_pixels_is_carried_to_a_playlist_with_a_warning_about_sound(
    tmp_path: Path, labels: LabelSpec, make_result: Callable[..., Result], caplog: pytest.LogCaptureFixture
) -> None:
    source = open_source(str(clip(tmp_path / "dvd.mp4", TWO[0], "sound", aspect=Fraction(16, 11))))
    (sink,) = Outputs(out=tmp_path / "live.m3u8").sinks(source, labels=labels, engine="e")
    text = "its sound is not carried over to a stream; --audio copies it into an .mp4 file"
    assert caplog.messages == [f"{source.name}: {text}"]
    with sink:
        for index, frame in enumerate(source.frames()):
            sink.write(make_result(index, picture=frame.picture))
    (segment,) = tmp_path.glob("live-*.ts")
    with av.open(str(segment), format="mpegts") as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(16, 11)


@pytest.mark.parametrize(
    ("aspect", "room", "size"),
    [
        (Fraction(2), (100, 100), (20, 80)),
        (Fraction(1, 2), (100, 100), (40, 40)),
        (Fraction(2), (10, 100), (10, 40)),
        (Fraction(1), (100, 40), (20, 40)),
    ],
)
def test_what_is_shown_has_square_pixels(aspect: Fraction, room: tuple[int, int], size: tuple[int, int]) -> None:
    picture = Picture((np.zeros((40, 80, 3), np.uint8),), aspect=aspect)
    assert picture.within(room).shape[:2] == size


def test_images_have_a_warning_about_the_shape_of_pixels(
    tmp_path: Path, labels: LabelSpec, caplog: pytest.LogCaptureFixture
) -> None:
    source = open_source(str(clip(tmp_path / "dvd.mp4", TWO[0], aspect=Fraction(16, 11))))
    Outputs(out=tmp_path / "o.mp4").sinks(source, labels=labels, engine="e")
    assert not caplog.messages
    Outputs(out=tmp_path / "o.mp4", masks=tmp_path / "m").sinks(source, labels=labels, engine="e")
    assert len(caplog.messages) == 1
    assert (
        f"its pixels are 16:11 (width:height), which image files cannot store: those in {tmp_path}/m keep its rows"
        in (caplog.messages[0])
    )


def test_without_pyav_a_warning_names_the_ignored_properties(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = clip(tmp_path / "dvd.mp4", TWO[0], aspect=Fraction(16, 11))
    monkeypatch.setitem(sys.modules, "av", None)
    source = open_source(str(path))
    assert len(caplog.messages) == 1
    assert f"{path}: read with OpenCV, because PyAV is not installed (pip install av): HDR, " in caplog.messages[0]
    with pytest.raises(UserError, match="--stream chooses a video stream"):
        StreamOptions(number=0).check(source)


def live(path: Path, remarks: Remarks, **options: Any) -> list[Picture]:
    """The pictures of a file as those of a live stream."""
    reading, patience = StreamOptions(**options), Patience(Timeouts(5, 5), 5)
    opened = open_container(av, of_file(path), number=reading.number)
    connection = _AvConnection(*opened, av=av, patience=patience, reading=reading, remarks=remarks)
    pictures = []
    try:
        while True:
            pictures.append(connection.read())
    except ReadError as end:
        assert end.reason == "the stream ended"
    finally:
        connection.close()
    return pictures


def test_live_streams_are_read_the_same_way(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = clip(tmp_path / "two.mp4", TWO[0], "sound", TWO[1], aspect=Fraction(16, 11))
    remarks = Remarks("camera")
    for number, grey in ((0, 60), (2, 180)):
        pictures = live(path, remarks, number=number)
        assert len(pictures) == 4
        assert {picture.aspect for picture in pictures} == {Fraction(16, 11)}
        assert abs(pictures[0].bgr().mean() - grey) < 3
    live(path, remarks, number=0)
    warnings = [text for text in caplog.messages if "stream 0" in text or "sound" in text]
    assert warnings == [
        "camera: holds 2 video streams: 0 (64x48, h264), 2 (64x36, h264); stream 0 is read; another one is chosen with "
        "--stream N",
        "camera: its sound is not carried over: sound can be copied from files only",
    ], "each once, however often it is connected"


def test_live_streams_are_tone_mapped_and_deinterlaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (picture, *_) = live(hdr_clip(tmp_path / "phone.mp4", 18), Remarks("camera"))
    assert picture.yuv == Yuv(matrix=1, primaries=1, transfer=1)
    interlaced = interlaced_clip(tmp_path / "tv.mp4")
    deinterlaced, kept = live(interlaced, Remarks("camera")), live(interlaced, Remarks("camera"), deinterlace=False)
    assert len(deinterlaced) == len(kept) == 6
    assert not np.array_equal(deinterlaced[2].planes[0], kept[2].planes[0])
    assert [text.split(":")[1].split(" (")[0] for text in caplog.messages] == [
        " is HDR",
        " its frames are interlaced and are deinterlaced; --no-deinterlace keeps them",
        " its frames are interlaced and kept so",
    ]
