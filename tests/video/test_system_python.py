"""Tests that need GStreamer are skipped if a part of it is missing, and the reason names it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.video.system_python import RTSP_SERVER, missing

#: python3-gi as far as the server asks for it; what is there, the test says.
GI = """
import sys, types
NAMESPACES, ELEMENTS = {namespaces}, {elements}
def require_version(name, version):
    if name not in NAMESPACES:
        raise ValueError(f"Namespace {{name}} not available")
repository = sys.modules["gi.repository"] = types.ModuleType("gi.repository")
repository.GLib = repository.GstRtspServer = None
find = lambda name: name if name in ELEMENTS else None
repository.Gst = types.SimpleNamespace(init=lambda none: None, ElementFactory=types.SimpleNamespace(find=find))
"""
SENDS, TAKES = ["appsrc", "videoconvert", "x264enc", "rtph264pay"], ["rtph264depay", "h264parse", "appsink"]


@pytest.mark.parametrize(
    ("namespaces", "elements", "options", "reason"),
    [
        (["Gst", "GstRtspServer"], SENDS, [], ""),
        ([], [], [], "ValueError: Namespace Gst not available"),
        (["Gst"], SENDS, [], "ValueError: Namespace GstRtspServer not available"),
        (["Gst", "GstRtspServer"], SENDS[:2], [], "GStreamer has no x264enc, rtph264pay"),
        (["Gst", "GstRtspServer"], SENDS + TAKES, ["--record"], "GStreamer has no avdec_h264"),
    ],
)
def test_what_the_server_lacks(
    tmp_path: Path, namespaces: list[str], elements: list[str], options: list[str], reason: str
) -> None:
    """Ubuntu's desktop has python3-gi, and no introspection data of GStreamer."""
    (tmp_path / "gi").mkdir()
    (tmp_path / "gi/__init__.py").write_text(GI.format(namespaces=namespaces, elements=elements))
    given = (RTSP_SERVER, "--check", *options)
    assert missing(*given, python=Path(sys.executable), path=str(tmp_path)) == reason


def test_without_bindings_or_without_python(tmp_path: Path) -> None:
    given = ("-S", RTSP_SERVER, "--check")
    assert missing(*given, python=Path(sys.executable)) == "ModuleNotFoundError: No module named 'gi'"
    assert missing(*given, python=tmp_path / "python3") == f"no {tmp_path / 'python3'}"
    assert missing("-c", "import os; os._exit(3)", python=Path(sys.executable)) == "exit status 3"


def test_tests_skip_or_fail_if_nothing_may_be_skipped(
    needs: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = r"/usr/bin/python3: .*; apt-get install python3-nothing"
    monkeypatch.delenv("SEGPRESS_REQUIRE_TOOLS", raising=False)
    with pytest.raises(pytest.skip.Exception, match=reason):
        needs("python3-nothing", "-c", "import nothing_of_this_name")
    monkeypatch.setenv("SEGPRESS_REQUIRE_TOOLS", "1")
    with pytest.raises(pytest.fail.Exception, match=reason):
        needs("python3-nothing", "-c", "import nothing_of_this_name")
