"""Sinks: files, streams, windows and pages for the results of a run."""

from __future__ import annotations

from pipeline.video.sinks._base import ConfidenceReader, HurriedSink, MainThreadSink, Result, Sink, Stop
from pipeline.video.sinks._destination import check_address
from pipeline.video.sinks._figures import PageSettings
from pipeline.video.sinks.events import EventSink
from pipeline.video.sinks.folders import ConfidenceSink, ImageFolderSink, ImageSink, MaskSink
from pipeline.video.sinks.h264 import H264Sink
from pipeline.video.sinks.lines import LinesSink, PrintedLinesSink
from pipeline.video.sinks.page import PageSink
from pipeline.video.sinks.playlist import PlaylistSink
from pipeline.video.sinks.stream import StreamSink
from pipeline.video.sinks.tiles import SharedPage
from pipeline.video.sinks.window import WindowSink

__all__ = [
    "ConfidenceReader",
    "ConfidenceSink",
    "EventSink",
    "H264Sink",
    "HurriedSink",
    "ImageFolderSink",
    "ImageSink",
    "LinesSink",
    "MainThreadSink",
    "MaskSink",
    "PageSettings",
    "PageSink",
    "PlaylistSink",
    "PrintedLinesSink",
    "Result",
    "SharedPage",
    "Sink",
    "Stop",
    "StreamSink",
    "WindowSink",
    "check_address",
]
