"""Speed of video: engine, decoder and encoder alone, our loop, the usual sequential loop, and what is possible.

    python benchmarks/video.py artifacts/engines/kd/int8 drive.mp4 frames/                 # a table on the screen
    python benchmarks/video.py ENGINE drive.mp4 --scale 720 1080 --core artifacts/onnx/kd/core.onnx --json FILE

Everything is measured in every round, one after the other, so that a busy machine hits all alike; figures are medians
of the rounds. *Possible* is the speed if only engine, decoder and encoder took time and no thread ever
waited: 1 / possible = 1 / engine + 1 / decoder + 1 / encoder, each of them measured alone with all cores at work
on it (cores that share caches or pipelines are slower together, also here): the engine with its fastest contexts,
one decoder per core to its own planes, one encoder per core with the settings and the pictures of our loop, which are
in memory. Without output, encoding is left out.

The sequential loop is the one of tutorials: cv2 reads, resizes, the engine runs, colours by fancy index at frame size,
addWeighted, cv2 writes mp4v. ``same engine`` runs our INT8 engine in it, with ONNX Runtime as we set it; with --core,
``float`` is the whole of it: numpy normalises, ONNX Runtime with its own defaults gives logits, numpy takes argmax.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table

from pipeline.artifact import Artifact
from pipeline.errors import command
from pipeline.evaluation import environment
from pipeline.runtimes import Engine, open_engine
from pipeline.video.drawing.overlay import Overlay
from pipeline.video.drawing.picture import Box
from pipeline.video.engines import open_engines, rate_alone
from pipeline.video.loop import segment
from pipeline.video.pixels import count_ids
from pipeline.video.selection import Selection
from pipeline.video.sinks import H264Sink, Result
from pipeline.video.sources import Frame, open_source

CORES = len(os.sched_getaffinity(0))


def scaled(video: Path, height: int, folder: Path) -> Path:
    """The video at another height, five times over, encoded by libx264 at its default effort."""
    path = folder / f"{video.stem}-{height}p.mp4"
    with av.open(str(video)) as source, av.open(str(path), "w") as target:
        old = source.streams.video[0]
        rate = Fraction(old.average_rate)
        new = target.add_stream("libx264", rate=rate, options={"crf": "20"})
        new.height, new.width, new.pix_fmt = height, round(old.width * height / old.height / 2) * 2, "yuv420p"
        for index, frame in enumerate([*source.decode(old)] * 5):
            picture = frame.reformat(new.width, new.height, "yuv420p")
            picture.pts, picture.time_base, picture.pict_type = index, 1 / rate, 0
            target.mux(new.encode(picture))
        target.mux(new.encode(None))
    return path


def on_all_cores(work: Callable[[int], int]) -> float:
    """Frames per second of ``work``, which counts them, in one thread per core; it gets the number of its thread."""
    start = time.perf_counter()
    with ThreadPoolExecutor(CORES) as pool:
        count = sum(pool.map(work, range(CORES)))
    return count / (time.perf_counter() - start)


def decode(path: Path, limit: int) -> int:
    source = open_source(str(path))
    return sum(1 for _ in Selection(limit=limit).frames(source))


def encode(frames: list[Frame], target: Path, count: int) -> int:
    """Encode ``count`` frames: the list forwards and backwards in turn, so that successive pictures stay similar."""
    empty = np.zeros((1, 1), np.uint8)
    with H264Sink(target, threads=1) as sink:
        for index, frame in enumerate(islice(cycle([*frames, *frames[-2:0:-1]]), count)):
            size = frame.picture.size
            result = Result(
                index=index,
                name=frame.name,
                timestamp=None,
                arrived=0.0,
                size=size,
                box=Box(0, 0, *size),
                label_map=empty,
                pixels=count_ids(empty),
                infer_ms=0.0,
                dropped=0,
                picture=frame.picture,
            )
            sink.write(result)
    return count


def drawn(frames: list[Frame], engine: Engine, facts: Artifact) -> list[Frame]:
    """The frames with the overlay that our loop draws."""
    overlay = Overlay(facts.labels, legend=True)
    results = []
    for frame in frames:
        label_map = engine.run(frame.picture.fit(engine.input_size)[np.newaxis])[0]
        box = Box(0, 0, *frame.picture.size)
        picture = overlay.draw(frame.picture, label_map, box=box, pixels=count_ids(label_map))
        results.append(replace(frame, picture=picture))
    return results


def ours(path: Path, engines: list[Engine], facts: Artifact, *, limit: int, target: Path | None) -> float:
    """Frames per second of our loop: to an overlay video, or, without ``target``, to nothing."""
    sinks = [H264Sink(target)] if target else []
    overlay = Overlay(facts.labels, legend=True) if target else None
    source = open_source(str(path))
    chosen = Selection(limit=limit)
    return segment(
        source,
        engines,
        labels=facts.labels,
        sinks=sinks,
        overlay=overlay,
        selection=chosen,
        engines_wait=engines[0].on_gpu,
    ).fps


def images(path: Path) -> Iterator[Any]:
    """Frames as cv2 reads them: a video, or a folder of images."""
    if path.is_dir():
        yield from (cv2.imread(str(file)) for file in sorted(path.iterdir()))
        return
    capture = cv2.VideoCapture(str(path))
    while True:
        there, frame = capture.read()
        if not there:
            return
        yield frame


def sequential(
    path: Path, ids_of: Callable[[Any], Any], palette: Any, *, limit: int, target: Path, size: tuple[int, int]
) -> float:
    """Frames per second of the usual loop. ``ids_of`` takes a frame of ``size`` (height, width), gives (h, w) ids."""
    start = time.perf_counter()
    writer = None
    count = 0
    for frame in images(path):
        ids = ids_of(cv2.resize(frame, size[::-1]))
        height, width = frame.shape[:2]
        ids = cv2.resize(ids, (width, height), interpolation=cv2.INTER_NEAREST)
        picture = cv2.addWeighted(frame, 0.5, palette[ids], 0.5, 0)
        if writer is None:
            writer = cv2.VideoWriter(str(target), cv2.VideoWriter.fourcc(*"mp4v"), 25, (width, height))
        writer.write(picture)
        count += 1
        if count == limit:
            break
    assert writer is not None
    writer.release()
    return count / (time.perf_counter() - start)


def float_loop(core: Path, facts: Artifact) -> Callable[[Any], Any]:
    """Normalise with numpy, run the float network, numpy's argmax."""
    session = onnxruntime.InferenceSession(str(core), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    mean, std = (np.asarray(facts.meta[key], np.float32) for key in ("mean", "std"))

    def ids_of(frame: Any) -> Any:
        x = (frame[..., ::-1].astype(np.float32) / 255 - mean) / std
        logits = session.run(None, {name: x.transpose(2, 0, 1)[None].astype(np.float32)})[0]
        return logits[0].argmax(axis=0).astype(np.uint8)

    return ids_of


def measure(path: Path, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All figures of one source, medians of the rounds."""
    single, facts = open_engine(args.engine)
    options = {f"{n} x {facts.meta['runtime_options'].get('threads', 1) // n} threads": n for n in args.contexts}
    engines = {name: open_engines(args.engine, contexts=count)[0] for name, count in options.items()}
    palette = facts.labels.lookup_bgr()[:, 0]
    frames = drawn(list(Selection(limit=100).frames(open_source(str(path)))), single, facts)
    size = frames[0].picture.size
    count = decode(path, args.limit)
    core = float_loop(args.core, facts) if args.core else None
    rounds: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        rounds.setdefault(name, []).append(value)

    for turn in range(args.rounds):
        for name, several in engines.items():
            note(f"engine alone, {name}", rate_alone(several, seconds=1.5))
        note("decode alone", on_all_cores(lambda number: decode(path, args.limit)))
        note("encode alone", on_all_cores(lambda number: encode(frames, folder / f"encoded-{number}.mp4", count)))
        for name, several in engines.items():
            note(f"ours, no output, {name}", ours(path, several, facts, limit=args.limit, target=None))
            note(f"ours, overlay video, {name}", ours(path, several, facts, limit=args.limit, target=folder / "o.mp4"))
        loops = {"same engine": lambda frame: single.run(frame[None])[0], **({"float": core} if core else {})}
        for name, ids_of in loops.items():
            shape = single.input_size
            cv2.setNumThreads(CORES)  # OpenCV's default
            rate = sequential(path, ids_of, palette, limit=args.limit, target=folder / "s.mp4", size=shape)
            cv2.setNumThreads(1)  # as stages/infer.py sets it
            note(f"sequential, {name}", rate)
        print(f"{path.name}: round {turn + 1} of {args.rounds}", file=sys.stderr)
    figures = {name: round(statistics.median(values), 2) for name, values in rounds.items()}
    alone = max(value for name, value in figures.items() if name.startswith("engine alone"))
    for several in engines.values():
        for engine in several:
            engine.close()
    single.close()
    without = 1 / (1 / alone + 1 / figures["decode alone"])
    possible = 1 / (1 / without + 1 / figures["encode alone"])
    best = {
        kind: max(value for name, value in figures.items() if name.startswith(f"ours, {kind}"))
        for kind in ("no output", "overlay video")
    }
    return {
        "source": path.name,
        "size": f"{size[1]}x{size[0]}",
        **figures,
        "possible, no output": round(without, 1),
        "possible, overlay video": round(possible, 1),
        "of possible, no output": round(best["no output"] / without, 3),
        "of possible, overlay video": round(best["overlay video"] / possible, 3),
        "times sequential, same engine": round(best["overlay video"] / figures["sequential, same engine"], 2),
        **({"times sequential, float": round(best["overlay video"] / figures["sequential, float"], 2)} if core else {}),
    }


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", type=Path)
    parser.add_argument("sources", type=Path, nargs="+", help="videos and folders of images")
    parser.add_argument("--scale", type=int, nargs="*", default=[], help="heights at which videos are measured, too")
    parser.add_argument("--core", type=Path, help="float network with logits, for the whole sequential loop")
    parser.add_argument("--contexts", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--limit", type=int, default=1000, help="frames of each source, at most")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    cv2.setNumThreads(1)  # as stages/infer.py sets it
    before = environment.conditions()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = list(args.sources)
        for video in [path for path in args.sources if path.is_file()]:
            sources += [scaled(video, height, folder) for height in args.scale]
        results = [measure(path, args, folder) for path in sources]
    table = Table("", *(result["source"] for result in results))
    for key in dict.fromkeys(key for result in results for key in result if key != "source"):
        table.add_row(key, *(str(result.get(key, "")) for result in results))
    Console(width=200).print(table)
    if args.json:
        device = json.loads(Path("artifacts/device.json").read_text()) if Path("artifacts/device.json").exists() else {}
        about = {"device": device, "cores": CORES, "conditions": [before, environment.conditions()]}
        args.json.write_text(json.dumps({**about, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
