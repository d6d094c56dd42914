"""Where results go."""

from __future__ import annotations

from pipeline.video.sinks._base import Result, Sink, Stop
from pipeline.video.sinks.folders import ImageFolderSink, ImageSink, MaskSink
from pipeline.video.sinks.h264 import H264Sink

__all__ = ["H264Sink", "ImageFolderSink", "ImageSink", "MaskSink", "Result", "Sink", "Stop"]
