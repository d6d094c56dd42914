from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.video.outputs import Outputs
from pipeline.video.places import check_several, of_source
from pipeline.video.rules import Rule
from pipeline.video.sources import open_source

pytest.importorskip("av")

RULE = Rule("car", ("car",), (1,), None, 0.5, above=True, until=0.5)


def chosen(path: Path, labels: LabelSpec, **wanted: Any) -> list[str]:
    """Names of the sinks and of their files."""
    places = {
        key: Path(value) if key in ("out", "masks", "lines", "report") and value else value
        for key, value in wanted.items()
    }
    sinks = Outputs(**places).sinks(open_source(str(path)), labels=labels, engine="kd/int8")
    return [f"{type(sink).__name__} {sink.written}" for sink in sinks]


def test_defaults(folder: Path, make_video: Callable[..., Path], labels: LabelSpec) -> None:
    assert chosen(make_video(), labels) == ["H264Sink drive-overlay.mp4"]
    assert chosen(folder, labels) == ["H264Sink frames-overlay.mp4"]
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
    assert chosen(folder, labels, rules=[RULE]) == ["EventSink events"], (
        "nothing else is written unless it is asked for"
    )
    assert chosen(folder, labels, rules=[RULE], event_dir=folder, out="x") == [
        "ImageFolderSink x",
        f"EventSink {folder}",
    ]
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
        ({"out": "o", "masks": "o/masks"}, "o/masks: is inside o, which is replaced as a whole; name a place outside"),
        ({"masks": "m", "report": "m/summary.json"}, "summary.json: is inside m, which is replaced as a whole"),
        ({"original_ids": True}, "original ids are for label maps; name a folder for them: --masks DIR"),
        ({"benchmark": True, "out": "x.mp4"}, "--benchmark writes nothing; leave --out"),
        ({"benchmark": True, "rules": [RULE]}, "--benchmark writes nothing; leave .* --events out"),
        ({"event_dir": Path("e")}, "e: a folder for events, but no rules; name their file: --events FILE"),
        ({"masks": "m", "rules": [RULE], "event_dir": Path("m/e")}, "events.jsonl: is inside m, which is replaced"),
        ({"lines": "events/events.jsonl", "rules": [RULE]}, "events/events.jsonl: named for two things"),
        ({"serve": "here"}, "--serve: got 'here'; allowed: PORT or HOST:PORT"),
        ({"out": "x.mp4", "crf": 99}, "crf 99; allowed"),
        ({"out": "-"}, "--out -: pictures are not written to standard output; name a file or a folder"),
        ({"masks": "-"}, "--masks -: pictures are not written to standard output"),
        ({"lines": "-", "report": "-"}, "one of them can be standard output; name a file for the other"),
        ({"out": "o/%04d.png"}, "images are named after their frames; name an .mp4 file or a folder"),
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
    assert chosen(make_video(), labels, fps=10.0) == ["H264Sink drive-overlay.mp4"]
    for fps in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="allowed: above 0"):
            chosen(folder, labels, fps=fps)


def test_long_names_fit(folder: Path, labels: LabelSpec) -> None:
    long = folder / f"{'ä' * 124}.png"  # 252 bytes
    long.write_bytes((folder / "a.png").read_bytes())
    (written,) = chosen(long, labels)
    name = written.removeprefix("ImageSink ")
    assert name.startswith("ääää")
    assert name.endswith("-overlay.png")
    assert len(name.encode()) <= 255


def test_places_of_several_sources() -> None:
    def places(**wanted: Any) -> list[str]:
        outputs = Outputs(**{key: Path(value) for key, value in wanted.items()})
        check_several(outputs, 2)
        own = of_source(outputs, "a.b", several=True)
        return [str(place) for place in (own.out, own.masks, own.lines) if place]

    assert places(out="o", masks="m") == ["o/a.b", "m/a.b"]
    assert places(out="o/{name}.mp4", masks="{name}-masks", lines="{name}.jsonl") == [
        *("o/a.b.mp4", "a.b-masks", "a.b.jsonl"),
    ]
    for wanted, message in (
        ({"out": "o/x.mp4"}, r"--out o/x\.mp4: all 2 sources .*: --out 'o/\{name\}-x\.mp4'"),
        ({"lines": "l.jsonl"}, r"--lines l\.jsonl: all 2 sources"),
    ):
        with pytest.raises(UserError, match=message):
            places(**wanted)
    assert places(lines="-") == ["-"]
    for options in ({"window": True}, {"benchmark": True}):
        with pytest.raises(UserError, match="are for one source; got 3"):
            check_several(Outputs(**options), 3)
        check_several(Outputs(**options), 1)
    for address, together, message in (
        ("rtsp://me:secret@server/all", True, r"--out rtsp://server/all: 2 sources .* such as rtsp://server:8554/"),
        (
            "rtsp://server/{name}",
            False,
            "--out with an address is for one source, or for live sources; got 2",
        ),
    ):
        with pytest.raises(UserError, match=message):
            check_several(Outputs(stream=address), 2, together=together)
    check_several(Outputs(stream="rtsp://server/{name}"), 2, together=True)
    assert of_source(Outputs(stream="rtsp://server/{name}"), "front", several=True).stream == "rtsp://server/front"


def test_a_folder_may_have_the_name_of_a_source_with_dots(folder: Path, labels: LabelSpec) -> None:
    own = of_source(Outputs(out=Path("o"), masks=Path("m")), "clip.mp4", several=True)
    sinks = own.sinks(open_source(str(folder)), labels=labels, engine="e")
    assert [f"{type(sink).__name__} {sink.written}" for sink in sinks] == [
        "ImageFolderSink o/clip.mp4",
        "MaskSink m/clip.mp4",
    ]


def test_files_of_other_runs_are_not_replaced(folder: Path, labels: LabelSpec) -> None:
    own = of_source(Outputs(out=folder.parent / "b.mp4"), "a", several=True, read=[folder.parent / "b.mp4"])
    with pytest.raises(UserError, match="would replace the source"):
        own.sinks(open_source(str(folder)), labels=labels, engine="e")
