"""The live page over real connections: its answers, and that viewers do not slow the run."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tomllib

from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.video.drawing.picture import Picture, Yuv
from pipeline.video.sinks import _web
from pipeline.video.sinks import page as pages
from pipeline.video.sinks._base import Result, Stop
from pipeline.video.sinks._figures import Figures, PageSettings
from pipeline.video.sinks.page import PageSink
from tests.video.viewers import connect, decoded, events, get, pictures, producing, until

MakeResult = Callable[..., Result]
Serve = Callable[..., PageSink]


# answers


def test_frames_arrive_small(serve: Serve, labels: LabelSpec, make_result: MakeResult) -> None:
    sink = serve(page=PageSettings(labels, "drive.mp4", rate=100))
    image = np.zeros((720, 1280, 3), np.uint8)
    image[:, 640:] = (40, 90, 200)
    planes = [np.full((720, 1280), 150, np.uint8), *(np.full((360, 640), value, np.uint8) for value in (90, 170))]
    shown = (Picture.of_bgr(image), Picture(tuple(planes), Yuv(6)))
    stream = pictures(sink)
    sink.write(make_result(0, picture=shown[0]))
    first = decoded(next(stream))
    assert first.shape == (540, 960, 3)
    assert np.abs(first[270, [240, 720]].astype(int) - [[0, 0, 0], [40, 90, 200]]).max() < 6
    sink.write(make_result(1, picture=shown[1]))
    second = decoded(next(stream))
    whole = cv2.cvtColor(
        np.concatenate([plane.ravel() for plane in planes]).reshape(1080, 1280), cv2.COLOR_YUV2BGR_I420
    )
    assert np.abs(second[270, 480].astype(int) - whole[360, 640]).max() < 6
    for size, small in (((1080, 400), (960, 356)), ((48, 64), (48, 64))):  # a high one; a small one
        sink.write(make_result(2, picture=Picture.of_bgr(np.zeros((*size, 3), np.uint8))))
        assert decoded(next(stream)).shape[:2] == small


def test_the_page_and_its_parts(serve: Serve) -> None:
    sink = serve()
    files = {"/": ("text/html", "page.html"), "/page.css": ("text/css", "page.css")}
    files["/page.js"] = ("text/javascript", "live.js", "page.js")
    for path, (kind, *names) in files.items():
        status, headers, body = get(sink, path)
        assert (status, headers.get_content_type(), int(headers["Content-Length"])) == (200, kind, len(body))
        assert body == b"".join((Path(pages.__file__).parent / name).read_bytes() for name in names)
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    html = get(sink, "/")[2].decode()
    assert not re.search(r"https?:|//|<style|style=|\son\w+=", html), "nothing from elsewhere, nothing inline"


def test_files_that_are_not_python_are_in_the_wheel() -> None:
    root = Path(__file__).parents[2]
    package = root / "pipeline"
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["pipeline"]
    files = {path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert {"page.html", "page.css", "page.js", "live.js"} <= {path.name for path in files}
    assert {path for pattern in patterns for path in package.glob(pattern)} == files


def test_events(serve: Serve, make_result: MakeResult) -> None:
    odd = LabelSpec(names=("<b>road</b>", "ä&amp;"), palette=((200, 0, 10), (0, 0, 255)))
    sink = serve(page=PageSettings(odd, "drive.mp4", engine="kd/int8", rate=7.5))
    updates = events(sink, visit="12-3")
    name, about = next(updates)
    assert name == "about"
    assert about == {
        "title": "drive.mp4",
        "engine": "kd/int8",
        "rate": 7.5,
        "classes": [{"name": "<b>road</b>", "colour": "#c8000a"}, {"name": "ä&amp;", "colour": "#0000ff"}],
        "rest": "ignored",
    }
    assert next(updates) == ("figures", {"state": "waiting", "frames": 0, "pictures": False})
    sink.write(make_result(5, arrived=time.perf_counter() - 0.2, dropped=2))
    name, figures = next(updates)
    assert (name, figures["state"], figures["frames"], figures["dropped"]) == ("figures", "running", 6, 2)
    assert 200 <= figures["age_ms"] < 1000
    assert json.loads(get(sink, "/state")[2]).items() >= {**about, "frames": 6}.items()
    with connect(sink, "/stream?12-3"):
        until(lambda: next(updates)[1]["pictures"])
    until(lambda: not next(updates)[1]["pictures"])


def test_figures_by_hand(labels: LabelSpec, make_result: MakeResult) -> None:
    now = 100.0
    figures = Figures(PageSettings(labels, "x"), clock=lambda: now)
    assert figures.now() == {"state": "waiting", "frames": 0}
    # ten frames per second, of which this sink gets every second one
    for step in range(20):
        now = 100 + 0.2 * step
        figures.note(make_result(2 * step, arrived=now - 0.01 * (1 + step % 3), infer_ms=float(step), dropped=step))
    last = figures.now()
    assert last == {
        "state": "running",
        "frames": 39,
        "quiet_s": 0.0,
        "fps": 10.0,
        "infer_ms": 14.0,  # median of 9 to 19, which came within 2 s
        "age_ms": 20.0,
        "dropped": 19,
        "size": [48, 64],
        "time_s": 1.52,
        "shares": [0.5, 0.25, 0.125, 0.0],
        "other": 0.125,
    }
    now += 5
    quiet = figures.now()
    assert (quiet["fps"], quiet["quiet_s"], quiet["infer_ms"], quiet["age_ms"]) == (0.0, 5.0, None, None)
    figures.state = "ended"
    assert figures.now() == {**last, "state": "ended"}, "at the end the last figures stay"


def test_only_some_classes(labels: LabelSpec, make_result: MakeResult) -> None:
    figures = Figures(PageSettings(labels, "x", only={2, 1}))
    figures.note(make_result())
    assert [entry["name"] for entry in figures.about()["classes"]] == ["car", "sky"]
    assert figures.about()["rest"] == "everything else"
    assert (figures.now()["shares"], figures.now()["other"]) == ([0.25, 0.125], 0.625)


# costs


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Times at which JPEGs were encoded."""
    times, imencode = list[float](), cv2.imencode

    def counted(*arguments: Any) -> Any:
        times.append(time.monotonic())
        return imencode(*arguments)

    monkeypatch.setattr(cv2, "imencode", counted)
    return times


