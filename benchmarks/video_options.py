"""Cost of options of stages/infer.py: whole runs in turn, in frames per second, against a run without the option.

    python benchmarks/video_options.py artifacts/engines/kd/int8 drive-720p.mp4 --confident ENGINE --json FILE
    python benchmarks/video_options.py artifacts/engines/kd/int8 drive.mp4 --before CHECKOUT --only before --rounds 12

Each round runs every case once, every second round in the opposite order, so that a busy machine hits all alike; ratios
are medians of the rounds' ratios. ``--confident`` is the engine of the same student exported with
``export.confidence: true``. ``two at the same time`` reads the video twice in one process (``--serve``), and
``two in turn`` twice one after the other; both count the frames of both.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pipeline.errors import UserError, command
from pipeline.runtimes.onnxruntime import cpu_model, instructions

ROOT = Path(__file__).parents[1]
ZONES = {"zones": [{"name": "lane", "unit": "shares", "points": [[0.4, 0.6], [0.6, 0.6], [1, 1], [0, 1]]}]}


def rate(root: Path, engine: Path, videos: list[Path], options: list[str], folder: Path) -> float:
    """Frames per second of one run; start and end of the process are left out, those of the run are not."""
    line = [sys.executable, str(root / "stages/infer.py"), str(engine.resolve()), *map(str, videos), *options]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [*line, "--json", "summary.json"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"{' '.join(line)}: status {done.returncode}: {done.stderr[-500:]}")
    summary = json.loads((folder / "summary.json").read_text())
    if "fps" in summary:
        return float(summary["fps"])
    sources = summary["sources"]
    return float(sum(each["frames"] for each in sources) / sum(each["seconds"] for each in sources))


def cases(args: argparse.Namespace, folder: Path) -> dict[str, tuple[Path, Path, list[Path], list[str]]]:
    """Root, engine, videos and options of each case; the others are compared with the first."""
    one = folder / f"one{args.video.suffix}"
    two = folder / f"two{args.video.suffix}"
    for copy in (one, two):
        shutil.copyfile(args.video, copy)
    (folder / "zones.json").write_text(json.dumps(ZONES))
    overlay, zones = ["--out", "overlay.mp4"], ["--zones", "zones.json"]
    overlays = ["--out", "{name}-overlay.mp4"]
    variants = {"default": (ROOT, args.engine, [one], overlay)}
    if args.before:
        variants["before"] = (args.before, args.engine, [one], overlay)
    variants["zones"] = (ROOT, args.engine, [one], [*overlay, *zones])
    if args.confident:
        variants["engine with confidence"] = (ROOT, args.confident, [one], overlay)
        variants["uncertainty and lines"] = (
            *(ROOT, args.confident, [one]),
            [*overlay, "--uncertainty", "--lines", "lines.jsonl"],
        )
    variants["two in turn"] = (ROOT, args.engine, [one, two], overlays)
    variants["two at the same time"] = (ROOT, args.engine, [one, two], [*overlays, "--serve", "0"])
    return variants


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", type=Path)
    parser.add_argument("video", type=Path)
    parser.add_argument("--confident", type=Path, help="engine with confidence")
    parser.add_argument("--before", type=Path, help="checkout of an older version")
    parser.add_argument("--only", metavar="CASE", help="run only this case and default, in pairs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        known = cases(args, Path(name))
        if args.only not in (None, *known):
            raise UserError(
                f"--only: got '{args.only}'; allowed: {', '.join(known)}; --before and --confident add cases"
            )
        chosen = [item for item in known.items() if args.only in (None, item[0]) or item[0] == "default"]
        for number in range(args.rounds):
            for case, (root, engine, videos, options) in chosen[:: -1 if number % 2 else 1]:
                rates.setdefault(case, []).append(rate(root, engine, videos, options, Path(name)))
    figures: dict[str, Any] = {"cpu": cpu_model(), "instructions": instructions(), "video": args.video.name}
    figures["cases"] = {
        case: {
            "fps": round(statistics.median(values), 1),
            "of_default": round(statistics.median(a / b for a, b in zip(values, rates["default"], strict=True)), 3),
            "rounds": [round(value, 1) for value in values],
        }
        for case, values in rates.items()
    }
    for case, values in figures["cases"].items():
        print(f"{case:<24}{values['fps']:>8.1f} fps  {values['of_default']:.3f} of default")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
