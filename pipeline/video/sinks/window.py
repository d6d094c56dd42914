"""A live window, where there is a screen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType

import cv2

from pipeline.errors import UserError
from pipeline.video.sinks._base import Result, Stop

_NAME = "segpress"
_FLAGS = cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL
_ESCAPE = 27
_SMALL = (720, 1280)  # (height, width) that fits nearly every screen
_FILLS = 0.85  # largest share of the screen; title bar and panels need the rest
_PROBE_S = 30
#: Opens a window and prints "<height> <width>" of the screen, if Tk is installed.
_PROBE = f"""
import cv2
cv2.namedWindow({_NAME!r}, {_FLAGS})
try:
    import tkinter
    root = tkinter.Tk()
    root.withdraw()
    print(root.winfo_screenheight(), root.winfo_screenwidth())
except Exception:
    pass
"""
_INSTEAD = "leave --window out, or watch from a browser with --serve"


class WindowSink:
    """Shows overlays in a window; a :class:`pipeline.video.sinks._base.MainThreadSink`.

    Frames larger than the screen are shrunk. :class:`Stop` is raised when the window is closed or q or Esc is pressed.

    Args:
        title: of the window.

    Raises:
        UserError: on entering, if there is no screen or OpenCV was built without windows.
    """

    wants_picture = True
    waits = False  # it uses the main thread
    patient = False
    written: Path | None = None

    def __init__(self, *, title: str) -> None:
        self._title = title
        self._room = _SMALL
        self._size: tuple[int, int] | None = None  # last size of the window
        self._seen = False  # by the user; if the window is missing later, it was closed

    def __enter__(self) -> WindowSink:
        self._room = _screen()
        cv2.namedWindow(_NAME, _FLAGS)
        cv2.setWindowTitle(_NAME, f"{self._title}   (q ends)")
        return self

    def write(self, result: Result) -> None:
        assert result.picture is not None, "an overlay sink needs a loop that draws"
        self.poll()
        picture = result.picture.within(self._room)
        cv2.imshow(_NAME, picture)
        size = picture.shape[0], picture.shape[1]
        if size != self._size:
            cv2.resizeWindow(_NAME, size[1], size[0])
            self._size = size
        self.poll()

    def poll(self) -> None:
        key = cv2.pollKey() & 0xFF
        try:
            visible = cv2.getWindowProperty(_NAME, cv2.WND_PROP_VISIBLE) >= 1
        except cv2.error:  # Qt, after its last window was closed
            visible = False
        if key in (ord("q"), ord("Q"), _ESCAPE) or (self._seen and not visible):
            raise Stop("the window was closed")
        self._seen = self._seen or visible

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        cv2.destroyAllWindows()
        cv2.pollKey()  # closes the window now, not when the program ends


def _screen() -> tuple[int, int]:
    """(height, width) that a picture may have. A separate process tries to open a window first, because Qt ends its
    process if that fails."""
    if sys.platform not in ("win32", "darwin") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise UserError(f"--window: there is no screen here (neither DISPLAY nor WAYLAND_DISPLAY is set); {_INSTEAD}")
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and text
            [sys.executable, "-c", _PROBE],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"--window: the screen did not answer within {_PROBE_S} s; {_INSTEAD}") from None
    if done.returncode != 0:
        if "not implemented" in done.stderr:
            raise UserError(f"--window: this OpenCV was built without windows (opencv-python-headless?); {_INSTEAD}")
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if "display" in line] or lines[-1:] or [f"exit status {done.returncode}"]
        raise UserError(f"--window: a window cannot be opened ({errors[0]}); {_INSTEAD}")
    try:
        height, width = (int(int(number) * _FILLS) for number in done.stdout.split())
    except ValueError:
        return _SMALL
    return height, width
