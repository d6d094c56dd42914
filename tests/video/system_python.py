"""The system's Python, which has packages that pip lacks: GStreamer, and an OpenCV built with it."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

SYSTEM_PYTHON = Path("/usr/bin/python3")
RTSP_SERVER = Path(__file__).with_name("rtsp_server.py")
RTSP_PACKAGES = (
    "python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good gstreamer1.0-plugins-bad "
    "gstreamer1.0-plugins-ugly gstreamer1.0-libav"
)


@cache
def missing(*arguments: object, python: Path = SYSTEM_PYTHON, path: str = "") -> str:
    """Run Python: an empty text if it succeeds, otherwise the last line that it printed, which has the reason.

    Args:
        path: PYTHONPATH.
    """
    if not python.exists():
        return f"no {python}"
    command = [str(python), *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={"PYTHONPATH": path} if path else {}, timeout=60
    )
    if done.returncode == 0:
        return ""
    return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
