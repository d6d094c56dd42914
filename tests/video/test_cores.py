"""Codecs get a share of the cores, and more of them if no other codec runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.labels import LabelSpec
from pipeline.video.drawing.overlay import Overlay
from pipeline.video.loop import segment
from pipeline.video.sinks import H264Sink, Sink
from pipeline.video.sources import open_source, video_file
from pipeline.video.workers import cores
from tests.video.fakes import BrightnessEngine, Kept


@pytest.mark.parametrize(
    ("count", "share", "alone"), [(1, 1, 1), (2, 1, 2), (3, 1, 3), (4, 2, 4), (6, 3, 4), (64, 4, 4)]
)
def test_shares(count: int, share: int, alone: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "usable_cores", lambda: count)
    assert cores.codec_threads() == share
    assert cores.codec_threads(alone=True) == alone


@pytest.mark.parametrize("encodes", [False, True])
def test_a_decoder_has_more_cores_without_an_encoder(
    encodes: bool, engine: BrightnessEngine, labels: LabelSpec, make_video: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(cores, "usable_cores", lambda: 2)
    seen: list[int] = []
    set_threads = video_file.set_threads

    def noted(stream: Any, **options: Any) -> None:
        set_threads(stream, **options)
        seen.append(stream.codec_context.thread_count)

    monkeypatch.setattr(video_file, "set_threads", noted)
    sink: Sink = H264Sink(tmp_path / "o.mp4") if encodes else Kept()
    source = open_source(str(make_video()))
    segment(source, [engine], labels=labels, sinks=[sink], overlay=Overlay(labels) if encodes else None)
    assert seen == [1 if encodes else 2]
