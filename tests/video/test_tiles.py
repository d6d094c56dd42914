"""The live page of several sources over real connections: tiles, pages, safety, and costs."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.video.sinks import page as pages
from pipeline.video.sinks import tiles
from pipeline.video.sinks._base import Result
from pipeline.video.sinks._figures import PageSettings
from pipeline.video.sinks._web import Places
from pipeline.video.sinks.tiles import SharedPage, TileSink
from tests.video.fakes import grey
from tests.video.viewers import connect, decoded, events, get, pictures, producing, snapshot, until

MakeResult = Callable[..., Result]
Share = Callable[..., tuple[SharedPage, list[TileSink]]]


# answers


def test_the_overview_and_its_parts(share: Share) -> None:
    page, _ = share("front", "back")
    files = {"/": ["tiles.html"], "/tiles.css": ["tiles.css"], "/page.css": ["page.css"], "/1/": ["page.html"]}
    files |= {"/tiles.js": ["live.js", "tiles.js"], "/2/page.js": ["live.js", "page.js"], "/2/page.css": ["page.css"]}
    for path, names in files.items():
        status, headers, body = get(page, path)
        assert (status, int(headers["Content-Length"])) == (200, len(body))
        assert body == b"".join((Path(pages.__file__).parent / name).read_bytes() for name in names)
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Accel-Buffering"] == "no"
    html = get(page, "/")[2].decode()
    for forbidden in ("http:", "https:", "//", "<style", "style=", "onload", "onclick"):
        assert forbidden not in html
    # innerHTML would let a name be markup
    assert b"innerHTML" not in get(page, "/tiles.js")[2]


@pytest.mark.parametrize(
    "path", ["/0/", "/3/", "/01/", "/-1/", "/x/", "/front/", "/1/nothing", "/1//", "/picture", "/stream", "/1/tiles.js"]
)
def test_unknown_paths(share: Share, path: str) -> None:
    page, _ = share("front", "back")
    assert get(page, path)[0] == 404


def test_a_number_without_slash_leads_to_the_page(share: Share) -> None:
    page, _ = share("front")
    status, headers, body = get(page, "/1")
    assert (status, headers["Location"], body) == (302, "1/", b"")


def test_each_tile_has_its_own_figures(share: Share, make_result: MakeResult) -> None:
    page, (front, back) = share("front", "<b>back</b>")
    assert (front.address, back.address) == (f"{page.address}1/", f"{page.address}2/")
    stream = events(page)
    kind, about = next(stream)
    assert kind == "about"
    assert [one["name"] for one in about["sources"]] == ["front", "<b>back</b>"]
    assert [one["title"] for one in about["sources"]] == ["front.mp4", "<b>back</b>.mp4"]
    assert about["sources"][0]["classes"][1].keys() == {"name", "colour"}
    waiting = {"state": "waiting", "frames": 0, "largest": []}
    assert next(stream) == ("figures", {"sources": [waiting, waiting]})
    front.write(make_result(0, dropped=3))
    pixels = np.zeros(256, np.int64)
    pixels[[1, 2]] = 25, 75
    for index in range(6):
        back.write(make_result(index, pixels=pixels, size=(30, 40)))
    first, second = next(stream)[1]["sources"]
    assert (first["state"], first["frames"], first["dropped"], first["size"]) == ("running", 1, 3, [48, 64])
    assert (second["state"], second["frames"], second["dropped"], second["size"]) == ("running", 6, 0, [30, 40])
    assert first["largest"] == [[0, 0.5], [1, 0.25], [2, 0.125]]
    assert second["largest"] == [[2, 0.75], [1, 0.25]], "the largest first, none that does not occur"
    state = json.loads(get(page, "/state")[2])["sources"]
    assert [(one["name"], one["frames"], len(one["shares"])) for one in state] == [
        ("front", 1, 4),
        ("<b>back</b>", 6, 4),
    ]
    one = json.loads(get(page, "/2/state")[2])
    assert (one["title"], one["frames"], one["overview"]) == ("<b>back</b>.mp4", 6, True)


def test_each_page_streams_its_own_pictures(share: Share, make_result: MakeResult) -> None:
    page, sinks = share("front", "back")
    for sink, value in zip(sinks, (60, 180), strict=True):
        sink.write(make_result(0, picture=grey(value)))
    for number, value in ((1, 60), (2, 180)):
        assert abs(decoded(next(pictures(page, at=f"/{number}/"))).mean() - value) < 3
        assert abs(snapshot(page, number)[1] - value) < 3
        stream = events(page, at=f"/{number}/")
        assert next(stream)[1]["title"] == f"{sinks[number - 1].name}.mp4"
        assert next(stream)[1]["frames"] == 1


def test_snapshots_are_small_and_newer(share: Share, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch) -> None:
    page, (sink,) = share("front")
    monkeypatch.setattr(tiles, "_WAIT_S", 0.2)
    start = time.monotonic()
    assert snapshot(page, 1) == (0, None), "no picture yet"
    assert 0.15 < time.monotonic() - start < 1
    sink.write(make_result(0, picture=grey(50, (720, 1280))))
    status, headers, body = get(page, "/1/picture")
    assert (status, headers["X-Picture-Number"], decoded(body).shape) == (200, "1", (360, 640, 3))
    assert snapshot(page, 1, after=1) == (0, None), "no newer picture"
    assert snapshot(page, 1, after=99)[0] == 1, "a number of an earlier run counts as none"
    monkeypatch.setattr(tiles, "_WAIT_S", 5)
    write = threading.Timer(0.2, lambda: sink.write(make_result(1, picture=grey(200))))
    write.start()
    number, mean = snapshot(page, 1, after=1)
    assert number == 2
    assert abs(mean - 200) < 3
    for query in ("after=-1", "after=x", "before=1", "after=1&x", "after=" + "9" * 20, "after=\u0661".encode().hex()):
        assert get(page, f"/1/picture?{query}")[0] == 400


def test_after_a_pause_snapshots_are_new(share: Share, make_result: MakeResult) -> None:
    page, (sink,) = share("front")
    for value in (20, 220):
        sink.write(make_result(0, picture=grey(value)))
        assert abs(snapshot(page, 1)[1] - value) < 3, "not the one of the last viewer"


# safety


def test_hosts_heads_and_methods(share: Share) -> None:
    page, _ = share("front", hosts=["robot.lan"], embed=["https://dashboard.lan"])
    for path in ("/", "/state", "/events", "/1/", "/1/state", "/1/events", "/1/stream", "/1/picture"):
        assert get(page, path, method="HEAD", Host="evil.example")[0] == 403
        status, headers, body = get(page, path, method="HEAD", Host="robot.lan", Origin="https://dashboard.lan")
        assert (status, body) == (200, b"")
        assert headers["Access-Control-Allow-Origin"] == "https://dashboard.lan"
        assert headers["Content-Security-Policy"].endswith("frame-ancestors https://dashboard.lan")
        assert get(page, path, method="POST")[0] == 405
    for wrong in ({"hosts": ["a b"]}, {"embed": ["x"]}):
        with pytest.raises(UserError):
            SharedPage("127.0.0.1", 0, **wrong)


def test_limits_on_viewers(labels: LabelSpec, share: Share, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "VIEWERS", 1)
    monkeypatch.setattr(tiles, "SNAPSHOTS", 1)
    page, _ = share("front", "back")
    stream = events(page)
    next(stream)
    assert get(page, "/events")[0] == 503
    with connect(page, "/1/picture"):
        until(lambda: page._snapshots.taken == 1)
        assert get(page, "/2/picture")[0] == 503
        assert get(page, "/state")[0] == 200
    until(lambda: page._snapshots.taken == 0)
    stream.close()
    until(lambda: page._figures.taken == 0)


def test_places_are_given_back() -> None:
    places = Places(1)

    class Asked:
        def __init__(self) -> None:
            self.errors = list[int]()

        def send_error(self, code: int) -> None:
            self.errors.append(code)

    asked: Any = Asked()
    for _ in range(2):
        with pytest.raises(OSError, match="gone"), places.one(asked) as free, places.one(asked) as second:
            assert (free, second) == (True, False)
            raise OSError("gone")
    assert (places.taken, asked.errors) == (0, [503, 503])


def test_addresses(labels: LabelSpec, share: Share, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    page, _ = share("front", "back")
    assert caplog.text.count("live page: ") == 1
    assert "everybody" not in caplog.text
    share("front", host="0.0.0.0")
    assert caplog.text.count("everybody on the network") == 1
    port = int(page.address.rstrip("/").rpartition(":")[2])
    with pytest.raises(UserError, match=rf"127\.0\.0\.1:{port} cannot be served"):
        SharedPage("127.0.0.1", port).__enter__()
    other = SharedPage("127.0.0.1", 0)
    other.sink("same", PageSettings(labels, "x"))
    with pytest.raises(ValueError, match="name of two"):
        other.sink("same", PageSettings(labels, "y"))


# costs


def test_pictures_are_encoded_only_on_request(
    share: Share, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, (front, back) = share("front", "back")
    encoded, imencode = list[float](), cv2.imencode

    def counted(*arguments: Any) -> Any:
        encoded.append(time.monotonic())
        return imencode(*arguments)

    monkeypatch.setattr(cv2, "imencode", counted)
    stream = events(page)
    next(stream)
    threads = threading.active_count()
    with producing(front, make_result, fps=100) as taken, producing(back, make_result, fps=100):
        next(stream)
        time.sleep(0.2)
        assert not encoded, "figures need none"
        number = 0
        for _ in range(5):
            number, mean = snapshot(page, 1, after=number)
            assert mean is not None
        assert len(encoded) == number == 5, "one for each request, none for the other source"
        time.sleep(0.3)
        assert len(encoded) == 5
        until(lambda: threading.active_count() <= threads + 2)  # the producers
        time.sleep(0.1)
    assert min(np.diff(encoded)) > 0.08, "at most ten per second"
    assert np.median(taken) < 1e-3
