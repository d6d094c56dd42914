"""Images per second of the loader alone, of the training step alone, and of real training; and the time of one item.

    python benchmarks/training_speed.py artifacts/dataset                       # the default student with kd
    python benchmarks/training_speed.py FOLDER --crop 512 1024 --input-size 1024 2048 --batch 4 --workers 0 2 4
    python benchmarks/training_speed.py FOLDER --loss none --threads 1 --json FILE

Each combination of workers and store is measured in every round, one after the other, so that a busy machine hits all
alike; figures are medians. ``ratio`` is real training / min(loader, step): 1 if loading takes no extra time. The
loader's queue is drained before the clock starts. Decoded files are in a temporary folder and are removed. Networks
come from params.yaml with random weights: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import default_collate

from pipeline import artifact, losses, models
from pipeline.errors import command
from pipeline.prepared import Prepared, Split
from pipeline.settings import params
from pipeline.training import data, processes
from pipeline.training.augment import Augmentation
from pipeline.training.distillation import DistillationTask
from pipeline.training.learner import Learner
from pipeline.training.settings import TrainingSettings
from pipeline.training.store import open_split
from pipeline.training.tasks import SupervisedTask

Batch = tuple[Tensor, ...]
STORES = ("none", "decoded")
FLUSH = 2  # batches that a worker has ready when the clock starts


def build(settings: params.Params, args: argparse.Namespace, classes: int) -> SupervisedTask:
    """The task of a student, with the teacher if its loss needs one."""
    torch.manual_seed(0)
    model, teaching = settings.student(args.student).model, settings.teacher.model
    student = models.build(model.name, model.options, num_classes=classes)
    teacher = models.build(teaching.name, teaching.options, num_classes=classes)
    facts = {**student.facts.offered("student"), **teacher.facts.offered("teacher")}
    options = {name: settings.losses.get(name, {}) for name in args.loss}
    loss = losses.build_all(options, num_classes=classes, ignore_index=255, steps=1000, **facts)
    return DistillationTask(student, teacher, loss, ignore_index=255)


def stepper(task: SupervisedTask, settings: params.Params, images: int) -> Callable[[Batch], None]:
    """The update of training, on a batch of the loader."""
    recipe = TrainingSettings.of(settings.distill, images=1, input_size=settings.input_size, seed=0)
    learner = Learner(task, recipe, accelerator=processes.accelerator(precision=recipe.precision), images=images)
    steps = itertools.cycle(range(1, recipe.steps))

    def step(batch: Batch) -> None:
        learner.update([batch], step=next(steps), names=[])

    return step


def rate(batches: Iterator[Batch], use: Callable[[Batch], None], *, count: int, skip: int, device: str) -> float:
    """Images per second over ``count`` batches after ``skip``."""
    for _ in range(skip):
        use(next(batches))
    synchronise(device)
    start, images = time.perf_counter(), 0
    for _ in range(count):
        batch = next(batches)
        use(batch)
        images += len(batch[0])
    synchronise(device)
    return images / (time.perf_counter() - start)


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize(device)


def speeds(
    splits: dict[str, Split], augment: Augmentation, step: Callable[[Batch], None], args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Medians over rounds for every store and number of workers."""

    def loader(store: str, workers: int, seed: int, steps: int) -> Iterator[Batch]:
        crops = data.Crops(splits[store], augment, seed=seed)
        draws = data.Draws(length=len(crops), steps=steps, images=args.batch, seed=seed)
        return iter(data.batches(crops, draws, workers=workers))

    ready: Batch = tuple(part.to(args.device) for part in next(loader("none", 0, 0, 1)))
    timing: dict[str, Any] = {"count": args.count, "device": args.device}
    rates: dict[tuple[str, int, str], list[float]] = {}
    for seed in range(args.rounds):
        for store, workers in itertools.product(splits, args.workers):
            skip = 1 + FLUSH * workers
            steps = args.count + skip + FLUSH * workers  # workers stay busy to the end
            for what, value in (
                ("loader", rate(loader(store, workers, seed, steps), lambda batch: None, skip=skip, **timing)),
                ("step", rate(itertools.repeat(ready), step, skip=1, **timing)),
                ("real", rate(loader(store, workers, seed, steps), step, skip=skip, **timing)),
            ):
                rates.setdefault((store, workers, what), []).append(value)
    rows = []
    for store, workers in itertools.product(splits, args.workers):
        loader_, step_, real = (statistics.median(rates[store, workers, what]) for what in ("loader", "step", "real"))
        figures = {"loader": loader_, "step": step_, "real": real, "ratio": real / min(loader_, step_)}
        rows.append({"store": store, "workers": workers, **{key: round(value, 3) for key, value in figures.items()}})
    return rows


