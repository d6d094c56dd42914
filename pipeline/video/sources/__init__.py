"""Where frames come from: ``open_source`` takes what the user gave and finds the reader for it."""

from __future__ import annotations

import glob
import re
from pathlib import Path

from pipeline.errors import UserError
from pipeline.video._av import load_av
from pipeline.video.sources import images, opencv
from pipeline.video.sources._address import of_file, of_url
from pipeline.video.sources._base import Frame, Source
from pipeline.video.sources._container import Timeouts
from pipeline.video.sources._facts import StreamOptions
from pipeline.video.sources._live import Patience
from pipeline.video.sources.stream import open_stream
from pipeline.video.sources.video_file import VideoFile, convert

__all__ = ["Frame", "Source", "StreamOptions", "open_source"]

# A list, because FFmpeg takes more than videos: it plays a .txt file as terminal art.
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".vob", ".ts", ".m2ts", ".mts", ".mxf"),
    *(".wmv", ".asf", ".flv", ".3gp", ".ogv", ".gif", ".mjpeg", ".mjpg", ".h264", ".264", ".hevc", ".h265", ".265"),
    *(".ivf", ".y4m", ".dv", ".nut"),
)


def open_source(
    text: str,
    *,
    open_timeout: float = 10.0,
    read_timeout: float = 10.0,
    patience: float = 60.0,
    fps: float | None = None,
    reading: StreamOptions = StreamOptions(),  # noqa: B008 - cannot be changed
) -> Source:
    """Open what ``text`` names. What exists under that name comes first; else it is, in this order:

    - a GStreamer pipeline, if it holds " ! ";
    - the number of a camera;
    - an address: rtsp://, http:// and so on; a file on a server is read like a file, all else is live;
    - a pattern of images: ``*``, ``?``, ``[...]``, and ``**`` for any folders.

    Args:
        open_timeout: seconds for each step of opening an address.
        read_timeout: seconds to wait for a frame of something live.
        patience: seconds without a frame, over all attempts to connect again, until something live is given up.
        fps: frames a second of a video with an end, in place of its own rate and timestamps; else of no effect.
        reading: which stream of a video, and what is done about HDR and interlacing.

    Raises:
        UserError: there is no such thing, it cannot be read, or its first frame does not come.
    """
    live = Patience(Timeouts(open_timeout, read_timeout), patience)
    path = Path(text)
    if text and _exists(path):
        return _open_path(path, live, fps=fps, reading=reading)
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
        return opencv.open_camera(path, patience=live)
    if glob.has_magic(text):
        return images.matching_images(text)
    raise UserError(
        f"{text or '(nothing)'}: no such file or folder; give a video, an image, a folder of images, a quoted pattern, "
        "the number of a camera, an address (rtsp://...) or a GStreamer pipeline"
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # longer than names may be, or a null byte
        return False


def _open_path(path: Path, live: Patience, *, fps: float | None, reading: StreamOptions) -> Source:
    if path.is_dir():
        return images.folder_of_images(path)
    if path.is_char_device():
        return opencv.open_camera(path, patience=live)
    if images.is_image(path):
        return images.one_image(path)
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise UserError(
            f"{path}: '{path.suffix.lower() or path.name}' is neither an image ({' '.join(images.IMAGE_SUFFIXES)}) nor "
            f"a video that is read here; {convert(str(path))}"
        )
    av = load_av()
    source: Source = (
        opencv.open_file(path, fps=fps) if av is None else VideoFile(of_file(path), av, fps=fps, reading=reading)
    )
    source.paths = [path]
    return source
