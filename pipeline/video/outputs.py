"""Which sinks a run needs: from what the command line names, and what kind of source it is."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.video.sinks import (
    H264Sink,
    ImageFolderSink,
    ImageSink,
    LinesSink,
    MaskSink,
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
from pipeline.video.sources import Source

ONE_IMAGE = (".png", ".jpg", ".jpeg")
STANDARD_OUTPUT = Path("-")


@dataclass(frozen=True)
class Outputs:
    """What was asked for.

    Args:
        out: ``.mp4``, ``.m3u8``, one image, or a folder of overlays.
        masks: a folder of label maps.
        original_ids: in the data set's own ids.
        lines: a file of JSON lines; ``-`` is standard output.
        window: a window on this machine's screen.
        serve: ``[HOST:]PORT`` of a web page.
        fps: frame rate of a video made of images; default 25. A video keeps its own.
        crf, preset: of H.264, see :class:`pipeline.video.sinks.H264Sink`.
        report: a file that the caller writes; only compared with the other places.
        benchmark: no sinks at all.
        stream: an address that overlays are sent to, in the place of ``out``.
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
    report: Path | None = None
    benchmark: bool = False
    stream: str | None = None
    timeout: float = 10.0
    patience: float = 60.0

    def sinks(
        self, source: Source, *, labels: LabelSpec, engine: str, only: Collection[int] | None = None
    ) -> list[Sink]:
        """Sinks for a source; nothing is created yet. Nothing asked for: ``overlay.mp4``, or ``<name>-overlay.png`` for
        one image, in the current folder.

        Args:
            engine: what the engine is called, on the page.
            only: ids that are shown; None for all.

        Raises:
            UserError: a target of an unknown kind, one that does not suit the source, or one that would overwrite it
                or another target.
        """
        if self.benchmark:
            if self.out or self.stream or self.masks or self.lines or self.window or self.serve:
                raise UserError("--benchmark writes nothing; leave --out, --masks, --lines, --window and --serve out")
            _distinct([self.report] if self.report else [], source.paths)
            return []
        if self.fps is not None and (source.is_video or not 0 < self.fps <= 1000):
            raise UserError(
                f"fps {self.fps:g} cannot be used: "
                + ("a video keeps its own frame rate" if source.is_video else "allowed: more than 0, at most 1000")
            )
        if self.original_ids and self.masks is None:
            raise UserError("original ids are for label maps; name a folder for them: --masks DIR")
        if self.masks is not None and self.masks.suffix.lower() in (".mp4", *ONE_IMAGE):
            raise UserError(f"{self.masks}: masks are a folder of PNG files; name a folder, whose name has no suffix")
        out = self.out
        if not (out or self.stream or self.masks or self.lines or self.window or self.serve):
            single = not source.is_video and source.count == 1
            out = Path(f"{source.stem}-overlay.png" if single else "overlay.mp4")
        targets = [out, self.masks, None if self.lines == STANDARD_OUTPUT else self.lines, self.report]
        _distinct([target for target in targets if target is not None], source.paths)
        sinks: list[Sink] = []
        if out is not None:
            sinks.append(self._overlay_sink(source, out, labels))
        if self.stream is not None:
            sinks.append(self._stream_sink(source, self.stream))
        if self.masks is not None:
            sinks.append(MaskSink(self.masks, labels=labels, original=self.original_ids))
        if self.lines is not None:
            to_file = self.lines != STANDARD_OUTPUT
            sinks.append(LinesSink(self.lines, labels=labels) if to_file else PrintedLinesSink(labels=labels))
        if self.serve is not None:
            host, port = parse_address(self.serve)
            sinks.append(PageSink(host, port, labels=labels, title=source.name, engine=engine, only=only))
        if self.window:
            sinks.append(WindowSink(title=source.name))
        return sinks

    def _overlay_sink(self, source: Source, out: Path, labels: LabelSpec) -> Sink:
        suffix = out.suffix.lower()
        if suffix == ".mp4":
            return H264Sink(out, fps=self.fps or source.fps or DEFAULT_FPS, crf=self.crf, preset=self.preset)
        if suffix == ".m3u8":
            return PlaylistSink(out, **self._streaming(source))
        if suffix in ONE_IMAGE:
            if source.is_video or source.count != 1:
                raise UserError(
                    f"{out}: one image cannot hold all frames of {source.name}; name an .mp4 file or a folder"
                )
            return ImageSink(out)
        if suffix and not out.is_dir():
            raise UserError(
                f"{out}: '{suffix}' is not written here; allowed: .mp4 (video), .m3u8 (HLS), "
                f"{' '.join(ONE_IMAGE)} (one image), or a folder, whose name has no suffix"
            )
        return ImageFolderSink(out, labels=labels)

    def _stream_sink(self, source: Source, address: str) -> StreamSink:
        if redacted(address) == source.name:
            raise UserError(f"--out {source.name}: is the source, which would take its own overlay; name another")
        return StreamSink(address, **self._streaming(source))

    def _streaming(self, source: Source) -> dict[str, Any]:
        return {
            "live": source.live,
            "fps": self.fps or source.fps or DEFAULT_FPS,
            "crf": self.crf,
            "preset": self.preset,
            "timeout": self.timeout,
            "patience": self.patience,
        }


def _distinct(targets: Sequence[Path], read: Sequence[Path]) -> None:
    """Raise UserError when a target is named twice, lies in another one, or would replace what is read."""
    places = [target.resolve() for target in targets]
    folders = {folder: folder.resolve() for folder in {path.parent for path in read}}
    files = {folders[path.parent] / path.name: path for path in read}
    files |= {path.resolve(): path for path in read if path.is_symlink()}
    for target, place in zip(targets, places, strict=True):
        if places.count(place) > 1:
            raise UserError(f"{target}: named for two things; name two places")
        around = next((other for other, folder in zip(targets, places, strict=True) if folder in place.parents), None)
        if around is not None:
            raise UserError(f"{target}: lies in {around}, which is replaced as a whole; name a place outside of it")
        above = next((given for given, folder in folders.items() if place == folder or place in folder.parents), None)
        lost = files.get(place, above)
        if lost is not None:
            raise UserError(f"{target}: writing there would replace the source {lost}; name another place")
