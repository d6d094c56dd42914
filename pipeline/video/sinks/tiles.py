"""Stub, replaced by the branch tiles."""

from __future__ import annotations

from typing import Any

from pipeline.video.sinks.page import PageSink


class SharedPage:
    def __init__(self, host: str, port: int, *, hosts: Any = (), embed: Any = ()) -> None: ...

    def __enter__(self) -> SharedPage:
        return self

    def __exit__(self, *rest: object) -> None: ...

    def sink(self, name: str, **about: Any) -> PageSink:
        return PageSink("127.0.0.1", 0, **about)
