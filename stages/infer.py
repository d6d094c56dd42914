"""Segment videos, images, cameras or streams with an engine: overlays, label maps and figures.

Runs on the device: needs an engine folder and no training library, DVC or params.yaml.
"""

from __future__ import annotations

import importlib.util
import signal
import sys
from pathlib import Path

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until main() begins, Ctrl-C ends this without a traceback

if importlib.util.find_spec("pipeline") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.errors import command
from pipeline.video.arguments import parse
from pipeline.video.command import infer, leave


@command
def main() -> int:
    ending = infer(parse())
    print(ending.text, file=ending.stream)
    print(ending.printed, end="")
    return ending.status


if __name__ == "__main__":
    leave(main())
