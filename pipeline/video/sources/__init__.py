"""Sources of frames: ``open_source`` chooses the reader for the text of the user."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import UserError
from pipeline.video._av import load_av
from pipeline.video.sources import images, opencv, pipe
from pipeline.video.sources._address import of_file, of_url
from pipeline.video.sources._animated import AnimatedWebp, is_animated
from pipeline.video.sources._base import Frame, Source
from pipeline.video.sources._container import Timeouts
from pipeline.video.sources._facts import StreamOptions
from pipeline.video.sources._listing import VIDEO_SUFFIXES
from pipeline.video.sources._live import Patience
from pipeline.video.sources.stream import open_stream
from pipeline.video.sources.video_file import VideoFile, convert

__all__ = ["Frame", "Source", "StreamOptions", "open_source"]


def open_source(
    text: str,
    *,
    open_timeout: float = 10.0,
    read_timeout: float = 10.0,
    patience: float = 60.0,
    fps: float | None = None,
    reading: StreamOptions = StreamOptions(),  # noqa: B008 - cannot be changed
    strict: bool = False,
    listed: Sequence[Path] = (),
) -> Source:
    """Open the source that ``text`` names. The first rule that fits decides:

    - ``-`` is a video on standard input;
    - a path that exists is a file, a folder, a pipe or a camera's device;
    - a text with " ! " is a GStreamer pipeline;
    - a number is a camera;
    - rtsp://, http:// and so on are addresses; a file on a server is read like a file, everything else is live;
    - a text with ``*``, ``?``, ``[...]``, or ``**`` (any folders) is a pattern of images.

    Args:
        open_timeout: seconds for each step of opening an address.
        read_timeout: seconds to wait for a frame of a live source.
        patience: seconds without a frame, in which a live source is connected again, until it is an error.
        fps: frame rate of a file, which replaces its rate and timestamps; live sources and images ignore it.
        reading: which stream of a video is read, and how HDR and interlaced frames are treated.
        strict: whether an image that cannot be read is an error; otherwise it is skipped with a warning.
        listed: image files that the user named one by one; ``text`` is then ignored.

    Raises:
        UserError: there is no such source, it cannot be read, or its first frame does not arrive.
    """
    live = Patience(Timeouts(open_timeout, read_timeout), patience)
    if listed:
        return images.listed_images(listed, strict=strict)
    if text == pipe.STANDARD_INPUT:
        return _open_pipe(None, live, fps=fps, reading=reading)
    path = Path(text)
    if text and _exists(path):
        return _open_path(path, live, fps=fps, reading=reading, strict=strict)
    return _open_text(text, live, fps=fps, reading=reading, strict=strict)


def _open_text(text: str, live: Patience, *, fps: float | None, reading: StreamOptions, strict: bool) -> Source:
    """Open a source that is not an existing path."""
    if " ! " in text:
        return opencv.open_gstreamer(text, patience=live, fps=fps)
    if re.fullmatch(r"[0-9]{1,4}", text):
        return opencv.open_camera(int(text), patience=live)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        address = of_url(text)
        av = load_av()
        return (
            opencv.open_address(address, patience=live, fps=fps)
            if av is None
            else open_stream(address, av, patience=live, fps=fps, reading=reading)
        )
    if re.fullmatch(r"/dev/video\d+", text):
        return opencv.open_camera(Path(text), patience=live)
    if glob.has_magic(text):
        return images.matching_images(text, strict=strict)
    if number := re.search(r"%0?[0-9]*d", text):
        raise UserError(
            f"{text}: no such file; for numbered images write * instead of {number[0]}, in quotes: "
            f"'{text.replace(number[0], '*')}'"
        )
    raise UserError(
        f"{text or '(nothing)'}: no such file or folder; give a video, an image, a folder of images, a quoted pattern, "
        "the number of a camera, an address (rtsp://...) or a GStreamer pipeline"
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or has a null byte
        return False


def _open_pipe(path: Path | None, live: Patience, *, fps: float | None, reading: StreamOptions) -> Source:
    av = load_av()
    if av is None:
        raise UserError(f"{path or '-'}: reading from a pipe needs PyAV: pip install av; or give a file")
    return pipe.PipedVideo(path, av, patience=live.total, fps=fps, reading=reading)


def _open_path(path: Path, live: Patience, *, fps: float | None, reading: StreamOptions, strict: bool) -> Source:
    if path.is_dir():
        return images.folder_of_images(path, strict=strict)
    if pipe.is_pipe(path):
        return _open_pipe(path, live, fps=fps, reading=reading)
    if path.is_char_device():
        return opencv.open_camera(path, patience=live)
    animated = is_animated(path)
    if animated and path.suffix.lower() == ".webp":
        moving = AnimatedWebp(path, fps=fps)
        moving.paths = [path]
        return moving
    if images.is_image(path) and not animated:
        return images.one_image(path)
    if path.suffix.lower() not in VIDEO_SUFFIXES and not animated:
        raise UserError(
            f"{path}: '{path.suffix.lower() or path.name}' is neither an image ({' '.join(images.IMAGE_SUFFIXES)}) nor "
            f"a video that is read here; {convert(str(path))}"
        )
    av = load_av()
    if av is None and animated:
        raise UserError(f"{path}: an animated PNG needs PyAV: pip install av")
    source: Source = (
        opencv.open_file(path, fps=fps) if av is None else VideoFile(of_file(path), av, fps=fps, reading=reading)
    )
    source.paths = [path]
    return source
