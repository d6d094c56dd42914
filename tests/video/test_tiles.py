"""The live page of several sources over real connections: tiles, pages, ends, and what it costs."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.video import command
from pipeline.video.inputs import Input
from pipeline.video.picture import Picture
from pipeline.video.sinks import page as pages
from pipeline.video.sinks import tiles
from pipeline.video.sinks._base import Result, Stop
from pipeline.video.sinks._web import Places
from pipeline.video.sinks.tiles import SharedPage, TileSink
from tests.video import test_together
from tests.video.test_together import URLS
from tests.video.viewers import connect, decoded, events, get, pictures, producing, until

infer, cameras, ctrl_c_after = test_together.infer, test_together.cameras, test_together.ctrl_c_after  # fixtures
MakeResult = Callable[..., Result]
Share = Callable[..., tuple[SharedPage, list[TileSink]]]


@pytest.fixture
def share(labels: LabelSpec) -> Iterator[Share]:
    """Starts a page for sources of these names, and their sinks; all are left at the end if the test did not."""
    started: list[tuple[SharedPage, list[TileSink]]] = []

    def start(*names: str, host: str = "127.0.0.1", **options: Any) -> tuple[SharedPage, list[TileSink]]:
        page = SharedPage(host, 0, **options)
        sinks = [page.sink(name, labels=labels, title=f"{name}.mp4", engine="kd/int8") for name in names]
        page.__enter__()
        started.append((page, sinks))
        for sink in sinks:
            sink.__enter__()
        return page, sinks

    yield start
    for page, sinks in started:
        for sink in sinks:
            if not sink._over.is_set():
                sink.__exit__(None, None, None)
        page.close()


def grey(value: int, size: tuple[int, int] = (48, 64)) -> Picture:
    return Picture.of_bgr(np.full((*size, 3), value, np.uint8))


def snapshot(page: SharedPage, number: int, after: int = 0) -> tuple[int, Any]:
    """Number of the picture and its mean; (0, None) when there is none."""
    status, headers, body = get(page, f"/{number}/picture?after={after}")
    if status == 204:
        assert body == b""
        return 0, None
    assert (status, headers["Content-Type"]) == (200, "image/jpeg")
    return int(headers["X-Picture-Number"]), decoded(body).mean()


# what is served


def test_the_overview_and_its_parts(share: Share) -> None:
    page, _ = share("front", "back")
    files = {"/": "tiles.html", "/tiles.css": "tiles.css", "/tiles.js": "tiles.js", "/page.css": "page.css"}
    files |= {"/1/": "page.html", "/2/page.js": "page.js", "/2/page.css": "page.css"}
    for path, name in files.items():
        status, headers, body = get(page, path)
        assert (status, int(headers["Content-Length"])) == (200, len(body))
        assert body == (Path(pages.__file__).parent / name).read_bytes()
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
    told = events(page)
    kind, about = next(told)
    assert kind == "about"
    assert [one["name"] for one in about["sources"]] == ["front", "<b>back</b>"]
    assert [one["title"] for one in about["sources"]] == ["front.mp4", "<b>back</b>.mp4"]
    assert about["sources"][0]["classes"][1].keys() == {"name", "colour"}
    waiting = {"state": "waiting", "frames": 0, "largest": []}
    assert next(told) == ("figures", {"sources": [waiting, waiting]})
    front.write(make_result(0, dropped=3))
    pixels = np.zeros(256, np.int64)
    pixels[[1, 2]] = 25, 75
    for index in range(6):
        back.write(make_result(index, pixels=pixels, size=(30, 40)))
    first, second = next(told)[1]["sources"]
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
        told = events(page, at=f"/{number}/")
        assert next(told)[1]["title"] == f"{sinks[number - 1].name}.mp4"
        assert next(told)[1]["frames"] == 1


def test_snapshots_are_small_and_newer(share: Share, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch) -> None:
    page, (sink,) = share("front")
    monkeypatch.setattr(tiles, "_WAIT_S", 0.2)
    start = time.monotonic()
    assert snapshot(page, 1) == (0, None), "there is none yet"
    assert 0.15 < time.monotonic() - start < 1
    sink.write(make_result(0, picture=grey(50, (720, 1280))))
    status, headers, body = get(page, "/1/picture")
    assert (status, headers["X-Picture-Number"], decoded(body).shape) == (200, "1", (360, 640, 3))
    assert snapshot(page, 1, after=1) == (0, None), "none that is newer"
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
        assert abs(snapshot(page, 1)[1] - value) < 3, "not the one that was made for the last viewer"


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
    told = events(page)
    next(told)
    assert get(page, "/events")[0] == 503
    with connect(page, "/1/picture"):
        until(lambda: page._snapshots.taken == 1)
        assert get(page, "/2/picture")[0] == 503
        assert get(page, "/state")[0] == 200
    until(lambda: page._snapshots.taken == 0)
    told.close()
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
    other.sink("same", labels=labels, title="x")
    with pytest.raises(ValueError, match="name of two"):
        other.sink("same", labels=labels, title="y")


# what it costs


def test_pictures_are_made_only_while_somebody_asks(
    share: Share, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, (front, back) = share("front", "back")
    made, imencode = list[float](), cv2.imencode

    def counted(*arguments: Any) -> Any:
        made.append(time.monotonic())
        return imencode(*arguments)

    monkeypatch.setattr(cv2, "imencode", counted)
    told = events(page)
    next(told)
    threads = threading.active_count()
    with producing(front, make_result, fps=100) as taken, producing(back, make_result, fps=100):
        next(told)
        time.sleep(0.2)
        assert not made, "figures need none"
        number = 0
        for _ in range(5):
            number, mean = snapshot(page, 1, after=number)
            assert mean is not None
        assert len(made) == number == 5, "one for each request, none for the other source"
        time.sleep(0.3)
        assert len(made) == 5
        until(lambda: threading.active_count() <= threads + 2)  # those that produce
        time.sleep(0.1)
    assert min(np.diff(made)) > 0.08, "no more than ten a second"
    assert np.median(taken) < 1e-3


# the end


@pytest.mark.parametrize(
    ("error", "state"),
    [(None, "ended"), (Stop(), "ended"), (KeyboardInterrupt(), "ended"), (UserError("x"), "failed")],
)
def test_one_source_ends_and_the_other_runs(
    share: Share, make_result: MakeResult, error: BaseException | None, state: str
) -> None:
    page, (front, back) = share("front", "back")
    told = events(page)
    next(told)
    with producing(back, make_result, fps=50):
        front.write(make_result(0, picture=grey(90)))
        number, _ = snapshot(page, 1)
        front.write(make_result(1, picture=grey(210)))
        front.__exit__(type(error) if error else None, error, None)
        until(lambda: next(told)[1]["sources"][0]["state"] == state)
        start = time.monotonic()
        last, mean = snapshot(page, 1, after=number)
        assert abs(mean - 210) < 3, "the last picture is shown"
        assert snapshot(page, 1, after=last) == (0, None)
        assert time.monotonic() - start < 0.8, "nobody waits for one that cannot come"
        assert json.loads(get(page, "/1/state")[2])["state"] == state
        # the other one is as before
        before = next(told)[1]["sources"][1]
        after = next(told)[1]["sources"][1]
        assert (before["state"], after["state"]) == ("running", "running")
        assert after["frames"] > before["frames"]
        first, _ = snapshot(page, 2)
        assert snapshot(page, 2, after=first)[0] > first


def test_a_source_that_never_began(labels: LabelSpec, make_result: MakeResult) -> None:
    page = SharedPage("127.0.0.1", 0)
    never, other = (page.sink(name, labels=labels, title=name) for name in ("never", "other"))
    with page:
        assert json.loads(get(page, "/state")[2])["sources"][0]["state"] == "waiting"
        never.fail()
        assert snapshot(page, 1) == (0, None)
        with other:
            other.write(make_result(0))
        other.fail()  # too late
        assert [one["state"] for one in json.loads(get(page, "/state")[2])["sources"]] == ["failed", "ended"]
    with pytest.raises(OSError):
        get(page, "/state")


def test_sources_that_open_one_after_another(labels: LabelSpec, make_result: MakeResult) -> None:
    with SharedPage("127.0.0.1", 0, names=["front", "back", "bad"]) as page:
        told = events(page)
        assert [one["name"] for one in next(told)[1]["sources"]] == ["front", "back", "bad"]
        assert [one["state"] for one in next(told)[1]["sources"]] == ["waiting"] * 3
        status, headers, _ = get(page, "/2/")
        assert (status, headers["Location"]) == (302, "../"), "there is no page of it yet"
        page.fail("bad")
        with pytest.raises(KeyError):
            page.fail("other")
        # the second one is there first, and one that nobody spoke of comes last
        sinks = {name: page.sink(name, labels=labels, title=f"{name}.mp4") for name in ("back", "more", "front")}
        assert [sinks[name].address for name in ("front", "back", "more")] == [f"{page.address}{n}/" for n in (1, 2, 4)]
        with pytest.raises(ValueError, match="name of two"):
            page.sink("back", labels=labels, title="x")
        abouts = (about for kind, about in told if kind == "about")
        titles = ["front.mp4", "back.mp4", "bad", "more.mp4"]
        assert [one["title"] for one in next(abouts)["sources"]] == titles
        with sinks["back"] as back:
            back.write(make_result(0, picture=grey(120)))
            assert abs(snapshot(page, 2)[1] - 120) < 3
            assert get(page, "/2/")[0] == 200
            next(told)  # figures from before
            figures = next(told)[1]["sources"]
            assert [one["state"] for one in figures] == ["waiting", "running", "failed", "waiting"]
            state = json.loads(get(page, "/state")[2])["sources"]
            assert [(one["title"], one["frames"]) for one in state] == list(zip(titles, (0, 1, 0, 0), strict=True))


def test_a_run_of_several_cameras(infer: Any, cameras: Any, ctrl_c_after: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order in which they are named, also the one that cannot be opened."""
    opened = cameras(front={}, rear={})
    served, states = list[SharedPage](), list[Any]()

    class Noted(SharedPage):
        def __enter__(self) -> SharedPage:
            served.append(super().__enter__())
            return self

    def open_or_fail(given: Input, **options: Any) -> Any:
        name = given.text.rpartition("/")[2]
        if name == "side":
            raise UserError("rtsp://cameras/side: cannot be opened")
        return opened[name]

    def look() -> None:
        until(lambda: len(served) == 1)
        until(lambda: [one["state"] for one in state()] == ["failed", "running", "running"])
        states.extend(state())

    def state() -> Any:
        return json.loads(get(served[0], "/state")[2])["sources"]

    monkeypatch.setattr(command, "SharedPage", Noted)
    monkeypatch.setattr(Input, "open", open_or_fail)
    viewer = threading.Thread(target=look)
    viewer.start()
    ctrl_c_after(1.5)
    infer("rtsp://cameras/side", *URLS, "--serve", "0")
    viewer.join()
    assert [one["name"] for one in states] == [f"rtsp-cameras-{name}" for name in ("side", "front", "rear")]
    assert [one["title"] for one in states[1:]] == ["front", "rear"]
    with pytest.raises(OSError):
        get(served[0], "/state")


def test_leaving_ends_all_answers(labels: LabelSpec, make_result: MakeResult) -> None:
    page = SharedPage("127.0.0.1", 0)
    sinks = [page.sink(name, labels=labels, title=name) for name in ("front", "back")]
    with page:
        told, one = events(page), events(page, at="/1/")
        next(told), next(one)
        for sink in sinks:
            with sink:
                sink.write(make_result(0))
    rest = []
    with pytest.raises(AssertionError):  # the connection ends
        while True:
            rest.append(next(told)[1]["sources"])
    assert [source["state"] for source in rest[-1]] == ["ended", "ended"], "viewers get the last figures"
    page.close()  # once more
