"""Where frames come from: a video file, one image, or a folder of images.

A source can be iterated more than once; it holds no open file between iterations. The first frame is decoded when it is
opened, so what cannot be read fails before an engine runs. Videos are read with PyAV, which knows the time of every
frame; without PyAV cv2.VideoCapture reads them and timestamps are None.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from pipeline.errors import UserError
from pipeline.frames import Array, read_frame
from pipeline.video._av import load_av

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
# A list, because FFmpeg takes more than videos: it plays a .txt file as terminal art.
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts"),
    *(".wmv", ".flv", ".3gp", ".ogv", ".gif", ".mjpeg", ".h264", ".264", ".hevc"),
)
# FFmpeg's frame.rotation counts counter-clockwise, in degrees
_ROTATE = {90: cv2.ROTATE_90_COUNTERCLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_CLOCKWISE}


class Frame(NamedTuple):
    """One frame of a source: a name to call outputs by, its time in seconds if known, (H, W, 3) BGR uint8."""

    name: str
    timestamp: float | None
    image: Array


class Source(ABC):
    """Frames in order.

    Attributes:
        path: the file or folder that is read.
        is_video: whether the frames are one video (and not images).
        fps: frames a second; None for images and when the video does not say.
        count: how many frames to expect, for progress only; None when unknown.
        size: (height, width) of the first frame.
    """

    path: Path
    is_video: bool
    fps: float | None
    count: int | None
    size: tuple[int, int]

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """Frames from the start. Raises UserError at a frame that cannot be read."""

    def _peek(self) -> tuple[int, int]:
        first = next(iter(self), None)
        if first is None:
            raise UserError(f"{self.path}: not one frame of this video can be decoded; {_convert(self.path)}")
        return first.image.shape[0], first.image.shape[1]


def open_source(path: Path) -> Source:
    """Open a video file, one image, or a folder of images (sorted by name).

    Raises:
        UserError: no such path, neither image nor video, a folder without images, a video without decodable frames.
    """
    if path.is_dir():
        return ImageSource(path, _images_in(path))
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; give a video, an image or a folder of images")
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return ImageSource(path, [path])
    if suffix not in VIDEO_SUFFIXES:
        raise UserError(
            f"{path}: '{suffix or path.name}' is neither an image ({' '.join(IMAGE_SUFFIXES)}) nor a video that is "
            f"read here; {_convert(path)}"
        )
    av = load_av()
    return CvVideoSource(path) if av is None else AvVideoSource(path, av)


def _convert(path: Path) -> str:
    return f"convert it with: ffmpeg -i {path} -c:v libx264 out.mp4"


def _images_in(folder: Path) -> list[Path]:
    try:
        entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from error
    # names with a leading dot are not the user's: macOS leaves ._frame.png beside frame.png
    images = [e for e in entries if e.suffix.lower() in IMAGE_SUFFIXES and not e.name.startswith(".") and e.is_file()]
    if not images:
        raise UserError(
            f"{folder}: no images in this folder ({' '.join(IMAGE_SUFFIXES)}; folders inside are not searched); "
            "give the folder that holds the frames"
        )
    stems: dict[str, Path] = {}
    for image in images:
        other = stems.setdefault(image.stem, image)
        if other != image:
            raise UserError(f"{folder}: results of {other.name} and {image.name} would share a name; rename one")
    return images


class ImageSource(Source):
    """Image files in the given order; timestamps are None."""

    def __init__(self, path: Path, images: list[Path]) -> None:
        self.path = path
        self.images = images
        self.is_video = False
        self.fps = None
        self.count = len(images)
        self.size = self._peek()

    def __iter__(self) -> Iterator[Frame]:
        return (Frame(image.stem, None, read_frame(image)) for image in self.images)


class AvVideoSource(Source):
    """A video read with PyAV: timestamps as the file has them, rotation applied as players do."""

    def __init__(self, path: Path, av: Any) -> None:
        self.path = path
        self.is_video = True
        self._av = av
        with self._open() as container:
            stream = container.streams.video[0]
            rate = stream.average_rate or stream.guessed_rate
            self.fps = float(rate) if rate else None
            self.count = stream.frames or self._estimate(container, stream)
        self.size = self._peek()

    def _open(self) -> Any:
        try:
            container = self._av.open(str(self.path))
        except (self._av.error.FFmpegError, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{self.path}: not a readable video ({reason}); {_convert(self.path)}") from error
        if not container.streams.video:
            container.close()
            raise UserError(f"{self.path}: holds no video stream; give a file that has pictures")
        if container.streams.video[0].codec_context is None:
            container.close()
            raise UserError(f"{self.path}: this PyAV has no decoder for it; {_convert(self.path)}")
        return container

    def _estimate(self, container: Any, stream: Any) -> int | None:
        if stream.duration is not None and stream.time_base:
            seconds = float(stream.duration * stream.time_base)
        elif container.duration is not None:
            seconds = container.duration / self._av.time_base
        else:
            return None
        return round(seconds * self.fps) or None if self.fps else None

    def __iter__(self) -> Iterator[Frame]:
        index, damaged = 0, 0
        with self._open() as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            packets = container.demux(stream)
            while True:
                try:
                    packet = next(packets, None)
                    if packet is None:
                        break
                    frames = packet.decode()
                except self._av.error.EOFError:
                    break
                except self._av.error.FFmpegError:  # damaged data: players skip it, so do we, but not in silence
                    damaged += 1
                    continue
                for frame in frames:
                    yield Frame(f"{self.path.stem}-{index:06d}", frame.time, _upright(frame))
                    index += 1
        if damaged and index:
            log.warning("%s: %d damaged packets were skipped; %d frames were read", self.path, damaged, index)


def _upright(frame: Any) -> Array:
    image = np.asarray(frame.to_ndarray(format="bgr24"), np.uint8)  # (H, W, 3)
    turn = getattr(frame, "rotation", 0) % 360  # absent before PyAV 14
    return np.asarray(cv2.rotate(image, _ROTATE[turn]), np.uint8) if turn in _ROTATE else image


class CvVideoSource(Source):
    """A video read with OpenCV, for machines without PyAV: no timestamps."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_video = True
        capture = self._open()
        fps, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        capture.release()
        self.fps = fps if math.isfinite(fps) and fps > 0 else None
        self.count = int(count) if math.isfinite(count) and count > 0 else None
        self.size = self._peek()

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self.path))
        if not capture.isOpened():
            raise UserError(f"{self.path}: not a readable video; {_convert(self.path)}")
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)  # off by default in OpenCV 4.11 (opencv#26795)
        return capture

    def __iter__(self) -> Iterator[Frame]:
        capture = self._open()
        index = 0
        try:
            while True:
                done, image = capture.read()
                if not done:
                    return
                yield Frame(f"{self.path.stem}-{index:06d}", None, np.asarray(image, np.uint8))
                index += 1
        finally:
            capture.release()
