"""Segment videos, images, cameras or streams with an engine: overlays, label maps and figures."""

from __future__ import annotations

import sys

from pipeline.errors import command
from pipeline.video.arguments import parse
from pipeline.video.command import infer, leave


def main(arguments: list[str]) -> int:
    sys.argv = ["segpress infer", *arguments]
    leave(_infer())


@command
def _infer() -> int:
    ending = infer(parse())
    print(ending.text, file=ending.stream)
    print(ending.printed, end="")
    return ending.status
