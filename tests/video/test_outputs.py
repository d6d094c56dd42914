from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.video.outputs import choose_sinks
from pipeline.video.sources import open_source

pytest.importorskip("av")


def chosen(path: Path, labels: LabelSpec, *, out: Path | None = None, masks: Path | None = None) -> list[str]:
    return [
        f"{type(s).__name__} {s.path}" for s in choose_sinks(open_source(path), out=out, masks=masks, labels=labels)
    ]


def test_defaults(folder: Path, make_video: Callable[..., Path], labels: LabelSpec) -> None:
    assert chosen(make_video(), labels) == ["H264Sink overlay.mp4"]
    assert chosen(folder, labels) == ["H264Sink overlay.mp4"]
    assert chosen(folder / "a.png", labels) == ["ImageSink a-overlay.png"]
    assert chosen(folder, labels, masks=Path("m")) == ["MaskSink m"], "masks alone need no encoder"


def test_named(folder: Path, labels: LabelSpec) -> None:
    assert chosen(folder, labels, out=Path("x.mp4"), masks=Path("m")) == ["H264Sink x.mp4", "MaskSink m"]
    assert chosen(folder, labels, out=Path("x")) == ["ImageFolderSink x"]
    assert chosen(folder / "a.png", labels, out=Path("x.jpg")) == ["ImageSink x.jpg"]


@pytest.mark.parametrize(
    ("out", "masks", "message"),
    [
        ("x.avi", None, r"'\.avi' is not written here; allowed: \.mp4"),
        ("x.png", None, "one image cannot hold all frames"),
        (None, "m.png", "masks are a folder of PNG files"),
        ("same", "same", "named for overlays and for masks"),
    ],
)
def test_refused(folder: Path, labels: LabelSpec, out: str | None, masks: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        chosen(folder, labels, out=Path(out) if out else None, masks=Path(masks) if masks else None)


def test_source_is_never_the_target(folder: Path, make_video: Callable[..., Path], labels: LabelSpec) -> None:
    video = make_video()
    with pytest.raises(UserError, match="would replace the source"):
        chosen(video, labels, out=video)
    with pytest.raises(UserError, match="would replace the source"):
        chosen(folder, labels, out=folder)
    with pytest.raises(UserError, match="would replace the source"):
        chosen(folder / "a.png", labels, masks=folder.parent)


def test_fps(folder: Path, make_video: Callable[..., Path], labels: LabelSpec) -> None:
    with pytest.raises(UserError, match="a video keeps its own frame rate"):
        choose_sinks(open_source(make_video()), out=None, masks=None, labels=labels, fps=10)
    for fps in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="allowed: more than 0"):
            choose_sinks(open_source(folder), out=None, masks=None, labels=labels, fps=fps)