def test_nothing_is_encoded_unless_somebody_watches(
    serve: Serve, labels: LabelSpec, make_result: MakeResult, encoded: list[float]
) -> None:
    sink = serve(page=PageSettings(labels, "drive.mp4", rate=50))
    updates = events(sink)
    next(updates)
    with producing(sink, make_result, fps=200):
        time.sleep(0.3)
        assert not encoded
        stream = pictures(sink)
        next(stream)
        stream.close()
        until(lambda: not sink._pictures.watchers)
        time.sleep(0.1)
        before = len(encoded)
        time.sleep(0.3)
    assert len(encoded) == before > 0


def test_one_picture_for_all_and_no_more_than_asked_for(
    serve: Serve, labels: LabelSpec, make_result: MakeResult, encoded: list[float]
) -> None:
    sink = serve(page=PageSettings(labels, "drive.mp4", rate=20))
    noise = [np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8) for seed in range(8)]
    seen: list[list[bytes]] = [[], [], []]

    def watch(mine: list[bytes]) -> None:
        stream = pictures(sink)
        mine += [next(stream) for _ in range(12)]
        stream.close()

    def make(index: int) -> Result:
        return make_result(index, picture=Picture.of_bgr(noise[index % 8]))

    threads = [threading.Thread(target=watch, args=(mine,), daemon=True) for mine in seen]
    with producing(sink, make, fps=200):
        until(lambda: sink._figures.state == "running")
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert [len(mine) for mine in seen] == [12, 12, 12]
    assert len(set.intersection(*(set(mine) for mine in seen))) >= 4, "they are the same bytes"
    assert len(encoded) <= 20
    assert min(np.diff(encoded)) > 0.8 / 20


