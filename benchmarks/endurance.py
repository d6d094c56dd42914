"""Memory, threads and open files of stages/infer.py over a long live run.

    python benchmarks/endurance.py artifacts/engines/kd/int8 rtsp://127.0.0.1:8554/drive --minutes 20 --json FILE

Runs infer.py with everything that a live run can do (overlay video, JSON lines, web page with one viewer), looks at the
process every five seconds, ends it by SIGTERM and prints what it said. Memory is flat when the growth from the end of
the second minute on is nothing but noise.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UserError, command

ROOT = Path(__file__).parents[1]
INTERVAL_S = 5.0
SETTLED_S = 120.0  # buffers of codecs and allocators are full by then


def look(pid: int) -> dict[str, float]:
    """Resident memory in MiB, threads and open files of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    facts = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    files = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return {"mib": int(facts["VmRSS"].split()[0]) / 1024, "threads": int(facts["Threads"]), "files": files}


def watch(port: int) -> None:
    """A viewer of the page's pictures, until the page is gone."""
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/stream", timeout=30) as stream:
        while stream.read(1 << 16):
            pass


def run(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run infer.py for so many minutes; what was seen of it."""
    outputs = ["--out", "overlay.mp4", "--lines", "lines.jsonl", "--json", "summary.json", "--serve", str(args.port)]
    line = [sys.executable, str(ROOT / "stages/infer.py"), str(args.engine.resolve()), args.source, *outputs]
    seen: list[dict[str, float]] = []
    with subprocess.Popen(line, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        start = time.monotonic()
        time.sleep(INTERVAL_S)
        threading.Thread(target=watch, args=(args.port,), daemon=True).start()
        while time.monotonic() - start < 60 * args.minutes and process.poll() is None:
            seen.append({"s": round(time.monotonic() - start), **look(process.pid)})
            print(seen[-1], file=sys.stderr, flush=True)
            time.sleep(INTERVAL_S)
        if process.poll() is not None:
            raise UserError(f"infer.py ended by itself with status {process.returncode}; its message is above")
        process.send_signal(signal.SIGTERM)  # as service managers do; jobs in the background ignore Ctrl-C
        said, _ = process.communicate(timeout=120)
    settled = [entry for entry in seen if entry["s"] >= SETTLED_S] or seen
    minutes = np.array([entry["s"] for entry in settled]) / 60
    memory = np.array([entry["mib"] for entry in settled])
    slope = float(np.polyfit(minutes, memory, 1)[0]) if len(settled) > 2 else float("nan")
    print(said)
    return {
        "minutes": args.minutes,
        "status": process.returncode,
        "mib_settled": round(float(memory[:6].mean()), 1),
        "mib_end": round(float(memory[-6:].mean()), 1),
        "mib_per_minute": round(slope, 3),
        "threads": [settled[0]["threads"], settled[-1]["threads"]],
        "files": [settled[0]["files"], settled[-1]["files"]],
        "lines": sum(1 for _ in (folder / "lines.jsonl").open()),
        "video_mib": round((folder / "overlay.mp4").stat().st_size / 2**20, 1),
        "summary": json.loads((folder / "summary.json").read_text()),
        "seen": seen,
    }


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", type=Path)
    parser.add_argument("source", help="something live")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--port", type=int, default=8931)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = run(args, Path(name))
    print(json.dumps({key: value for key, value in found.items() if key not in ("seen", "summary")}, indent=2))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
