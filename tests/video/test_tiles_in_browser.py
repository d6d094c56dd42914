"""The overview of several sources in a real browser: pictures move, figures are right, and links work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.video.drawing.picture import Picture
from pipeline.video.sinks._base import Result
from pipeline.video.sinks._figures import PageSettings
from pipeline.video.sinks.tiles import SharedPage, TileSink
from tests.video.test_page_in_browser import LABELS, SIZE, browser, street
from tests.video.viewers import producing, until

__all__ = ["browser"]  # a fixture


@contextmanager
def running_several(make_result: Callable[..., Result], count: int) -> Iterator[tuple[SharedPage, list[TileSink]]]:
    """A page of ``count`` sources, each of which writes 15 results per second, with its own brightness of the sky."""
    colours = LABELS.lookup_bgr()[:, 0]

    def maker(number: int) -> Callable[[int], Result]:
        def make(index: int) -> Result:
            ids = street(index + 3 * number)
            image = cv2.resize(colours[ids], SIZE[::-1], interpolation=cv2.INTER_NEAREST)
            image[:60] = 20 * number
            pixels = np.bincount(ids.ravel(), minlength=256)
            pixels[5] = 400 * number
            facts: dict[str, Any] = {"label_map": ids, "pixels": pixels, "picture": Picture.of_bgr(image), "size": SIZE}
            return make_result(index, infer_ms=4.25, dropped=1000 * number, **facts)

        return make

    page = SharedPage("127.0.0.1", 0)
    sinks = [
        page.sink(f"<b>{number}</b>", PageSettings(LABELS, f"rtsp://10.0.0.{number}:554/stream", engine="kd/int8"))
        for number in range(1, count + 1)
    ]
    with page, ExitStack() as stack:
        for number, sink in enumerate(sinks, start=1):
            stack.enter_context(sink)
            stack.enter_context(producing(sink, maker(number), fps=15))
        yield page, sinks


def sky(page: Any, index: int) -> float:
    """Brightness of the sky in the picture of a tile; -1 if there is none."""
    read = """(canvas) => canvas.closest('.seen') ? canvas.getContext('2d').getImageData(9, 9, 1, 1).data[0] : -1"""
    return float(page.locator(".tile canvas").nth(index).evaluate(read))


@pytest.mark.parametrize(("width", "count"), [(1280, 2), (400, 2), (1280, 8)])
def test_the_overview_of_several_sources(
    browser: Any, make_result: Callable[..., Result], tmp_path: Path, width: int, count: int
) -> None:
    with running_several(make_result, count) as (shared, sinks):
        page, complaints = browser.new_page(viewport={"width": width, "height": 1400}), list[str]()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(shared.address)
        for index in range(count):
            until(lambda index=index: abs(sky(page, index) - 20 * (index + 1)) < 4)
        until(lambda: page.locator(".tile .dropped").first.inner_text() == "1,000")
        # words and figures, as text
        assert page.locator(".tile h2").all_inner_texts() == [f"<b>{number}</b>" for number in range(1, count + 1)]
        assert page.locator(".tile .source").nth(1).inner_text() == "rtsp://10.0.0.2:554/stream"
        assert page.locator(".tile .state").all_inner_texts() == ["running"] * count
        until(lambda: 10 < float(page.locator(".tile .fps").nth(1).inner_text()) < 16)
        assert page.locator(".tile .dropped").nth(1).inner_text() == "2,000"
        assert page.locator(".tile").nth(1).locator(".name").all_inner_texts() == ["sky", "road", "building"]
        largest = [page.locator(".tile").nth(index).locator(".share").first.inner_text() for index in range(2)]
        assert largest == [f"{100 * 5200 / (14400 + 400 * number):.1f} %" for number in (1, 2)], "each has its own"
        assert page.locator("#legend .name").all_inner_texts() == list(LABELS.names)
        assert (page.inner_text("h1"), page.inner_text("#state")) == (f"{count} sources", "running")
        assert page.evaluate("document.documentElement.scrollWidth") == width, "nothing is cut off at the side"
        # pictures of all tiles move
        before = [sink._small._number for sink in sinks]
        until(lambda: all(sink._small._number > old + 3 for sink, old in zip(sinks, before, strict=True)))
        page.screenshot(path=tmp_path / f"tiles-{width}-{count}.png", full_page=True)
        assert complaints == []
        # a tile leads to the page of its source, and back
        page.locator(".tile").nth(1).click(position={"x": 60, "y": 60})
        until(lambda: page.url == f"{shared.address}2/")
        until(lambda: page.evaluate("document.getElementById('stream').naturalWidth") > 0)
        until(lambda: page.inner_text("h1") == "rtsp://10.0.0.2:554/stream")
        page.screenshot(path=tmp_path / f"one-{width}-{count}.png", full_page=True)
        page.click("#overview")
        until(lambda: page.url == shared.address)
        until(lambda: abs(sky(page, 0) - 20) < 4)
        assert complaints == []
        page.close()


def test_tiles_at_the_end(browser: Any, make_result: Callable[..., Result], tmp_path: Path) -> None:
    with running_several(make_result, 1) as (_, _):
        pass  # no viewer, so nothing waits
    with SharedPage("127.0.0.1", 0, names=["front", "back"]) as shared:
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(shared.address)
        shown = page.locator(".tile .state")
        until(lambda: shown.all_inner_texts() == ["waiting", "waiting"])
        shared.fail("back")
        page.locator(".tile").nth(1).click()  # it has no page yet
        until(lambda: shown.all_inner_texts() == ["waiting", "failed"])
        assert page.url == shared.address
        with shared.sink("front", PageSettings(LABELS, "front.mp4")) as front:
            for index, value in enumerate((50, 90, 200)):
                picture = Picture.of_bgr(np.full((*SIZE[::-1], 3), value, np.uint8))  # a high picture
                front.write(make_result(index, picture=picture, size=SIZE[::-1]))
        until(lambda: shown.all_inner_texts() == ["ended", "failed"])
        until(lambda: abs(sky(page, 0) - 200) < 4)
        for box in (page.locator(kind).first.bounding_box() for kind in (".view", ".tile canvas")):
            assert box["width"] / box["height"] == pytest.approx(16 / 9, rel=0.01)
        assert page.locator(".view p").nth(1).inner_text() == "No frames"
        asked = list[str]()
        page.on("request", lambda request: asked.append(request.url))
        # a source that has ended is not asked again; a hidden page asks for nothing
        page.wait_for_timeout(400)
        assert [url for url in asked if "picture" in url] == []
        page.screenshot(path=tmp_path / "tiles-end.png", full_page=True)
        hide = "(hidden) => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
        page.evaluate(hide + " document.dispatchEvent(new Event('visibilitychange')); }", True)
        until(lambda: shared._figures.taken == 0)
        page.evaluate(hide + " document.dispatchEvent(new Event('visibilitychange')); }", False)
        until(lambda: shared._figures.taken == 1)
    until(lambda: page.inner_text("#state") == "1 ended, 1 failed, program closed")
    page.close()
