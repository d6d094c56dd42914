"""GStreamer pipelines, in an OpenCV that has them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.video.system_python import SYSTEM_PYTHON

av = pytest.importorskip("av", reason="streams are read with PyAV")
ROOT = Path(__file__).parents[2]
READ = """
import json, sys
from pipeline.errors import UserError
from pipeline.video.sources import open_source
for text in sys.argv[1:]:
    facts = dict(frames=0)
    try:
        source = open_source(text, open_timeout=5, read_timeout=5)
        for frame in source.frames():
            planes = frame.picture.planes
            facts.update(planes=[list(p.shape) for p in planes], bgr=frame.picture.bgr().mean((0, 1)).round().tolist())
            facts["frames"] += 1
            if source.live and facts["frames"] == 10:
                break
        facts.update(live=source.live, name=source.name)
        source.close()
    except UserError as error:
        facts.update(error=str(error))
    print("facts", json.dumps(facts))
"""
#: Ends with an error where OpenCV has no GStreamer, or that lacks an element.
CHECK = """
import ctypes, re, sys
import cv2
if not re.search("GStreamer: +YES", cv2.getBuildInformation()):
    sys.exit("its OpenCV is built without GStreamer")
gstreamer = ctypes.CDLL("libgstreamer-1.0.so.0")
gstreamer.gst_init(None, None)
gstreamer.gst_element_factory_find.restype = ctypes.c_void_p
elements = ("videotestsrc", "videoconvert", "appsink", "filesrc", "matroskademux", "h264parse", "avdec_h264")
lacking = [name for name in elements if not gstreamer.gst_element_factory_find(name.encode())]
if lacking:
    sys.exit("GStreamer has no " + ", ".join(lacking))
"""
PACKAGES = "python3-opencv gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-libav"
RED = "videotestsrc is-live=true pattern=red ! video/x-raw,width=64,height=48,framerate=30/1 ! videoconvert"


def test_gstreamer(make_video: Callable[..., Path], needs: Callable[..., None]) -> None:
    """With Debian's OpenCV, which has it; no PyAV there."""
    needs(PACKAGES, "-c", CHECK)
    forms = ("BGR", "I420", "BGRx", "GRAY8")
    path = make_video("drive.mkv", count=30)
    pipelines = [
        *(f"{RED} ! video/x-raw,format={form} ! appsink drop=true max-buffers=1" for form in forms),
        f"filesrc location={path} ! matroskademux ! h264parse ! avdec_h264 ! videoconvert ! video/x-raw,format=BGR ! "
        "appsink sync=false",
        "nosuchelement user-pw=secret ! appsink",
    ]
    done = subprocess.run(
        [SYSTEM_PYTHON, "-c", READ, *pipelines],
        capture_output=True,
        check=True,
        timeout=60,
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
    )
    facts = [json.loads(line[6:]) for line in done.stdout.splitlines() if line.startswith(b"facts ")]
    bgr, i420, bgrx, grey, file, broken = facts
    for got in (bgr, i420, bgrx, grey):
        assert (got.get("live"), got["frames"]) == (True, 10), got
    for got in (bgr, i420, bgrx):
        assert got["bgr"] == pytest.approx([0, 0, 255], abs=3), got
    assert [got["planes"] for got in (bgr, bgrx, grey)] == [[[48, 64, 3]]] * 3
    assert i420["planes"] == [[48, 64], [24, 32], [24, 32]]
    assert grey["bgr"] == pytest.approx([76] * 3, abs=20), "red's luma; which range a converter takes differs"
    assert (file.get("live"), file["frames"]) == (False, 30), file
    assert "cannot be opened (OpenCV cannot open it); OpenCV's lines above say why" in broken["error"]
    assert "secret" not in broken["error"] + done.stderr.decode()
