"""Where results go: an H.264 video, a folder of overlays or of label maps, or one image.

Every sink is a context manager: a normal exit puts the result at its path and replaces an older one, any other exit
leaves the path as it was (see :mod:`pipeline.video.staged`).
"""

from __future__ import annotations

import contextlib
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np

from pipeline.artifact import dump_json
from pipeline.errors import UserError
from pipeline.frames import Array, resize_label_map, write_png
from pipeline.labels import LabelSpec
from pipeline.video._av import load_av
from pipeline.video.staged import StagedFile, StagedFolder

#: Lies beside the images of a folder: says what ids and colours mean, and marks the folder as written by segpress.
CLASSES = "classes.json"
DEFAULT_FPS = 25.0
_TICKS = 90_000  # a second; MPEG's clock, in which 24, 25, 30 and 29.97 fps are whole numbers of ticks
_BT709 = 1  # FFmpeg's number of this colour space, its primaries and transfer: what browsers assume for HD
_LIMITED = 1  # and of luma in 16..235


class Result(NamedTuple):
    """One segmented frame: (h, w) train ids and, where an overlay was drawn, the (H, W, 3) BGR picture."""

    name: str
    timestamp: float | None
    size: tuple[int, int]
    label_map: Array
    picture: Array | None


class Sink(Protocol):
    """Takes results in order. ``path`` is what exists after a normal exit."""

    path: Path

    def __enter__(self) -> object: ...

    def write(self, result: Result) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class _FolderSink(StagedFolder):
    def __init__(self, path: Path, *, labels: LabelSpec) -> None:
        super().__init__(path, mark=CLASSES, content=dump_json(labels.to_meta()))

    def put(self, name: str, image: Array) -> None:
        assert self.place is not None
        try:
            write_png(self.place / f"{name}.png", image)
        except OSError as error:
            raise self.unwritable(error) from error


class MaskSink(_FolderSink):
    """A folder of label maps: ``<name>.png`` with train ids at frame size, and classes.json with their meaning."""

    def write(self, result: Result) -> None:
        self.put(result.name, resize_label_map(result.label_map, result.size))


class ImageFolderSink(_FolderSink):
    """A folder of overlays: ``<name>.png``, and classes.json with the colours."""

    def write(self, result: Result) -> None:
        assert result.picture is not None, "an overlay sink needs a loop that draws"
        self.put(result.name, result.picture)


class ImageSink(StagedFile):
    """One overlay image, PNG or JPEG by the suffix of ``path``."""

    def write(self, result: Result) -> None:
        assert result.picture is not None, "an overlay sink needs a loop that draws"
        done, data = cv2.imencode(self.path.suffix.lower(), result.picture)
        assert done, f"OpenCV refused to encode {self.path.suffix}"
        assert self.place is not None
        try:
            self.place.write_bytes(data.tobytes())
        except OSError as error:
            raise self.unwritable(error) from error


class H264Sink(StagedFile):
    """An MP4 that plays in a browser: H.264, yuv420p, index at the front, one key frame every two seconds.

    Frames keep their distance in time; the first one is at 0 s. An odd width or height is padded by one repeated pixel.

    Args:
        path: the .mp4 file.
        fps: frames a second, for frames without a timestamp and for the encoder's rate control.
        crf: quality of libx264, 0 (lossless) to 51; 20 is visually close to the source.

    Raises:
        UserError: on construction, when PyAV or its libx264 is missing.
    """

    def __init__(self, path: Path, *, fps: float = DEFAULT_FPS, crf: int = 20) -> None:
        super().__init__(path)
        av = load_av()
        if av is None:
            raise UserError(f"{path}: H.264 needs PyAV: pip install av; or write masks with --masks DIR")
        try:
            av.codec.Codec("libx264", "w")
        except ValueError as error:
            raise UserError(
                f"{path}: this PyAV was built without libx264; use the wheel: pip install --force-reinstall av; "
                "or write masks with --masks DIR"
            ) from error
        self._av = av
        self._rate = Fraction(fps).limit_denominator(1001)  # 29.97 is 30000/1001
        self._crf = crf
        self._container: Any = None
        self._stream: Any = None
        self._size: tuple[int, int] | None = None
        self._origin: float | None = None
        self._count = 0
        self._last = -1

    def write(self, result: Result) -> None:
        assert result.picture is not None, "an overlay sink needs a loop that draws"
        try:
            if self._size is None:
                self._begin(result)
            if result.size != self._size:
                assert self._size is not None
                raise UserError(
                    f"{result.name} is {result.size[0]}x{result.size[1]} (height x width), the frames before it are "
                    f"{self._size[0]}x{self._size[1]}; a video has one size: write images, with --out FOLDER"
                )
            height, width = result.size
            even = cv2.copyMakeBorder(result.picture, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
            frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(even, np.uint8), format="bgr24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=_BT709, dst_color_range=_LIMITED)
            frame.time_base = Fraction(1, _TICKS)
            frame.pts = self._ticks(result.timestamp)
            frame.duration = round(_TICKS / self._rate)  # else the last frame lasts no time
            self._container.mux(self._stream.encode(frame))
        except (self._av.error.FFmpegError, OSError) as error:
            raise self.unwritable(error) from error

    def _begin(self, result: Result) -> None:
        self._size = height, width = result.size
        self._container = self._av.open(str(self.place), "w", format="mp4", options={"movflags": "+faststart"})
        options = {"preset": "veryfast", "crf": str(self._crf)}
        self._stream = self._container.add_stream("libx264", rate=self._rate, options=options)
        self._stream.width, self._stream.height = width + width % 2, height + height % 2
        self._stream.pix_fmt = "yuv420p"
        codec = self._stream.codec_context
        codec.time_base = Fraction(1, _TICKS)
        codec.gop_size = max(1, round(2 * self._rate))
        codec.colorspace = codec.color_primaries = codec.color_trc = _BT709
        codec.color_range = _LIMITED

    def _ticks(self, timestamp: float | None) -> int:
        """Presentation time, strictly rising whatever the source says."""
        if timestamp is None:
            ticks = round(self._count * _TICKS / self._rate)
        else:
            self._origin = timestamp if self._origin is None else self._origin
            ticks = round((timestamp - self._origin) * _TICKS)
        self._count += 1
        self._last = max(ticks, self._last + 1)
        return self._last

    def finish(self) -> None:
        assert self._stream is not None, "no frame was written"
        try:
            self._container.mux(self._stream.encode(None))
            self._container.close()
        except self._av.error.FFmpegError as error:
            raise self.unwritable(error) from error
        self._container = None

    def discard(self) -> None:
        if self._container is not None:
            with contextlib.suppress(self._av.error.FFmpegError, OSError):  # what it wrote is removed anyway
                self._container.close()
        super().discard()
