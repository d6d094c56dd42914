"""Properties of a video stream (pixel aspect, cover art, other streams), and the options for reading it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pipeline.errors import UserError
from pipeline.video.drawing.picture import SQUARE
from pipeline.video.sources._base import Source

log = logging.getLogger(__name__)

_MOST = 10  # largest ratio of the sides of a pixel; scans of films have 2

#: Tags of Dolby Vision. Without a transfer curve of HDR10, HLG or SDR only a Dolby decoder can show such a stream.
_DOLBY_VISION = ("dvh1", "dvhe", "dva1", "dvav", "dav1")
_UNSPECIFIED = 2


@dataclass(frozen=True)
class StreamOptions:
    """How a stream is read.

    Attributes:
        number: number of the video stream in its file, as in ffprobe; None: the stream that players choose.
        tone_map: whether HDR (PQ and HLG) becomes SDR of BT.709.
        deinterlace: whether frames that are marked as interlaced are deinterlaced.
    """

    number: int | None = None
    tone_map: bool = True
    deinterlace: bool = True

    def check(self, source: Source) -> None:
        """Raise UserError if a stream is chosen and the source has no numbered streams."""
        if self.number is not None and source.stream is None:
            raise UserError(
                f"{source.name}: --stream chooses a video stream of a file or an address that PyAV reads; leave it out"
            )


class Remarks:
    """Warnings about one source. Each is printed once, also if the source is opened several times.

    Args:
        name: of the source.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._given: set[str] = set()

    def warn(self, text: str) -> None:
        if text not in self._given:
            self._given.add(text)
            log.warning("%s: %s", self._name, text)


def is_cover(stream: Any) -> bool:
    """Whether a video stream is the cover art of a song: one picture, not a video."""
    return bool(stream.disposition & type(stream.disposition).attached_pic)


def moving(container: Any) -> list[Any]:
    """The video streams of a container, without cover art."""
    return [stream for stream in container.streams.video if not is_cover(stream)]


def pixel_aspect(stream: Any) -> Fraction:
    """Width of a pixel divided by its height; 1 if the stream has no value, or an impossible one."""
    ratio = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    return Fraction(ratio) if ratio and 1 / _MOST <= ratio <= _MOST else SQUARE


def warn_of_streams(container: Any, chosen: Any, remarks: Remarks) -> None:
    """Warn of video streams and cover art that are not read, and of colours that only Dolby decoders can show."""
    others = [stream for stream in moving(container) if stream.index != chosen.index]
    if others:
        remarks.warn(
            f"holds {len(others) + 1} video streams: {listed(sorted([chosen, *others], key=lambda s: s.index))}; "
            f"stream {chosen.index} is read; another one is chosen with --stream N"
        )
    if any(is_cover(stream) and stream.index != chosen.index for stream in container.streams.video):
        remarks.warn("its cover art is not carried over")

    codec = chosen.codec_context
    if codec is not None and codec.codec_tag in _DOLBY_VISION and int(codec.color_trc) == _UNSPECIFIED:
        remarks.warn(
            "is Dolby Vision without a layer of HDR10, HLG or SDR: its colours cannot be converted and are wrong; "
            "export it as one of these"
        )


def listed(streams: Sequence[Any]) -> str:
    """Numbers, sizes and codecs of video streams, for a message."""
    return ", ".join(f"{stream.index} ({_described(stream)})" for stream in streams)


def _described(stream: Any) -> str:
    codec = stream.codec_context
    if codec is None:
        return "no decoder for it"
    cover = ", cover art" if is_cover(stream) else ""
    return f"{codec.width}x{codec.height}, {codec.name}{cover}"
