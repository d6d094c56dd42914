"""Which sinks a run needs: from what ``--out`` and ``--masks`` name, and what kind of source it is."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.video.sinks import DEFAULT_FPS, H264Sink, ImageFolderSink, ImageSink, MaskSink, Sink
from pipeline.video.sources import Source

ONE_IMAGE = (".png", ".jpg", ".jpeg")


def choose_sinks(
    source: Source, *, out: Path | None, masks: Path | None, labels: LabelSpec, fps: float | None = None
) -> list[Sink]:
    """Sinks for a source; nothing is created yet.

    Args:
        out: ``.mp4``, one image, or a folder of overlays. None: no overlay when ``masks`` is given, else
            ``overlay.mp4``, or ``<name>-overlay.png`` for a single image, in the current folder.
        masks: a folder of label maps, or None.
        fps: frame rate of a video made of images; default 25. A video keeps its own.

    Raises:
        UserError: a target of an unknown kind, one that does not suit the source, or one that would overwrite it.
    """
    if fps is not None and (source.is_video or not 0 < fps <= 1000):
        raise UserError(
            f"fps {fps:g} cannot be used: "
            + ("a video keeps its own frame rate" if source.is_video else "allowed: more than 0, at most 1000")
        )
    if out is None and masks is None:
        single = not source.is_video and source.count == 1
        out = Path(f"{next(iter(source)).name}-overlay.png") if single else Path("overlay.mp4")
    if masks is not None and masks.suffix.lower() in (".mp4", *ONE_IMAGE):
        raise UserError(f"{masks}: masks are a folder of PNG files; name a folder, whose name has no suffix")
    for target in (out, masks):
        if target is not None:
            _keep_source(source.path, target)
    if out is not None and masks is not None and out.resolve() == masks.resolve():
        raise UserError(f"{out}: named for overlays and for masks; name two places")
    sinks: list[Sink] = []
    if out is not None:
        sinks.append(_overlay_sink(source, out, labels, fps=fps or source.fps or DEFAULT_FPS))
    if masks is not None:
        sinks.append(MaskSink(masks, labels=labels))
    return sinks


def _overlay_sink(source: Source, out: Path, labels: LabelSpec, *, fps: float) -> Sink:
    suffix = out.suffix.lower()
    if suffix == ".mp4":
        return H264Sink(out, fps=fps)
    if suffix in ONE_IMAGE:
        if source.is_video or source.count != 1:
            raise UserError(f"{out}: one image cannot hold all frames of {source.path}; name an .mp4 file or a folder")
        return ImageSink(out)
    if suffix and not out.is_dir():
        raise UserError(
            f"{out}: '{suffix}' is not written here; allowed: .mp4 (video), {' '.join(ONE_IMAGE)} (one image), "
            "or a folder, whose name has no suffix"
        )
    return ImageFolderSink(out, labels=labels)


def _keep_source(source: Path, target: Path) -> None:
    read, written = source.resolve(), target.resolve()
    if read == written or written in read.parents:
        raise UserError(f"{target}: writing there would replace the source {source}; name another place")
