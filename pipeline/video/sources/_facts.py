"""What a stream says about itself, beyond its pictures, and what the user wants done about it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pipeline.errors import UserError
from pipeline.video.picture import SQUARE
from pipeline.video.sources._base import Source

log = logging.getLogger(__name__)

_MOST = 10  # times that a pixel is wider than high, or higher than wide; scans of films have 2

#: Tags of streams that only a Dolby Vision decoder can show, unless they say what curve they have besides.
_DOLBY_VISION = ("dvh1", "dvhe", "dva1", "dvav", "dav1")
_UNSPECIFIED = 2


@dataclass(frozen=True)
class StreamOptions:
    """How a stream is read.

    Attributes:
        number: of the video stream in its file, as ffprobe counts; None: the one that players choose.
        tone_map: HDR (PQ and HLG) becomes SDR of BT.709.
        deinterlace: frames that are marked as interlaced become progressive ones.
    """

    number: int | None = None
    tone_map: bool = True
    deinterlace: bool = True

    def check(self, source: Source) -> None:
        """Raise UserError where a stream was chosen of something that has no numbered streams."""
        if self.number is not None and source.stream is None:
            raise UserError(
                f"{source.name}: --stream chooses a video stream of a file or an address that PyAV reads; leave it out"
            )


class Remarks:
    """Warnings about one source, each given once, however often it is opened.

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
    """Width of a pixel by its height, as the picture is stored; 1 where the stream says none, or one without sense."""
    said = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    return Fraction(said) if said and 1 / _MOST <= said <= _MOST else SQUARE


def tell_streams(container: Any, chosen: Any, remarks: Remarks) -> None:
    """Warn of video streams and covers that are not read, and of colours that nobody but Dolby can read."""
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
