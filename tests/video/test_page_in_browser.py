"""The live page in a real browser: pictures move, figures are right, all classes are there, and it reconnects."""

# ruff: noqa: PLC0415 - playwright is asked for by the tests that need it
from __future__ import annotations

import http.server
import io
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.frames import Array
from pipeline.labels import LabelSpec
from pipeline.video.drawing.picture import Picture
from pipeline.video.sinks import page as pages
from pipeline.video.sinks._base import Result
from pipeline.video.sinks._figures import PageSettings
from pipeline.video.sinks.page import PageSink
from tests.video.viewers import producing, until

LABELS = LabelSpec(
    names=("road", "sidewalk", "building", "<i>tree</i> & bush", "sky", "person", "car", "bicycle", *"abcdefghijk"),
    palette=(
        (128, 64, 128), (244, 35, 232), (70, 70, 70), (107, 142, 35), (70, 130, 180), (220, 20, 60), (0, 0, 142),
        (119, 11, 32), *((20 * index, 90, 200 - 10 * index) for index in range(11)),
    ),
)  # fmt: skip
SIZE = (360, 640)


def street(index: int) -> Array:
    """Train ids of a street (90, 160) with a car that moves to the right by 8 pixels per frame."""
    ids = np.full((90, 160), 4, np.uint8)
    ids[30:50, 20:] = 2
    ids[50:] = 0
    ids[60:, :40] = 1
    ids[88:] = 255
    left = 8 * index % 160
    ids[52:64, left : left + 24] = 6
    return ids


@pytest.fixture(scope="module")
def browser(program: Callable[..., str], lacks: Callable[[str], NoReturn]) -> Iterator[Any]:
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        lacks("needs playwright, of the dev extra")
    path = program("chromium", "chromium-browser", "google-chrome")
    with sync_playwright() as play:
        try:
            started = play.chromium.launch(executable_path=path, args=["--no-sandbox"])  # our own page, as root, too
        except Error as error:  # Ubuntu's chromium-browser only prints that it needs snap
            lacks(f"{path} does not start: {error}")
        yield started
        started.close()


@contextmanager
def running(
    make_result: Callable[..., Result], *, port: int = 0, embed: Sequence[str] = (), confident: bool = False
) -> Iterator[PageSink]:
    """A page and a thread that writes 30 results per second; leaving ends the run, the page stays until it is closed.

    Args:
        confident: results have a confidence of 51 (20 %) in cars and of 230 (90 %) elsewhere.
    """
    page = PageSettings(LABELS, "front <1>.mp4", engine="kd/int8")
    sink = PageSink(page, host="127.0.0.1", port=port, embed=embed)
    colours = LABELS.lookup_bgr()[:, 0]

    def make(index: int) -> Result:
        ids = street(index)
        image = np.asarray(cv2.resize(colours[ids], SIZE[::-1], interpolation=cv2.INTER_NEAREST), np.uint8)
        pixels = np.bincount(ids.ravel(), minlength=256)
        facts: dict[str, Any] = {"label_map": ids, "pixels": pixels, "picture": Picture.of_bgr(image), "size": SIZE}
        if confident:
            facts["confidence_sums"] = pixels * np.where(np.arange(256) == 6, 51, 230)
        return make_result(index, infer_ms=4.25, dropped=12, **facts)

    with sink, producing(sink, make, fps=30):
        yield sink


def look(page: Any, selector: str) -> Array:
    """A screenshot of an element (H, W, 3), RGB."""
    return np.asarray(Image.open(io.BytesIO(page.locator(selector).screenshot())).convert("RGB"))


def watch(browser: Any, sink: PageSink, width: int) -> tuple[Any, list[str]]:
    """The page after its first picture, and the errors of the browser."""
    page, complaints = browser.new_page(viewport={"width": width, "height": 800}), list[str]()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(sink.address)
    # in Python, because the security policy of the page forbids playwright's wait_for_function
    until(lambda: page.evaluate("document.getElementById('stream').naturalWidth") > 0)
    until(lambda: page.inner_text("#frames") not in ("", "\u2013"))
    return page, complaints


def test_confidence_is_shown_beside_the_shares(browser: Any, make_result: Callable[..., Result]) -> None:
    with running(make_result) as plain, running(make_result, confident=True) as sure:
        for sink, heading, ending in ((plain, "share of the pixels", "%"), (sure, "share · confidence", "% · 90 %")):
            page, complaints = watch(browser, sink, 1280)
            until(lambda page=page, heading=heading: page.inner_text("#columns") == heading)
            texts = {item.split("\n")[0]: item.split("\n")[1] for item in page.locator("#classes li").all_inner_texts()}
            assert texts["sky"].endswith(ending)
            assert texts["person"] == "\u2013", "a class without pixels has none"
            if sink is sure:
                assert texts["car"].endswith("% · 20 %")
                assert "·" not in texts["ignored"]
            assert not complaints
            page.close()
    plain.close()
    sure.close()


