"""The sinks of a run, chosen by the options of the command line and the kind of source."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.video.carried import check_sound, sound_for, warn_of_dropped_sound, warn_of_pixel_shape
from pipeline.video.names import LONGEST, shortened
from pipeline.video.rules import Rule
from pipeline.video.sinks import (
    ConfidenceSink,
    EventSink,
    H264Sink,
    ImageFolderSink,
    ImageSink,
    LinesSink,
    MaskSink,
    PageSettings,
    PageSink,
    PlaylistSink,
    PrintedLinesSink,
    Sink,
    StreamSink,
    WindowSink,
)
from pipeline.video.sinks._destination import redacted
from pipeline.video.sinks.h264 import DEFAULT_FPS
from pipeline.video.sinks.page import parse_address
from pipeline.video.sinks.tiles import SharedPage
from pipeline.video.sources import Source

log = logging.getLogger(__name__)

ONE_IMAGE = (".png", ".jpg", ".jpeg")
STANDARD_OUTPUT = Path("-")
EVENTS = Path("events")


@dataclass(frozen=True)
class Outputs:
    """The outputs that the user wants.

    Args:
        out: ``.mp4``, ``.m3u8``, one image, or a folder of overlays.
        masks: a folder of label maps.
        confidence: a folder of confidence; the engine must give it.
        original_ids: label maps in the data set's own ids.
        lines: a file of JSON lines; ``-`` is standard output.
        window: a window on this machine's screen.
        serve: ``[HOST:]PORT`` of a web page.
        fps: frame rate of a video made of images (default 25), or one that replaces the rate of a video file.
        audio: copy the sound of the source into an overlay video.
        crf, preset: of H.264, see :class:`pipeline.video.sinks.H264Sink`.
        rules: of events, whose lines and clips are written to ``event_dir``.
        event_dir: a folder; default ``events``.
        report: a file that the caller writes; only compared with the other places; ``-`` is standard output.
        benchmark: no sinks at all.
        every: every N-th frame is taken, so the frame rate of the overlay video is divided by N.
        name: for results that are named after the source; None: the source's stem.
        read: files of other runs, which must not be replaced either.
        expected: expected number of frames; None: unknown.
        allow_hosts, embed: of the page, see :class:`pipeline.video.sinks.PageSink`.
        out_is_folder: ``out`` is a folder even if its name has a suffix: a source may have dots in its name.
        several: whether this is one of several sources: then lines of JSON and folders of events have its name.
        page: shows all sources that run at the same time; replaces ``serve``.
        stream: an address that overlays are sent to; replaces ``out``.
        timeout, patience: of a stream, see :class:`pipeline.video.sinks.StreamSink`.
    """

    out: Path | None = None
    masks: Path | None = None
    original_ids: bool = False
    lines: Path | None = None
    window: bool = False
    serve: str | None = None
    fps: float | None = None
    crf: int = 20
    preset: str = "ultrafast"
    audio: bool = False
    rules: Sequence[Rule] = ()
    event_dir: Path | None = None
    report: Path | None = None
    benchmark: bool = False
    every: int = 1
    name: str | None = None
    read: Sequence[Path] = ()
    allow_hosts: Sequence[str] = ()
    embed: Sequence[str] = ()
    expected: int | None = None
    out_is_folder: bool = False
    stream: str | None = None
    several: bool = False
    page: SharedPage | None = None
    confidence: Path | None = None
    timeout: float = 10.0
    patience: float = 60.0

    def sinks(
        self, source: Source, *, labels: LabelSpec, engine: str, only: Collection[int] | None = None
    ) -> list[Sink]:
        """Sinks for a source; nothing is created yet. Without any output the sink is ``<name>-overlay.mp4``, or
        ``<name>-overlay.png`` for one image, in the current folder.

        Args:
            engine: name of the engine, for the page.
            only: ids that are shown; None for all.

        Raises:
            UserError: a target of an unknown kind, one that does not suit the source, or one that would overwrite it
                or another target.
        """
        self._check_options()
        reports = [self.report] if self.report and self.report != STANDARD_OUTPUT else []
        read = [*source.paths, *self.read]
        if self.benchmark:
            if any(self._others()) or self.audio:
                raise UserError(
                    "--benchmark writes nothing; "
                    "leave --out, --masks, --lines, --window, --serve, --audio, --confidence and --events out"
                )
            distinct(reports, read)
            return []
        if self.fps is not None and (source.live or not 0 < self.fps <= 1000):
            raise UserError(
                f"fps {self.fps:g} cannot be used: "
                + ("frames of a live source have their own times" if source.live else "allowed: above 0, at most 1000")
            )
        out = self.out
        if not any(self._others()):
            out = self._default_out(source)
        check_sound(source, out, wanted=self.audio, fps=self.fps)
        events = self._event_sinks(source)
        targets = [out, self.masks, self.confidence, None if self.lines == STANDARD_OUTPUT else self.lines, *reports]
        targets += [sink.lines for sink in events]  # their folder is never replaced
        distinct([target for target in targets if target is not None], read)
        sinks: list[Sink] = []
        warn_of_pixel_shape(source, out, self.masks, self.confidence)
        if out is not None:
            sinks.append(self._overlay_sink(source, out, labels))
        if self.stream is not None:
            sinks.append(self._stream_sink(source, self.stream))
        if self.masks is not None:
            sinks.append(MaskSink(self.masks, labels=labels, original=self.original_ids))
        if self.confidence is not None:
            sinks.append(ConfidenceSink(self.confidence))
        if self.lines is not None:
            sinks.append(self._lines_sink(self.lines, labels))
        sinks += events
        if self.serve is not None:
            page = PageSettings(labels=labels, title=source.name, engine=engine, only=only)
            sinks.append(self._page_sink(page, self.serve, name=self.name or source.stem))
        if self.window:
            sinks.append(WindowSink(title=source.name))
        return sinks

    def _check_options(self) -> None:
        if self.original_ids and self.masks is None:
            raise UserError("original ids are for label maps; name a folder for them: --masks DIR")
        for kind, folder in (("masks are", self.masks), ("confidence is", self.confidence)):
            if folder is not None and folder.name != self.name and names_file(folder):
                raise UserError(f"{folder}: {kind} a folder of PNG files; name a folder, whose name has no suffix")
        if self.serve is None and (self.allow_hosts or self.embed):
            raise UserError("--allow-host and --embed are for the page; add --serve PORT")
        if self.event_dir is not None and not self.rules:
            raise UserError(f"{self.event_dir}: a folder for events, but no rules; name their file: --events FILE")
        for option, given in (("--out", self.out), ("--masks", self.masks), ("--confidence", self.confidence)):
            if given == STANDARD_OUTPUT:
                raise UserError(f"{option} -: pictures are not written to standard output; name a file or a folder")
        if self.lines == self.report == STANDARD_OUTPUT:
            raise UserError("--lines - and --json -: one of them can be standard output; name a file for the other")

    def _default_out(self, source: Source) -> Path:
        """The default output, in the current folder; warns if it exists already."""
        single = not source.is_video and source.count == 1
        ending = f"-overlay{'.png' if single else '.mp4'}"
        out = Path(shortened(self.name or source.stem, LONGEST - len(ending)) + ending)
        if out.exists():
            log.warning("%s: exists already and will be replaced; --out PATH names another place", out)
        return out

    def _event_sinks(self, source: Source) -> list[EventSink]:
        if not self.rules:
            return []
        fps = self._rate(source)
        clips: dict[str, Any] = {"fps": fps, "crf": self.crf, "preset": self.preset}
        pace = None if source.live else fps
        folder = self.event_dir or (EVENTS / self.name if self.several and self.name else EVENTS)
        return [EventSink(folder, self.rules, source=source.name, pace=pace, **clips)]

    def _overlay_sink(self, source: Source, out: Path, labels: LabelSpec) -> Sink:
        suffix = "" if self.out_is_folder else out.suffix.lower()
        if suffix == ".mp4":
            return H264Sink(
                out,
                fps=self._rate(source),
                crf=self.crf,
                preset=self.preset,
                sound=sound_for(source, out, wanted=self.audio),
                expected=self.expected,
            )
        if suffix == ".m3u8":
            return PlaylistSink(out, **self._streaming(source))
        if suffix in ONE_IMAGE:
            if source.is_video or source.count != 1:
                numbered = "; images are named after their frames" if "%" in out.name else ""
                raise UserError(
                    f"{out}: one image cannot hold all frames of {source.name}{numbered}; name an .mp4 file or a folder"
                )
            return ImageSink(out)
        if suffix and not out.is_dir():
            raise UserError(
                f"{out}: '{suffix}' is not written here; allowed: .mp4 (video), .m3u8 (HLS), "
                f"{' '.join(ONE_IMAGE)} (one image), or a folder, whose name has no suffix"
            )
        return ImageFolderSink(out, labels=labels)

    def _lines_sink(self, place: Path, labels: LabelSpec) -> Sink:
        name = self.name if self.several else None
        if place == STANDARD_OUTPUT:
            return PrintedLinesSink(labels=labels, source=name)
        return LinesSink(place, labels=labels, source=name)

    def _page_sink(self, page: PageSettings, address: str, *, name: str) -> Sink:
        if self.page is not None:
            return self.page.sink(name, page)
        host, port = parse_address(address)
        return PageSink(page, host=host, port=port, hosts=self.allow_hosts, embed=self.embed)

    def _rate(self, source: Source) -> float:
        """Frames per second of the overlay."""
        return (self.fps or source.fps or DEFAULT_FPS) / self.every

    def _others(self) -> Sequence[object]:
        """All outputs except the report."""
        return self.out, self.stream, self.masks, self.confidence, self.lines, self.window, self.serve, self.rules

    def _stream_sink(self, source: Source, address: str) -> StreamSink:
        if redacted(address) == source.name:
            raise UserError(f"--out {source.name}: is the source, which would take its own overlay; name another")
        return StreamSink(address, **self._streaming(source))

    def _streaming(self, source: Source) -> dict[str, Any]:
        warn_of_dropped_sound(source)
        return {
            "live": source.live,
            "fps": self._rate(source),
            "crf": self.crf,
            "preset": self.preset,
            "timeout": self.timeout,
            "patience": self.patience,
        }


def names_file(place: Path) -> bool:
    """Whether a path names a file, judged by its suffix."""
    return place.suffix.lower() in (".mp4", ".m3u8", *ONE_IMAGE)


def _resolved(target: Path) -> Path:
    try:
        return target.resolve()
    except OSError as error:  # a name that is too long, a loop of links
        raise UserError(f"{target}: cannot be written ({error.strerror}); name another place") from error


def distinct(targets: Sequence[Path], read: Sequence[Path]) -> None:
    """Raise UserError if a target is named twice, is inside another one, or would replace a file that is read."""
    places = [_resolved(target) for target in targets]
    folders = {folder: folder.resolve() for folder in {path.parent for path in read}}
    files = {folders[path.parent] / path.name: path for path in read}
    files |= {path.resolve(): path for path in read if path.is_symlink()}
    for target, place in zip(targets, places, strict=True):
        if places.count(place) > 1:
            raise UserError(f"{target}: named for two things; name two places")
        around = next((other for other, folder in zip(targets, places, strict=True) if folder in place.parents), None)
        if around is not None:
            raise UserError(f"{target}: is inside {around}, which is replaced as a whole; name a place outside of it")
        above = next((given for given, folder in folders.items() if place == folder or place in folder.parents), None)
        lost = files.get(place, above)
        if lost is not None:
            raise UserError(f"{target}: writing there would replace the source {lost}; name another place")
