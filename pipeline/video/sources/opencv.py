"""Sources that OpenCV reads: cameras, GStreamer pipelines and, without PyAV, videos and addresses."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.video.drawing.picture import BT601, BT709, Picture, Yuv
from pipeline.video.names import STEM, shortened
from pipeline.video.sources._address import Address, redacted
from pipeline.video.sources._base import Frame, Source
from pipeline.video.sources._container import ReadError
from pipeline.video.sources._live import LiveSource, Patience
from pipeline.video.sources._timing import HIGHEST_FPS, USUAL_FPS, Clock, leap_of, slack_of
from pipeline.video.sources._whole import missing_bytes
from pipeline.video.sources.video_file import convert

log = logging.getLogger(__name__)

#: FFmpeg gives a huge or negative number of frames for a stream without end.
_ENDLESS = 2**31

Open = Callable[[], cv2.VideoCapture]
Convert = Callable[[Any], Picture]


class CvFile(Source):
    """A video with an end, read with OpenCV. Times count from its first frame, and damage inside of it is not found.

    Args:
        opener: opens the video.
        name, stem, waits: see :class:`Source`.
        picture: converts an image of OpenCV to a picture.
        advice: what to do if it cannot be read.
        fps: frame rate that replaces the rate and the timestamps of the video.
        timed: whether OpenCV knows the timestamps of its frames; otherwise times follow from the rate.

    Raises:
        UserError: it cannot be opened, or no frame can be decoded.
    """

    def __init__(
        self,
        opener: Open,
        *,
        name: str,
        stem: str,
        picture: Convert,
        advice: str,
        waits: bool = False,
        fps: float | None = None,
        timed: bool = False,
    ) -> None:
        self.name = name
        self.waits = waits
        self.stem = stem
        self._opener = opener
        self._picture = picture
        self._advice = advice
        capture = self._open()
        try:
            rate, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
            self._timed = timed and fps is None
            self._origin = 0.0
            # the rate of DV is the tick of a clock: neither it nor the number of frames is right
            valid = math.isfinite(rate) and 0 < rate <= (HIGHEST_FPS if self._timed else math.inf)
            self.fps = fps or (rate if valid else None)
            self.count = int(count) if valid and math.isfinite(count) and 0 < count < _ENDLESS else None
            if not capture.read()[0]:
                raise UserError(f"{name}: not one frame of this video can be decoded; {advice}")
        finally:
            capture.release()

    def _open(self) -> cv2.VideoCapture:
        capture = self._opener()
        if not capture.isOpened():
            raise UserError(f"{self.name}: not a readable video; {self._advice}")
        return capture

    def frames(self, *, start: float = 0.0) -> Iterator[Frame]:
        if start > 0 and self.fps is None and not self._timed:
            raise UserError(f"{self.name}: has no frame rate, so {start:g} s cannot be found; leave the start out")
        self.damage = ""
        given = index = 0
        step = 1 / (self.fps or USUAL_FPS)
        clock = Clock(self.name, step=step, leap=leap_of(step))
        capture = self._open()
        try:
            while capture.grab():
                time = self._time(capture, index, clock)
                if start <= 0 or time is None or time >= start - slack_of(step):
                    done, image = capture.retrieve()
                    if not done:
                        break
                    yield Frame(f"{self.stem}-{index:06d}", time, self._picture(image))
                    given += 1
                index += 1
        finally:
            capture.release()
        if not index:
            raise UserError(f"{self.name}: not one frame from {start:g} s on; {self._advice}")
        if not given:
            end = clock.now if self._timed else index * step
            raise UserError(f"{self.name}: nothing from {start:g} s on, it ends at {end or 0:.2f} s; start earlier")
        missing = missing_bytes(self.paths[0]) if self.paths and index < (self.count or math.inf) else 0
        if missing:
            self.damage = f"{given} frames were read; it was cut off: {missing} bytes or more are missing"
            log.warning("%s: damaged: %s", self.name, self.damage)

    def _time(self, capture: cv2.VideoCapture, index: int, clock: Clock) -> float | None:
        if not self._timed:
            return index / self.fps if self.fps else None
        stamp = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        self._origin = stamp if index == 0 else self._origin
        return clock.at(stamp - self._origin)


class _CvConnection:
    """One open live capture."""

    stream: int | None = None

    def __init__(self, opener: Open, picture: Convert, advice: str) -> None:
        self._picture = picture
        self._capture = opener()
        if not self._capture.isOpened():
            self._capture.release()
            raise ReadError("OpenCV cannot open it", advice)
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if math.isfinite(fps) and fps > 0 else None

    def read(self) -> Picture:
        done, image = self._capture.read()
        if not done:
            raise ReadError("no more frames arrive")
        return self._picture(image)

    def close(self) -> None:
        self._capture.release()


def open_file(path: Path, *, fps: float | None = None) -> Source:
    """A video file, for machines without PyAV; ``fps`` as in :class:`CvFile`."""

    log.warning(
        "%s: read with OpenCV, because PyAV is not installed (pip install av): HDR, interlacing, other streams and the "
        "shape of pixels are ignored",
        path,
    )

    def opener() -> cv2.VideoCapture:
        # an absolute path is never an address, and FFmpeg opens no addresses that are in a file
        capture = cv2.VideoCapture(str(path.absolute()))
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)  # off by default in OpenCV 4.11 (opencv#26795)
        return capture

    return CvFile(
        opener,
        name=str(path),
        stem=shortened(path.stem, STEM),
        picture=_of_bgr,
        advice=convert(str(path)),
        fps=fps,
        timed=True,
    )


def open_camera(camera: int | Path, *, patience: Patience) -> Source:
    """A camera, by its number or its device file. Raises UserError if it cannot be opened or gives no frame."""
    name = f"camera {camera}" if isinstance(camera, int) else str(camera)
    cameras = sorted(map(str, Path("/dev").glob("video*")))
    advice = (
        f"cameras here: {', '.join(cameras) or 'none'}; check that no other program uses it and that you may read it "
        "(group video); cameras on the ribbon of a Jetson need a GStreamer pipeline (nvarguscamerasrc)"
    )

    def opener() -> cv2.VideoCapture:
        capture = cv2.VideoCapture(camera) if isinstance(camera, int) else cv2.VideoCapture(str(camera), cv2.CAP_V4L2)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # some drivers ignore it
        return capture

    stem = f"camera{camera}" if isinstance(camera, int) else camera.name
    return LiveSource(lambda: _CvConnection(opener, _of_bgr, advice), name=name, stem=stem, patience=patience)


def open_address(address: Address, *, patience: Patience, fps: float | None = None) -> Source:
    """Video from the network, for machines without PyAV: a file if OpenCV knows its length, otherwise live."""
    limits = [
        *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, round(patience.timeouts.open * 1000)),
        *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(patience.timeouts.read * 1000)),
    ]

    def opener() -> cv2.VideoCapture:
        return cv2.VideoCapture(address.url, cv2.CAP_FFMPEG, limits)

    advice = "check address, port, user and password, and that it is sending; PyAV has better messages: pip install av"
    if address.url.lower().startswith(("http://", "https://")):
        capture = opener()
        ends = 0 < capture.get(cv2.CAP_PROP_FRAME_COUNT) < _ENDLESS
        capture.release()
        if ends:
            return CvFile(
                opener,
                name=address.name,
                stem=address.stem,
                picture=_of_bgr,
                advice=advice,
                waits=True,
                fps=fps,
                timed=True,
            )
    return LiveSource(
        lambda: _CvConnection(opener, _of_bgr, advice), name=address.name, stem=address.stem, patience=patience
    )


def open_gstreamer(text: str, *, patience: Patience, fps: float | None = None) -> Source:
    """A GStreamer pipeline that ends in an appsink. It is live unless it reads files.

    Frames may be BGR, BGRx, GRAY8 or I420. I420 is not converted.

    Raises:
        UserError: it does not end in an appsink, this OpenCV has no GStreamer, or it does not start.
    """
    name = redacted(text)
    last = text.rpartition(" ! ")[2].strip()
    if not re.match(r"appsink\b", last):
        raise UserError(
            f"{name}: a pipeline ends in an appsink, got '{redacted(last)}'; write: ... ! videoconvert ! "
            "video/x-raw,format=BGR ! appsink drop=true max-buffers=1"
        )
    if not _has_gstreamer():
        raise UserError(
            f"{name}: this OpenCV ({cv2.__version__}) was built without GStreamer, as pip's is; on a Jetson or Debian: "
            "pip uninstall opencv-python, then apt install python3-opencv, and make the virtual environment with "
            "--system-site-packages"
        )

    def picture(image: Array) -> Picture:
        return _of_sample(image, i420="format=I420" in re.sub(r"\s|\(string\)", "", text))

    def opener() -> cv2.VideoCapture:
        return cv2.VideoCapture(text, cv2.CAP_GSTREAMER)  # an unknown property would stop a pipeline

    advice = "OpenCV's lines above say why; try it with: gst-launch-1.0 -v ... ! fakesink"
    if re.search(r"\b(multi)?filesrc\b|\buri=[\"']?file:", text):
        return CvFile(opener, name=name, stem="pipeline", picture=picture, advice=advice, waits=True, fps=fps)
    return LiveSource(lambda: _CvConnection(opener, picture, advice), name=name, stem="pipeline", patience=patience)


def _has_gstreamer() -> bool:
    return bool(re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()))


def _of_bgr(image: Any) -> Picture:
    return Picture.of_bgr(_three_channels(image))


def _three_channels(image: Any) -> Array:
    channels = 1 if image.ndim == 2 else image.shape[2]
    if channels not in (1, 3, 4) or image.dtype != np.uint8:
        raise UserError(
            f"frames of {channels} channels, {image.dtype}, are not read here; allowed: 1, 3 or 4 of 8 bits; write: "
            "... ! videoconvert ! video/x-raw,format=BGR ! appsink"
        )
    if channels == 3:
        return np.asarray(image, np.uint8)
    code = cv2.COLOR_GRAY2BGR if channels == 1 else cv2.COLOR_BGRA2BGR
    return np.asarray(cv2.cvtColor(image, code), np.uint8)


def _of_sample(image: Any, *, i420: bool) -> Picture:
    """A sample of an appsink. I420 has the shape (3/2 H, W): Y, then U and V, with two of their lines per row."""
    if not i420:
        return _of_bgr(image)
    image = image.reshape(image.shape[0], -1)
    height, width = image.shape[0] * 2 // 3, image.shape[1]
    if height % 4 or width % 2:  # U would end in the middle of a row
        return Picture.of_bgr(np.asarray(cv2.cvtColor(image, cv2.COLOR_YUV2BGR_I420), np.uint8))
    u, v = (part.reshape(height // 2, width // 2) for part in np.split(image[height:], 2))
    # GStreamer's own rule for a stream without a matrix: BT.709 for more than 576 lines
    return Picture((image[:height], u, v), Yuv(matrix=BT709 if height > 576 else BT601))
