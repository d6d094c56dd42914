"""Accuracy, flicker and time of smoothed label maps: every method that was considered, on labelled video.

    python benchmarks/smoothing.py artifacts/engines/kd/int8 [--json docs/results/smoothing.json]
    python benchmarks/smoothing.py ENGINE --dataset artifacts/dataset --split val      # a split that is one video

Without --dataset it renders drives of `streets`, one for each seed. Flicker is the share of pixels whose prediction
changes from one frame to the next although the label at that place does not.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline import artifact, runtimes
from pipeline.datasets.streets import Streets
from pipeline.errors import command
from pipeline.evaluation.confusion import ConfusionMatrix
from pipeline.evaluation.matching import require_same_classes
from pipeline.frames import Array, resize_frame, resize_label_map
from pipeline.labels import LabelSpec
from pipeline.prepared import Prepared
from pipeline.runtimes import Engine
from pipeline.video.drawing.picture import Picture
from pipeline.video.smoothing import FRAMES, TOLERANCE, Smoother

#: A method for one video: (label map, its picture) -> label map.
Method = Callable[[Array, Array], Array]
DRIVES = range(201, 221)  # the method, its strength and its limits were chosen on drives 101 to 110
LENGTH = 90
COST_SIZES = ((128, 192), (512, 1024))
VOTES_TOLERANCE = 14  # the best of 6, 10, 14 and 20 on drives 101 to 106
UNCHECKED = 10_000  # no difference of luma is as large


class Shot(NamedTuple):
    """A frame at the size of the label map, the engine's labels (h, w) and the true ones (H, W)."""

    frame: Array
    predicted: Array
    label: Array


def plain() -> Method:
    return lambda predicted, frame: predicted


def chosen(frames: int, tolerance: int = TOLERANCE) -> Method:
    smoother = Smoother(frames=frames, tolerance=tolerance)
    return lambda predicted, frame: smoother.smooth(predicted, Picture.of_bgr(frame))


def in_place(frames: int) -> Method:
    """The chosen method without motion."""
    smoother = Smoother(frames=frames)
    return lambda predicted, frame: smoother.smooth(predicted, Picture.of_bgr(np.zeros_like(frame)))


def one_hot(predicted: Array, classes: int) -> npt.NDArray[np.float32]:
    """(K, h, w)."""
    return (predicted[None] == np.arange(classes, dtype=np.uint8)[:, None, None]).astype(np.float32)


def strongest(votes: npt.NDArray[np.float32], now: npt.NDArray[np.float32]) -> Array:
    """The class with most votes; of equal ones that of this frame."""
    return np.asarray((votes + 1e-3 * now).argmax(axis=0), np.uint8)


def majority(count: int, classes: int) -> Method:
    last: deque[npt.NDArray[np.float32]] = deque(maxlen=count)

    def smooth(predicted: Array, frame: Array) -> Array:
        last.append(one_hot(predicted, classes))
        return strongest(np.sum(last, axis=0, dtype=np.float32), last[-1])

    return smooth


class Votes:
    """Votes for every class that fade; moved along with the picture, bilinearly, or left in place."""

    def __init__(self, fade: float, classes: int, *, moved: bool) -> None:
        self.fade, self.classes = fade, classes
        self.flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST) if moved else None
        if self.flow is not None:
            self.flow.setFinestScale(1)
        self.votes: npt.NDArray[np.float32] | None = None
        self.luma: Any = None

    def __call__(self, predicted: Array, frame: Array) -> Array:
        now = one_hot(predicted, self.classes)
        luma, before = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), self.luma
        self.luma = luma
        if self.votes is None:
            self.votes = now
            return predicted
        old = self.votes
        if self.flow is not None:
            rows, columns = np.indices(luma.shape, np.float32)
            places = self.flow.calc(luma, before, None) + np.dstack([columns, rows])
            old = np.stack([cv2.remap(plane, places, None, cv2.INTER_LINEAR) for plane in old])
            old *= cv2.absdiff(luma, cv2.remap(before, places, None, cv2.INTER_LINEAR)) <= VOTES_TOLERANCE
        self.votes = self.fade * old + now
        return strongest(self.votes, now)


def methods(classes: int) -> dict[str, Callable[[], Method]]:
    """By name, as the table shows them; the last ones are the chosen method."""
    by_name: dict[str, Callable[[], Method]] = {"none": plain}
    by_name |= {f"in place: majority of {n}": lambda n=n: majority(n, classes) for n in (3, 5)}
    by_name |= {f"in place: votes x {f}": lambda f=f: Votes(f, classes, moved=False) for f in (0.7, 0.85)}
    by_name |= {f"in place: counter, {n} frames": lambda n=n: in_place(n) for n in (2, FRAMES)}
    by_name[f"moved, unchecked: counter, {FRAMES} frames"] = lambda: chosen(FRAMES, UNCHECKED)
    by_name |= {f"moved, checked: votes x {f}": lambda f=f: Votes(f, classes, moved=True) for f in (0.7, 0.85)}
    by_name |= {f"moved, checked: counter, {n} frames": lambda n=n: chosen(n) for n in (2, 3, 5, 8, 12)}
    return by_name


@dataclass
class Score:
    """Sums over the frames of videos."""

    matrix: ConfusionMatrix
    flickered: int = 0
    steady: int = 0
    ms: list[float] = field(default_factory=list)

    def add(self, other: Score) -> None:
        self.matrix.counts += other.matrix.counts
        self.flickered += other.flickered
        self.steady += other.steady
        self.ms += other.ms

    @property
    def flicker(self) -> float:
        return 100 * self.flickered / max(self.steady, 1)

    @property
    def miou(self) -> float:
        return float(self.matrix.summary()["miou"])


