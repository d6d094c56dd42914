"""What OpenCV reads: cameras, GStreamer pipelines, and, where PyAV is not installed, videos and addresses."""

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
from pipeline.video.names import STEM, shortened
from pipeline.video.picture import BT601, BT709, Picture, Yuv
from pipeline.video.sources._address import Address, redacted
from pipeline.video.sources._base import Frame, Source
from pipeline.video.sources._container import ReadError
from pipeline.video.sources._live import LiveSource, Patience
from pipeline.video.sources._whole import missing_bytes
from pipeline.video.sources.video_file import convert

log = logging.getLogger(__name__)

#: FFmpeg says some huge number, or a negative one, of what has no end.
_ENDLESS = 2**31

Open = Callable[[], cv2.VideoCapture]
Convert = Callable[[Any], Picture]


class CvFile(Source):
    """A video with an end, read with OpenCV: times follow from the frame rate, and damage within it is not noticed.

    Args:
        fps: frames a second, in place of what the video says.
        opener: opens it.
        picture: makes a picture of what is read.
        advice: what to do when it cannot be read.
        waits: others send it.

    Raises:
        UserError: it cannot be opened, or not one frame can be decoded.
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
            self.fps = fps or (rate if math.isfinite(rate) and rate > 0 else None)
            self.count = int(count) if math.isfinite(count) and 0 < count < _ENDLESS else None
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
        if start > 0 and self.fps is None:
            raise UserError(f"{self.name}: has no frame rate, so {start:g} s cannot be found; leave the start out")
        self.damage = ""
        capture = self._open()
        try:
            first = math.ceil(start * (self.fps or 0) - 0.5 - 1e-6)  # the frame that is nearest
            for skipped in range(first):
                if not capture.grab():
                    end = skipped / (self.fps or 1)
                    raise UserError(f"{self.name}: nothing from {start:g} s on, it ends at {end:.2f} s; start earlier")
            index = first
            while True:
                done, image = capture.read()
                if not done:
                    break
                time = index / self.fps if self.fps else None
                yield Frame(f"{self.stem}-{index:06d}", time, self._picture(image))
                index += 1
        finally:
            capture.release()
        if index == first:
            raise UserError(f"{self.name}: not one frame from {start:g} s on; {self._advice}")
        missing = missing_bytes(self.paths[0]) if self.paths and index < (self.count or math.inf) else 0
        if missing:
            self.damage = f"{index - first} frames were read; it was cut off: {missing} bytes are missing"
            log.warning("%s: damaged: %s", self.name, self.damage)


class _CvConnection:
    """One capture that is live."""

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
            raise ReadError("it gives no more frames")
        return self._picture(image)

    def close(self) -> None:
        self._capture.release()


def open_file(path: Path, *, fps: float | None = None) -> Source:
    """A video file, for machines without PyAV; ``fps`` as in :class:`CvFile`."""

    log.warning(
        "%s: read with OpenCV, as PyAV is not installed (pip install av): HDR, interlacing, other streams and the "
        "shape of pixels are not seen, and frames have no times",
        path,
    )

    def opener() -> cv2.VideoCapture:
        # an absolute path cannot be taken for an address, nor does FFmpeg open addresses from within a file
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
    )


def open_camera(camera: int | Path, *, patience: Patience) -> Source:
    """A camera by its number, or by its device file. Raises UserError when it cannot be opened or gives no frame."""
    name = f"camera {camera}" if isinstance(camera, int) else str(camera)
    found = sorted(map(str, Path("/dev").glob("video*")))
    advice = (
        f"cameras here: {', '.join(found) or 'none'}; check that no other program uses it and that you may read it "
        "(group video); cameras on the ribbon of a Jetson need a GStreamer pipeline (nvarguscamerasrc)"
    )

    def opener() -> cv2.VideoCapture:
        capture = cv2.VideoCapture(camera) if isinstance(camera, int) else cv2.VideoCapture(str(camera), cv2.CAP_V4L2)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # where a driver heeds it
        return capture

    stem = f"camera{camera}" if isinstance(camera, int) else camera.name
    return LiveSource(lambda: _CvConnection(opener, _of_bgr, advice), name=name, stem=stem, patience=patience)


def open_address(address: Address, *, patience: Patience, fps: float | None = None) -> Source:
    """Video from the network, for machines without PyAV: a file where OpenCV tells its length, else live."""
    limits = [
        *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, round(patience.timeouts.open * 1000)),
        *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(patience.timeouts.read * 1000)),
    ]

    def opener() -> cv2.VideoCapture:
        return cv2.VideoCapture(address.url, cv2.CAP_FFMPEG, limits)

    advice = "check address, port, user and password, and that it is sending; PyAV tells more: pip install av"
    if address.url.lower().startswith(("http://", "https://")):
        capture = opener()
        ends = 0 < capture.get(cv2.CAP_PROP_FRAME_COUNT) < _ENDLESS
        capture.release()
        if ends:
            return CvFile(
                opener, name=address.name, stem=address.stem, picture=_of_bgr, advice=advice, waits=True, fps=fps
            )
    return LiveSource(
        lambda: _CvConnection(opener, _of_bgr, advice), name=address.name, stem=address.stem, patience=patience
    )


def open_gstreamer(text: str, *, patience: Patience, fps: float | None = None) -> Source:
    """A GStreamer pipeline that ends in an appsink; it is live unless it reads files.

    Pictures may be BGR, BGRx, GRAY8, or I420, which is not converted.

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
        return cv2.VideoCapture(text, cv2.CAP_GSTREAMER)  # to set a property that it does not know stops a pipeline

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
    """A sample of an appsink; I420 comes as (3/2 H, W): Y, then the lines of U and of V two in a row."""
    if not i420:
        return _of_bgr(image)
    image = image.reshape(image.shape[0], -1)
    height, width = image.shape[0] * 2 // 3, image.shape[1]
    if height % 4 or width % 2:  # U would end within a row
        return Picture.of_bgr(np.asarray(cv2.cvtColor(image, cv2.COLOR_YUV2BGR_I420), np.uint8))
    u, v = (part.reshape(height // 2, width // 2) for part in np.split(image[height:], 2))
    # GStreamer's own rule where a stream does not say: BT.709 for more than 576 lines
    return Picture((image[:height], u, v), Yuv(matrix=BT709 if height > 576 else BT601))