def test_a_viewer_that_never_reads_slows_nobody(
    serve: Serve, labels: LabelSpec, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_web, "SEND_S", 1.5)
    sink = serve(page=PageSettings(labels, "drive.mp4", rate=50))
    noise = [np.random.default_rng(seed).integers(0, 256, (540, 960, 3), np.uint8) for seed in range(2)]

    def make(index: int) -> Result:  # 0.5 MB as JPEG
        return make_result(index, picture=Picture.of_bgr(noise[index % 2]))

    with producing(sink, make, fps=200) as taken, connect(sink, "/stream"):
        until(lambda: sink._pictures.watchers == 1)
        time.sleep(0.3)  # its connection is full now
        reader, begin = pictures(sink), time.monotonic()
        for _ in range(10):
            next(reader)
        lasted = time.monotonic() - begin
        assert sink._pictures.watchers == 2, "both are served at a time"
        until(lambda: sink._pictures.watchers == 1)  # the slow one was disconnected
        assert len(next(reader)) > 100_000
        reader.close()
    assert lasted < 1.4, "pictures did not wait for it"
    assert np.median(taken) < 1e-3
    assert np.percentile(taken, 95) < 0.02


def test_a_viewer_that_left_is_noticed_without_pictures(
    serve: Serve, labels: LabelSpec, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_GONE_S", 0.05)
    monkeypatch.setattr(pages, "VIEWERS", 2)
    sink = serve()
    for _ in range(5):
        with connect(sink, "/stream") as connection:
            assert connection.recv(12) == b"HTTP/1.1 200"
            until(lambda: sink._pictures.watchers == 1)
        until(lambda: sink._pictures.watchers == 0, seconds=2)
    with connect(sink, "/stream"), connect(sink, "/stream"):
        until(lambda: sink._pictures.watchers == 2)
        assert get(sink, "/stream")[0] == 503
        assert get(sink, "/state")[0] == 200


def test_the_number_of_connections_is_limited(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_web, "CONNECTIONS", 3)
    sink = serve()
    idle = [connect(sink, b"GET / HT") for _ in range(3)]
    time.sleep(0.1)
    with connect(sink, b"") as extra:
        assert extra.recv(10) == b""
    for connection in idle:
        connection.close()
    until(lambda: len(connect(sink, "/state").recv(10)) == 10)


# the end


@pytest.mark.parametrize(
    ("error", "state"),
    [(None, "ended"), (Stop(), "ended"), (KeyboardInterrupt(), "ended"), (UserError("x"), "failed")],
)
def test_the_page_shows_the_end(
    labels: LabelSpec, make_result: MakeResult, error: BaseException | None, state: str
) -> None:
    sink = PageSink(PageSettings(labels, "x"), host="127.0.0.1", port=0)
    sink.__enter__()
    try:
        updates = events(sink)
        next(updates)
        watcher = pictures(sink)
        sink.write(make_result(0))
        next(watcher)
        last = np.full((48, 64, 3), 200, np.uint8)
        sink.write(make_result(1, picture=Picture.of_bgr(last)))
        sink.__exit__(type(error) if error else None, error, None)
        until(lambda: next(updates)[1]["state"] == state)
        assert np.abs(decoded(next(watcher)).astype(int) - 200).max() < 4, "the last picture is shown"
        # later viewers see it, too
        assert json.loads(get(sink, "/state")[2])["state"] == state
        assert np.abs(decoded(next(pictures(sink))).astype(int) - 200).max() < 4
    finally:
        sink.close()
    with pytest.raises(OSError):
        get(sink, "/state")