def flickered(before: tuple[Array, Array], now: tuple[Array, Array], ignored: int) -> tuple[int, int]:
    """Among the pixels whose label did not change: how many changed their prediction, and how many there are.

    Args:
        before, now: (label, prediction) of two frames, all (H, W).
    """
    steady = (before[0] == now[0]) & (now[0] != ignored)
    return int(np.count_nonzero(steady & (before[1] != now[1]))), int(np.count_nonzero(steady))


def score(method: Method, video: Sequence[Shot], labels: LabelSpec) -> Score:
    score = Score(ConfusionMatrix(num_classes=labels.num_classes, ignore_index=labels.ignore_index))
    before: tuple[Array, Array] | None = None
    for shot in video:
        start = time.perf_counter()
        smoothed = method(shot.predicted, shot.frame)
        score.ms.append(1e3 * (time.perf_counter() - start))
        now = (shot.label, resize_label_map(smoothed, (shot.label.shape[0], shot.label.shape[1])))
        score.matrix.add(*now)
        if before is not None:
            changed, steady = flickered(before, now, labels.ignore_index)
            score.flickered += changed
            score.steady += steady
        before = now
    return score


def watched(engine: Engine, pairs: Iterator[tuple[Array, Array]], every: int) -> list[Shot]:
    shots = []
    for index, (frame, label) in enumerate(pairs):
        if index % every == 0:
            predicted = engine.run(resize_frame(frame, engine.input_size)[None])[0]
            shots.append(Shot(resize_frame(frame, engine.output_size), predicted, label))
    return shots


def drive(seed: int, size: tuple[int, int]) -> Iterator[tuple[Array, Array]]:
    streets = Streets(train=1, val=1, sequence=LENGTH, size=size, seed=seed)
    return (streets.read("sequence", name) for name in streets.splits()["sequence"])


def costs(video: Sequence[Shot]) -> dict[str, float]:
    """Milliseconds per frame of the chosen method by size, p50; frames and labels are stretched to it."""
    by_size = {}
    for size in COST_SIZES:
        shots = [(resize_label_map(shot.predicted, size), resize_frame(shot.frame, size)) for shot in video]
        method, ms = chosen(FRAMES), []
        for predicted, frame in shots:
            start = time.perf_counter()
            method(predicted, frame)
            ms.append(1e3 * (time.perf_counter() - start))
        by_size[f"{size[0]}x{size[1]}"] = round(float(np.median(ms)), 2)
    return by_size


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(DRIVES), help="of the rendered drives")
    parser.add_argument("--dataset", type=Path, help="a prepared data set instead")
    parser.add_argument("--split", default="val", help="of it, whose frames are one video in order; val")
    parser.add_argument("--every", type=int, default=1, help="take every n-th frame only; 1")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    cv2.setNumThreads(1)
    engine, facts = runtimes.open_engine(args.engine)
    labels = facts.labels
    if args.dataset:
        prepared = Prepared(args.dataset)
        require_same_classes(prepared, facts)
        source, pairs = f"{prepared.name} {args.split}", [iter(prepared.split(args.split))]
    else:
        source, pairs = f"streets, {len(args.seeds)} drives", [drive(seed, engine.input_size) for seed in args.seeds]
    videos = [watched(engine, pair, args.every) for pair in pairs]

    rows: dict[str, dict[str, Any]] = {}
    for name, make in methods(labels.num_classes).items():
        scores = [score(make(), video, labels) for video in videos]
        own = [score.miou for score in scores]
        whole = scores[0]
        for other in scores[1:]:
            whole.add(other)
        rows[name] = {
            "miou": round(whole.miou, 2),
            "flicker": round(whole.flicker, 2),
            "ms": round(float(np.median(whole.ms)), 2),
            "per_class_iou": whole.matrix.summary()["per_class_iou"],
            "videos": own,
        }
    show(source, labels, rows, frames=sum(map(len, videos)))
    cost = costs(videos[0])
    print("chosen method, one thread, p50:", ", ".join(f"{size} {ms} ms" for size, ms in cost.items()))
    if args.json:
        about = {"source": source, "every": args.every, "opencv": cv2.__version__, "classes": list(labels.names)}
        artifact.write_text(args.json, artifact.dump_json({**about, "cost_ms": cost, "methods": rows}))


def show(source: str, labels: LabelSpec, rows: dict[str, dict[str, Any]], *, frames: int) -> None:
    first = rows["none"]
    table = Table(title=f"{source}, {frames} frames")
    table.add_column("smoothing")
    for column in ("mIoU", "flicker %", "class that loses most", "class that gains most", "videos better", "ms"):
        table.add_column(column, justify="right")
    for name, row in rows.items():
        pairs = zip(labels.names, row["per_class_iou"], first["per_class_iou"], strict=True)
        moves = sorted((after - before, label) for label, after, before in pairs if before is not None)
        better = sum(after > before for after, before in zip(row["videos"], first["videos"], strict=True))
        ends = (
            [escape(f"{label} {move:+.1f}") for move, label in (moves[0], moves[-1])] if row is not first else ["", ""]
        )
        count = f"{better} of {len(row['videos'])}" if row is not first else ""
        table.add_row(name, f"{row['miou']:.2f}", f"{row['flicker']:.2f}", *ends, count, f"{row['ms']:.2f}")
    Console(width=140).print(table)


if __name__ == "__main__":
    sys.exit(main())
