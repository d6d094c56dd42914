"""The window on a real (virtual) screen, with real keys; and the error without a screen."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from PIL import Image, ImageGrab

from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.video.sinks._base import MainThreadSink
from pipeline.video.sinks.lines import PrintedLinesSink
from pipeline.video.sinks.window import WindowSink

SCREEN = (800, 1280)
RED, BLUE = (220, 30, 20), (10, 40, 230)  # RGB
#: On a loaded machine OpenCV's Qt now and then misses, in its log too, that its window was mapped, and never paints it.
STARTS = 4
#: Shows frames of the size argv, red with a blue lower half, until the run is stopped; with "once" only two of them.
SHOW = f"""
import sys, time
import numpy as np
from pipeline.video.drawing.picture import Box, Picture
from pipeline.video.sinks._base import Result, Stop
from pipeline.video.sinks.window import WindowSink
size = int(sys.argv[1]), int(sys.argv[2])
image = np.full((*size, 3), {RED[::-1]}, np.uint8)
image[size[0] // 2 :] = {BLUE[::-1]}
pixels = np.ones(256, np.int64)
ids = np.zeros((1, 256), np.uint8)
sink = WindowSink(title="drive.mp4")
with sink:
    try:
        for index in range(10**6):
            if index < 2 or "once" not in sys.argv:
                box = Box(0, 0, *size)
                sink.write(Result(index, "x", None, 0.0, size, box, ids, pixels, 1.0, 0, Picture.of_bgr(image)))
            else:
                sink.poll()
            if index == 2:
                print("shown", flush=True)
            time.sleep(0.02)
    except Stop:
        print("stopped", flush=True)
print("left", flush=True)
"""


@pytest.fixture(scope="module")
def display(program: Callable[..., str]) -> Iterator[str]:
    """A virtual screen of 1280x800."""
    reading, writing = os.pipe()
    command = [
        program("Xvfb"),
        "-displayfd",
        str(writing),
        "-screen",
        "0",
        f"{SCREEN[1]}x{SCREEN[0]}x24",
        "-nolisten",
        "tcp",
    ]
    process = subprocess.Popen(command, pass_fds=[writing], stderr=subprocess.DEVNULL)
    os.close(writing)
    try:
        with os.fdopen(reading) as output:
            yield f":{int(output.readline())}"
    finally:
        process.terminate()
        process.wait(timeout=30)


class Visitor:
    """A user at the screen: presses keys, closes windows, takes screenshots."""

    def __init__(self, display: str) -> None:
        self.display = display
        self.x11, self.xtst = ctypes.CDLL("libX11.so.6"), ctypes.CDLL("libXtst.so.6")
        self.x11.XOpenDisplay.restype = ctypes.c_void_p
        self.x11.XDefaultRootWindow.restype = self.x11.XInternAtom.restype = ctypes.c_ulong
        self.connection = ctypes.c_void_p(self.x11.XOpenDisplay(display.encode()))
        assert self.connection

    def press(self, key: str) -> None:
        code = self.x11.XKeysymToKeycode(self.connection, ctypes.c_ulong(0xFF1B if key == "Escape" else ord(key)))
        self.xtst.XTestFakeMotionEvent(self.connection, -1, 100, 100, 0)
        for down in (1, 0):
            self.xtst.XTestFakeKeyEvent(self.connection, code, down, 0)
        self.x11.XFlush(self.connection)

    def close_window(self) -> None:
        """Close the window as a window manager does when its cross is clicked."""

        class Message(ctypes.Structure):
            _fields_ = [
                *((name, ctypes.c_int) for name in ("type", "_pad")), ("serial", ctypes.c_ulong),
                *((name, ctypes.c_int) for name in ("send_event", "_pad2")), ("display", ctypes.c_void_p),
                ("window", ctypes.c_ulong), ("message_type", ctypes.c_ulong), ("format", ctypes.c_int),
                ("data", ctypes.c_long * 5), ("_rest", ctypes.c_long * 12),
            ]  # fmt: skip

        window = ctypes.c_ulong(self.find("drive.mp4"))
        data = (ctypes.c_long * 5)(self.atom("WM_DELETE_WINDOW"))
        message = Message(type=33, window=window, message_type=self.atom("WM_PROTOCOLS"), format=32, data=data)
        self.x11.XSendEvent(self.connection, window, 0, ctypes.c_long(0), ctypes.byref(message))
        self.x11.XFlush(self.connection)

    def atom(self, name: str) -> int:
        return int(self.x11.XInternAtom(self.connection, name.encode(), 0))

    def find(self, title: str) -> int:
        root = ctypes.c_ulong(self.x11.XDefaultRootWindow(self.connection))
        parent, children, count = ctypes.c_ulong(), ctypes.POINTER(ctypes.c_ulong)(), ctypes.c_uint()
        self.x11.XQueryTree(
            self.connection,
            root,
            ctypes.byref(parent),
            ctypes.byref(parent),
            ctypes.byref(children),
            ctypes.byref(count),
        )
        for child in children[: count.value]:
            name = ctypes.c_char_p()
            self.x11.XFetchName(self.connection, ctypes.c_ulong(child), ctypes.byref(name))
            if title.encode() in (name.value or b""):
                return child
        raise AssertionError(f"no window called {title}")

    def look(self) -> Image.Image:
        return ImageGrab.grab(xdisplay=self.display)


@pytest.fixture
def visitor(display: str, lacks: Callable[[str], NoReturn]) -> Visitor:
    try:
        return Visitor(display)
    except OSError as error:
        lacks(f"{error}; apt-get install libx11-6 libxtst6")


@pytest.fixture
def show(display: str) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the program and waits until it shows frames."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> subprocess.Popen[str]:
        environment = {**os.environ, "DISPLAY": display}
        environment.pop("WAYLAND_DISPLAY", None)
        command = [sys.executable, "-c", SHOW, *map(str, arguments)]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "shown\n", process.communicate(timeout=20)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=30)


def test_large_frames_are_shrunk_to_the_screen(
    show: Callable[..., subprocess.Popen[str]], visitor: Visitor, tmp_path: Path
) -> None:
    for _ in range(STARTS):
        process = show(2160, 3840)
        until = time.monotonic() + 4
        red = blue = np.zeros(SCREEN, bool)
        while not (red.any() and blue.any()) and time.monotonic() < until:
            screen = visitor.look()
            seen = np.asarray(screen.convert("RGB"), int)
            red, blue = (np.abs(seen - colour).max(axis=2) <= 2 for colour in (RED, BLUE))
        if red.any():
            break
        process.kill()
    screen.save(tmp_path / "screen.png")
    rows, columns = (np.flatnonzero((red | blue).any(axis=axis)) for axis in (1, 0))
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    assert 0.8 * SCREEN[1] < width <= 0.85 * SCREEN[1]  # the width is the limit here
    assert height == pytest.approx(width * 9 / 16, abs=1)
    assert red.sum() == pytest.approx(blue.sum(), rel=0.01)
    assert (red | blue).sum() > 0.99 * height * width
    visitor.press("q")
    assert process.communicate(timeout=10)[0] == "stopped\nleft\n"


@pytest.mark.parametrize("how", ["q", "Escape", "cross"])
def test_the_run_ends_cleanly(show: Callable[..., subprocess.Popen[str]], visitor: Visitor, how: str) -> None:
    process = show(240, 320, "once")  # also while no frame comes
    if how == "cross":
        visitor.close_window()
    else:
        visitor.press("x")
        time.sleep(0.2)
        assert process.poll() is None, "other keys do nothing"
        visitor.press(how)
    out, reason = process.communicate(timeout=10)
    assert (out, process.returncode) == ("stopped\nleft\n", 0), reason


def test_without_a_screen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    sink = WindowSink(title="x")
    with pytest.raises(UserError, match=r"there is no screen here .* --serve"):
        sink.__enter__()
    # a screen that cannot be opened: Qt would end this process
    monkeypatch.setenv("DISPLAY", ":12345")
    with pytest.raises(UserError, match=r"cannot be opened \(.*could not connect to display :12345\); .* --serve"):
        sink.__enter__()
    reason = "OpenCV(4.13.0) window.cpp:1300: error: (-2:Unspecified error) The function is not implemented."
    (tmp_path / "cv2.py").write_text(f"def namedWindow(*arguments):\n    raise RuntimeError({reason!r})\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(UserError, match=r"built without windows \(opencv-python-headless\?\); .* --serve"):
        sink.__enter__()
    (tmp_path / "cv2.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(UserError, match=r"cannot be opened \(exit status 3\)"):
        sink.__enter__()


def test_only_the_window_wants_the_main_thread(labels: LabelSpec) -> None:
    assert isinstance(WindowSink(title="x"), MainThreadSink)
    assert not isinstance(PrintedLinesSink(labels=labels), MainThreadSink)
