from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.video.outputs import Outputs
from pipeline.video.sources import open_source

pytest.importorskip("av")


def chosen(path: Path, labels: LabelSpec, **wanted: Any) -> list[str]:
    """Names of the sinks and what they write."""
    places = {
        key: Path(value) if key in ("out", "masks", "lines", "report") and value else value
        for key, value in wanted.items()
    }
    sinks = Outputs(**places).sinks(open_source(str(path)), labels=labels, engine="kd/int8")
    return [f"{type(sink).__name__} {sink.written}" for sink in sinks]


def test_defaults(folder: Path, make_video: Callable[..., Path], labels: LabelSpec) -> None:
    assert chosen(make_video(), labels) == ["H264Sink overlay.mp4"]
    assert chosen(folder, labels) == ["H264Sink overlay.mp4"]
    assert chosen(folder / "a.png", labels) == ["ImageSink a-overlay.png"]
    assert chosen(folder, labels, masks="m") == ["MaskSink m"], "masks alone need no encoder"
    assert chosen(folder, labels, serve="0") == ["PageSink None"]
    assert chosen(folder, labels, report="s.json", benchmark=True) == []


def test_named(folder: Path, labels: LabelSpec) -> None:
    assert chosen(folder, labels, out="x.mp4", masks="m") == ["H264Sink x.mp4", "MaskSink m"]
    assert chosen(folder, labels, out="x") == ["ImageFolderSink x"]
    assert chosen(folder / "a.png", labels, out="x.jpg") == ["ImageSink x.jpg"]
    everything = chosen(folder, labels, out="x", masks="m", lines="l.jsonl", serve="127.0.0.1:0", window=True)
    kinds = [line.split()[0] for line in everything]
    assert kinds == ["ImageFolderSink", "MaskSink", "LinesSink", "PageSink", "WindowSink"]
    assert chosen(folder, labels, out="deep/live.m3u8") == ["PlaylistSink deep/live.m3u8"]
    assert chosen(folder, labels, stream="udp://127.0.0.1:9") == ["StreamSink None"], "and no overlay.mp4"
    assert chosen(folder, labels, stream="rtsp://127.0.0.1/x", masks="m") == ["StreamSink None", "MaskSink m"]
    assert chosen(folder, labels, lines="-") == ["PrintedLinesSink None"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"out": "x.avi"}, r"'\.avi' is not written here; allowed: \.mp4"),
        ({"out": "x.png"}, "one image cannot hold all frames"),
        ({"masks": "m.png"}, "masks are a folder of PNG files"),
        ({"out": "same", "masks": "same"}, "same: named for two things"),
        ({"masks": "same", "lines": "./same"}, "same: named for two things"),
        ({"lines": "same", "report": "same"}, "same: named for two things"),
        ({"out": "o", "masks": "o/masks"}, "o/masks: lies in o, which is replaced as a whole; name a place outside"),
        ({"masks": "m", "report": "m/summary.json"}, "summary.json: lies in m, which is replaced as a whole"),
        ({"original_ids": True}, "original ids are for label maps; name a folder for them: --masks DIR"),
        ({"benchmark": True, "out": "x.mp4"}, "--benchmark writes nothing; leave --out"),
        ({"serve": "here"}, "--serve: got 'here'; allowed: PORT or HOST:PORT"),
        ({"out": "x.mp4", "crf": 99}, "crf 99; allowed"),
        ({"out": "x.m3u8", "crf": 99}, "crf 99; allowed"),
        ({"stream": "udp://127.0.0.1"}, "the port is missing"),
        ({"benchmark": True, "stream": "udp://127.0.0.1:9"}, "--benchmark writes nothing; leave --out"),
    ],
)
def test_refused(folder: Path, labels: LabelSpec, wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        chosen(folder, labels, **wanted)


def test_source_is_never_the_target(folder: Path, make_video: Callable[..., Path], labels: LabelSpec) -> None:
    video = make_video()
    link = video.with_name("link.mp4")
    link.symlink_to(video)
    for path, wanted in (
        (video, {"out": video}),
        (video, {"lines": video}),
        (video, {"report": video}),
        (video, {"report": video, "benchmark": True}),
        (link, {"out": video}),
        (folder, {"out": folder}),
        (folder, {"masks": folder.parent}),
        (folder / "a.png", {"masks": folder.parent}),
        (folder / "a.png", {"out": folder / "a.png"}),
        (folder / "*.png", {"out": folder}),
    ):
        with pytest.raises(UserError, match="would replace the source"):
            chosen(path, labels, **wanted)
    assert chosen(folder, labels, out=folder.parent / "beside") == [f"ImageFolderSink {folder.parent / 'beside'}"]


def test_fps(folder: Path, make_video: Callable[..., Path], labels: LabelSpec) -> None:
    with pytest.raises(UserError, match="a video keeps its own frame rate"):
        chosen(make_video(), labels, fps=10.0)
    for fps in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="allowed: more than 0"):
            chosen(folder, labels, fps=fps)
