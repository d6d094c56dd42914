"""Addresses that the FFmpeg of this PyAV cannot send to: one error before anything is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.video.sinks import PlaylistSink, StreamSink, check_address
from tests.video.receivers import av

SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "udp", "srt")


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``lacking("srt", ...)``: this FFmpeg does not know these protocols, and knows all others."""

    def lack(*protocols: str) -> None:
        def opened(url: str, **options: Any) -> Any:
            assert options["options"] == {"protocol_whitelist": "none"}, "nothing is opened"
            if url.partition("://")[0] in protocols:
                raise av.error.ProtocolNotFoundError(0, "", url)
            raise av.error.InvalidDataError(0, "", url)

        monkeypatch.setattr(av, "open", opened)

    return lack


@pytest.mark.parametrize(
    ("protocol", "scheme", "able"),
    [
        ("srt", "srt", "rtsp://, rtsps://, rtmp://, rtmps://, udp://"),
        ("tls", "rtsps", "rtsp://, rtmp://, rtmps://, udp://, srt://"),
        ("rtmps", "rtmps", "rtsp://, rtsps://, rtmp://, udp://, srt://"),
    ],
)
def test_a_protocol_is_missing(lacking: Any, protocol: str, scheme: str, able: str) -> None:
    lacking(protocol)
    with pytest.raises(UserError) as caught:
        StreamSink(f"{scheme}://me:s3cret@host:1/x", live=True)
    assert str(caught.value) == (
        f"--out {scheme}://host:1/x: the FFmpeg of this PyAV cannot send to {scheme}://; allowed here: {able}; "
        f"use one of them, or a PyAV that was built with {scheme}"
    )
    for other in SCHEMES:
        if other != scheme:
            check_address(f"{other}://host:1/x")


def test_this_pyav_sends_to_what_it_lists() -> None:
    """Without a fake FFmpeg: an address is accepted, or the error lists the accepted ones."""
    refused: dict[str, str] = {}
    for scheme in SCHEMES:
        try:
            check_address(f"{scheme}://host:1/x")
        except UserError as error:
            refused[scheme] = str(error)
    accepted = [scheme for scheme in SCHEMES if scheme not in refused]
    assert {"rtsp", "rtmp", "udp"} <= set(accepted)
    for text in refused.values():
        assert f"allowed here: {', '.join(f'{scheme}://' for scheme in accepted)}; use one of them" in text


def test_a_run_does_not_begin(lacking: Any, infer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The source does not exist, so the error about it would come next."""
    lacking("srt")
    assert infer(tmp_path / "absent.mp4", "--out", "srt://host:1") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --out srt://host:1: the FFmpeg of this PyAV cannot send to srt://; allowed here: ")


def test_a_muxer_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known = av.format.ContainerFormat

    def without(name: str, mode: str | None = None) -> Any:
        if name in ("rtsp", "hls"):
            raise ValueError(name)
        return known(name, mode)

    monkeypatch.setattr(av.format, "ContainerFormat", without)
    with pytest.raises(UserError, match=r"cannot send to rtsp://; allowed here: rtmp://, rtmps://, udp://"):
        StreamSink("rtsp://host/x", live=True)
    with pytest.raises(UserError, match=r"o\.m3u8: the FFmpeg of this PyAV has no muxer 'hls'; use the wheel"):
        PlaylistSink(tmp_path / "o.m3u8", live=True)
