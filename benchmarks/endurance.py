"""Memory, threads and open files of stages/infer.py over a long live run.

    python benchmarks/endurance.py artifacts/engines/kd/int8 rtsp://127.0.0.1:8554/drive --minutes 20 --json FILE
    python benchmarks/endurance.py artifacts/engines/kd/int8 --send one.mp4 two.mp4 --minutes 20 --json FILE

Runs infer.py with all outputs of a live run: overlay video, JSON lines, zones, events with clips, and the web
page with a viewer of each picture. With --send the sources are files that this script sends in real time, again and
again, one stream for each. The script samples the process every five seconds, ends it by SIGTERM and prints its
summary. Memory is flat if it does not grow, apart from noise, after the second minute.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import av
import numpy as np

from pipeline.errors import UserError, command

ROOT = Path(__file__).parents[1]
INTERVAL_S = 5.0
SEND_PORT = 8940  # of the first stream of --send
ZONES = {
    "zones": [
        {"name": "lane", "unit": "shares", "points": [[0.4, 0.6], [0.6, 0.6], [1, 1], [0, 1]]},
        {"name": "bonnet", "unit": "shares", "ignore": True, "points": [[0, 0.95], [1, 0.95], [1, 1], [0, 1]]},
    ]
}
RULES = {
    "events": [
        # the first two begin and end several times per minute; the last one stays on
        {"name": "car", "class": "car", "above": 0.09, "until": 0.08, "seconds": 0.2, "pause": 1},
        {"name": "building", "class": "building", "above": 0.04, "until": 0.03, "seconds": 0.2, "pause": 1},
        {"name": "lane", "class": "car", "zone": "lane", "above": 0.02, "seconds": 1, "pause": 20},
    ]
}
SETTLED_S = 120.0  # buffers of codecs and allocators are full by then


def look(pid: int) -> dict[str, float]:
    """Resident memory in MiB, threads and open files of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    facts = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    files = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return {"mib": int(facts["VmRSS"].split()[0]) / 1024, "threads": int(facts["Threads"]), "files": files}


def send(file: str, port: int) -> None:
    """Send the pictures of a file again and again, in real time, to the first client (MPEG-TS over TCP)."""
    with suppress(OSError), av.open(f"tcp://127.0.0.1:{port}?listen=1", "w", format="mpegts") as out:
        start, sent_s, stream = time.monotonic(), 0.0, None
        while True:
            with av.open(file) as container:
                video = container.streams.video[0]
                stream = stream or out.add_stream_from_template(video)
                base = video.time_base
                assert base is not None
                length_s = float((video.duration or 0) * base)
                for packet in container.demux(video):
                    if packet.dts is None or packet.pts is None:
                        continue
                    offset = round(sent_s / base)
                    packet.dts, packet.pts, packet.stream = packet.dts + offset, packet.pts + offset, stream
                    time.sleep(max(0.0, start + float(packet.dts * base) - time.monotonic()))
                    out.mux(packet)
            sent_s += length_s


def watch(address: str) -> None:
    """Read the page's pictures, as a viewer does, until the page is closed."""
    with suppress(OSError), urllib.request.urlopen(address, timeout=30) as stream:  # noqa: S310 - of this machine
        while stream.read(1 << 16):
            pass


def run(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run infer.py for ``args.minutes``; returns the samples of the process and its summary."""
    (folder / "zones.json").write_text(json.dumps(ZONES))
    (folder / "rules.json").write_text(json.dumps(RULES))
    sources = [*args.sources, *(f"tcp://127.0.0.1:{SEND_PORT + number}" for number in range(len(args.send)))]
    outputs = ["--out", "{name}.mp4", "--lines", "{name}.jsonl", "--json", "summary.json", "--serve", str(args.port)]
    reacting = ["--zones", "zones.json", "--events", "rules.json"]
    line = [sys.executable, str(ROOT / "stages/infer.py"), str(args.engine.resolve()), *sources, *outputs, *reacting]
    pages = [f"{number}/" for number in range(1, len(sources) + 1)] if len(sources) > 1 else [""]
    seen: list[dict[str, float]] = []
    with ExitStack() as stack:
        for number, file in enumerate(args.send):
            sender = multiprocessing.Process(target=send, args=(str(file), SEND_PORT + number), daemon=True)
            sender.start()
            stack.callback(sender.kill)
        process = stack.enter_context(subprocess.Popen(line, cwd=folder, stdout=subprocess.PIPE, text=True))
        start = time.monotonic()
        time.sleep(INTERVAL_S)
        for page in pages:
            address = f"http://127.0.0.1:{args.port}/{page}stream"
            threading.Thread(target=watch, args=(address,), daemon=True).start()
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
        "sources": len(sources),
        "status": process.returncode,
        "mib_settled": round(float(memory[:6].mean()), 1),
        "mib_end": round(float(memory[-6:].mean()), 1),
        "mib_largest": round(float(memory.max()), 1),
        "mib_per_minute": round(slope, 3),
        "threads": [settled[0]["threads"], settled[-1]["threads"]],
        "files": [settled[0]["files"], settled[-1]["files"]],
        "lines": sum(text.count("\n") for text in map(Path.read_text, folder.glob("*.jsonl"))),
        "events": sum(text.count("\n") for text in map(Path.read_text, folder.rglob("events.jsonl"))),
        "clips": len(list((folder / "events").rglob("*.mp4"))),
        "video_mib": round(sum(file.stat().st_size for file in folder.glob("*.mp4")) / 2**20, 1),
        "summary": json.loads((folder / "summary.json").read_text()),
        "seen": seen,
    }


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", type=Path)
    parser.add_argument("sources", nargs="*", help="a live source: an address or a camera")
    parser.add_argument(
        "--send", type=Path, nargs="+", default=[], help="videos in H.264 that are sent as live streams"
    )
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--port", type=int, default=8931)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if not args.sources and not args.send:
        parser.error("name something live, or files to --send")
    with tempfile.TemporaryDirectory() as name:
        figures = run(args, Path(name))
    print(json.dumps({key: value for key, value in figures.items() if key not in ("seen", "summary")}, indent=2))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
