"""The live page of several sources: one ends, fails or opens late, and the others do not change."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.video import command
from pipeline.video.inputs import Input
from pipeline.video.sinks._base import Result, Stop
from pipeline.video.sinks._figures import PageSettings
from pipeline.video.sinks.tiles import SharedPage, TileSink
from tests.video import test_together
from tests.video.fakes import grey
from tests.video.test_together import URLS
from tests.video.viewers import events, get, producing, snapshot, until

cameras, ctrl_c_after = test_together.cameras, test_together.ctrl_c_after  # fixtures
MakeResult = Callable[..., Result]
Share = Callable[..., tuple[SharedPage, list[TileSink]]]


@pytest.mark.parametrize(
    ("error", "state"),
    [(None, "ended"), (Stop(), "ended"), (KeyboardInterrupt(), "ended"), (UserError("x"), "failed")],
)
def test_one_source_ends_and_the_other_runs(
    share: Share, make_result: MakeResult, error: BaseException | None, state: str
) -> None:
    page, (front, back) = share("front", "back")
    stream = events(page)
    next(stream)
    with producing(back, make_result, fps=50):
        front.write(make_result(0, picture=grey(90)))
        number, _ = snapshot(page, 1)
        front.write(make_result(1, picture=grey(210)))
        front.__exit__(type(error) if error else None, error, None)
        until(lambda: next(stream)[1]["sources"][0]["state"] == state)
        start = time.monotonic()
        last, mean = snapshot(page, 1, after=number)
        assert abs(mean - 210) < 3, "the last picture is shown"
        assert snapshot(page, 1, after=last) == (0, None)
        assert time.monotonic() - start < 0.8, "a request does not wait for a picture that cannot come"
        assert json.loads(get(page, "/1/state")[2])["state"] == state
        # the other one does not change
        before = next(stream)[1]["sources"][1]
        after = next(stream)[1]["sources"][1]
        assert (before["state"], after["state"]) == ("running", "running")
        assert after["frames"] > before["frames"]
        first, _ = snapshot(page, 2)
        assert snapshot(page, 2, after=first)[0] > first


def test_a_source_that_never_began(labels: LabelSpec, make_result: MakeResult) -> None:
    page = SharedPage("127.0.0.1", 0)
    never, other = (page.sink(name, PageSettings(labels, name)) for name in ("never", "other"))
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
        stream = events(page)
        assert [one["name"] for one in next(stream)[1]["sources"]] == ["front", "back", "bad"]
        assert [one["state"] for one in next(stream)[1]["sources"]] == ["waiting"] * 3
        status, headers, _ = get(page, "/2/")
        assert (status, headers["Location"]) == (302, "../"), "it has no page yet"
        page.fail("bad")
        with pytest.raises(KeyError):
            page.fail("other")
        # the second source opens first, and one without an entry comes last
        sinks = {name: page.sink(name, PageSettings(labels, f"{name}.mp4")) for name in ("back", "more", "front")}
        assert [sinks[name].address for name in ("front", "back", "more")] == [f"{page.address}{n}/" for n in (1, 2, 4)]
        with pytest.raises(ValueError, match="name of two"):
            page.sink("back", PageSettings(labels, "x"))
        abouts = (about for kind, about in stream if kind == "about")
        titles = ["front.mp4", "back.mp4", "bad", "more.mp4"]
        assert [one["title"] for one in next(abouts)["sources"]] == titles
        with sinks["back"] as back:
            back.write(make_result(0, picture=grey(120)))
            assert abs(snapshot(page, 2)[1] - 120) < 3
            assert get(page, "/2/")[0] == 200
            next(stream)  # earlier figures
            figures = next(stream)[1]["sources"]
            assert [one["state"] for one in figures] == ["waiting", "running", "failed", "waiting"]
            state = json.loads(get(page, "/state")[2])["sources"]
            assert [(one["title"], one["frames"]) for one in state] == list(zip(titles, (0, 1, 0, 0), strict=True))


def test_a_run_of_several_cameras(infer: Any, cameras: Any, ctrl_c_after: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order in which they are named, including the one that cannot be opened."""
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
    viewer = threading.Thread(target=look, daemon=True)
    viewer.start()
    ctrl_c_after(1.5)
    infer("rtsp://cameras/side", *URLS, "--serve", "0")
    viewer.join(60)
    assert [one["name"] for one in states] == [f"rtsp-cameras-{name}" for name in ("side", "front", "rear")]
    assert [one["title"] for one in states[1:]] == ["front", "rear"]
    with pytest.raises(OSError):
        get(served[0], "/state")


def test_leaving_ends_all_answers(labels: LabelSpec, make_result: MakeResult) -> None:
    page = SharedPage("127.0.0.1", 0)
    sinks = [page.sink(name, PageSettings(labels, name)) for name in ("front", "back")]
    with page:
        stream, one = events(page), events(page, at="/1/")
        next(stream), next(one)
        for sink in sinks:
            with sink:
                sink.write(make_result(0))
    rest = []
    with pytest.raises(AssertionError):  # the connection ends
        while True:
            rest.append(next(stream)[1]["sources"])
    assert [source["state"] for source in rest[-1]] == ["ended", "ended"], "viewers get the last figures"
    page.close()  # once more