def parts(splits: dict[str, Split], augment: Augmentation, args: argparse.Namespace) -> dict[str, float]:
    """Median milliseconds of the parts of an item, on one thread."""
    plain = splits["none"]
    times: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[..., Any], *inputs: Any) -> Any:
        start = time.perf_counter()
        result = work(*inputs)
        times.setdefault(name, []).append(1e3 * (time.perf_counter() - start))
        return result

    for index in range(args.items):
        at = index % len(plain)
        frame = timed("decode frame", plain.frame, at)
        label = timed("decode label", plain.label, at)
        item = timed("augment", augment, frame, label, np.random.default_rng(index))
        tensors = tuple(torch.from_numpy(part) for part in item)
        timed("collate a batch", default_collate, [tensors] * args.batch)
        for store, split in splits.items():
            timed(f"item, store {store}", data.Crops(split, augment, seed=0).__getitem__, (at, index))
    return {name: round(statistics.median(values), 3) for name, values in times.items()}


def show(title: str, rows: list[dict[str, Any]]) -> None:
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="folder that prepare wrote")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--student", default="kd", help="key of students in params.yaml")
    parser.add_argument("--loss", nargs="+", default=["kd"])
    parser.add_argument("--crop", type=int, nargs=2, default=[128, 192], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument(
        "--input-size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="that scale 1 means; default: crop"
    )
    parser.add_argument("--scale", type=float, nargs=2, default=[0.5, 2.0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--store", nargs="+", choices=STORES, default=list(STORES))
    parser.add_argument("--count", type=int, default=10, help="batches of a measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--items", type=int, default=40, help="items of the table of parts")
    parser.add_argument("--threads", type=int, help="of torch in the training process")
    parser.add_argument("--json", type=Path, help="JSON file; figures are added to those in it")
    args = parser.parse_args()

    if args.threads:
        torch.set_num_threads(args.threads)
    cv2.setNumThreads(1)
    args.device = "cuda" if torch.cuda.is_available() else "cpu"
    settings, prepared = params.load(args.params, kinds=("models",)), Prepared(args.dataset)
    task = build(settings, args, prepared.labels.num_classes)
    augment = data.augmentation(
        crop=tuple(args.crop), input_size=tuple(args.input_size or args.crop), scale=tuple(args.scale), colour=0.5,
        labels=prepared.labels, mean=task.network.mean,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        splits, seconds = {}, {}
        for store in ("none", *(name for name in args.store if name != "none")):
            start = time.perf_counter()
            splits[store] = open_split(prepared, "train", mode=store, folder=Path(folder), say=print)
            seconds[store] = round(time.perf_counter() - start, 2)
        costs = parts(splits, augment, args)
        rows = speeds(splits, augment, stepper(task, settings, args.batch), args)
    title = (
        f"{prepared.name}, crop {args.crop[0]}x{args.crop[1]}, batch {args.batch}, {'+'.join(args.loss)}, {args.device}"
    )
    show(f"milliseconds, {title}", [{"part": name, "ms": value} for name, value in costs.items()])
    show(f"images per second, {title}", rows)
    print(f"frames decoded to a file in {seconds.get('decoded', 0)} s")
    if args.json:
        known = json.loads(args.json.read_text()) if args.json.exists() else {}
        facts = {"threads": torch.get_num_threads(), "torch": torch.__version__, "opencv": cv2.__version__}
        figures = {**facts, "scale": args.scale, "parts_ms": costs, "store_seconds": seconds, "images_per_second": rows}
        artifact.write_text(args.json, artifact.dump_json({**known, title: figures}))


if __name__ == "__main__":
    sys.exit(main())