@pytest.mark.parametrize("width", [1280, 400])
def test_what_a_viewer_sees(browser: Any, make_result: Callable[..., Result], tmp_path: Path, width: int) -> None:
    with running(make_result) as sink:
        page, complaints = watch(browser, sink, width)
        natural = page.evaluate("[stream.naturalWidth, stream.naturalHeight]")
        assert natural == [SIZE[1], SIZE[0]]
        shown = page.locator("#stream").bounding_box()
        assert shown["width"] > 0.7 * width
        assert shown["width"] / shown["height"] == pytest.approx(16 / 9, rel=0.01)
        # pictures and figures move
        before, frames = look(page, "#stream"), int(page.inner_text("#frames"))
        until(lambda: int(page.inner_text("#frames")) > frames + 15)
        until(lambda: bool((np.abs(look(page, "#stream").astype(int) - before) > 60).any()))
        sky = look(page, "#stream")[20, 20].astype(int)
        assert np.abs(sky - LABELS.palette[4]).max() < 8, "colours are right"
        # words and numbers
        assert (page.inner_text("h1"), page.title()) == ("front <1>.mp4", "front <1>.mp4 - segpress")
        assert page.inner_text("#facts") == "kd/int8 \u00b7 640 \u00d7 360"
        assert page.inner_text("#state") == "running"
        assert 20 < float(page.inner_text("#fps")) < 31
        assert (page.inner_text("#infer"), page.inner_text("#dropped")) == ("4.25", "12")
        # every class in order, and the ignored pixels
        names = page.locator("#classes .name").all_inner_texts()
        assert names == [*LABELS.names, "ignored"]
        shares = dict(zip(names, page.locator("#classes .share").all_inner_texts(), strict=True))
        assert (shares["ignored"], shares["person"], shares["bicycle"]) == ("2.2 %", "\u2013", "\u2013")
        assert shares["building"] == f"{100 * (20 * 140) / (90 * 160):.1f} %"
        chips = page.locator("#classes i").evaluate_all("all => all.map((chip) => chip.style.backgroundColor)")
        assert chips[:2] == ["rgb(128, 64, 128)", "rgb(244, 35, 232)"]
        assert page.evaluate("document.documentElement.scrollWidth") == width, "nothing is cut off at the side"
        page.screenshot(path=tmp_path / f"page-{width}.png", full_page=width < 760)
        assert complaints == []
        page.close()
        until(lambda: sink._pictures.watchers == 0)
    sink.close()


def test_the_end_and_the_next_run(browser: Any, make_result: Callable[..., Result], tmp_path: Path) -> None:
    with running(make_result) as sink:
        page, _ = watch(browser, sink, 1280)
        # nothing is encoded for a hidden page
        hide = "(hidden) => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
        page.evaluate(hide + " document.dispatchEvent(new Event('visibilitychange')); }", True)
        until(lambda: sink._pictures.watchers == 0)
        page.evaluate(hide + " document.dispatchEvent(new Event('visibilitychange')); }", False)
        until(lambda: sink._pictures.watchers == 1)
    until(lambda: page.inner_text("#state") == "ended")
    sink.close()
    until(lambda: page.inner_text("#state") == "ended, program closed")
    assert page.evaluate("document.body.classList.contains('lost')")
    page.screenshot(path=tmp_path / "lost.png")
    port = int(sink.address.rstrip("/").rpartition(":")[2])
    with running(make_result, port=port) as again:
        until(lambda: page.inner_text("#state") == "running")
        until(lambda: again._pictures.watchers == 1)
        assert not page.evaluate("document.body.classList.contains('lost')")
    page.close()
    again.close()


@pytest.mark.slow
def test_pictures_come_back_when_they_were_stopped(
    browser: Any, make_result: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(make_result) as sink:
        page, _ = watch(browser, sink, 1280)
        monkeypatch.setattr(pages, "_BOUNDARY", "no bytes")  # writing fails, as for a slow viewer
        until(lambda: sink._pictures.watchers == 0)
        monkeypatch.undo()
        until(lambda: sink._pictures.watchers == 1, seconds=20)
        before = look(page, "#stream").astype(int)
        until(lambda: bool((np.abs(look(page, "#stream") - before) > 60).any()))
    page.close()
    sink.close()


@contextmanager
def dashboard() -> Iterator[tuple[str, dict[str, bytes]]]:
    """Another web server: its origin, and its one page, to be set as ``["page"]``."""
    served = {"page": b""}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(served["page"])

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        # another name of the same machine: another site, as a dashboard is
        yield f"http://localhost:{server.server_address[1]}", served
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("named", [True, False])
def test_a_dashboard_shows_it_if_it_is_named(browser: Any, make_result: Callable[..., Result], named: bool) -> None:
    with (
        dashboard() as (origin, served),
        running(make_result, embed=[origin if named else "https://other.lan"]) as sink,
    ):
        served["page"] = (
            f'<iframe src="{sink.address}" width=900 height=700></iframe><img id="picture" src="{sink.address}stream">'
        ).encode()
        page = browser.new_page()
        page.goto(origin, wait_until="commit")
        if named:
            page.wait_for_function("() => document.getElementById('picture').naturalWidth === 640", timeout=10_000)
            page.frame_locator("iframe").get_by_text("front <1>.mp4").wait_for(timeout=10_000)
        else:
            page.wait_for_timeout(1500)
            assert page.evaluate("() => document.getElementById('picture').naturalWidth") == 0
            assert page.frame_locator("iframe").get_by_text("front <1>.mp4").count() == 0
        page.close()
    sink.close()
