"""Milliseconds per training step: a bare torch loop, our training, its loader; and what validation adds to a run.

    python benchmarks/training_speed.py artifacts/dataset                       # the default student with kd
    python benchmarks/training_speed.py FOLDER --loss teacher none kd kd+cirkd --store decoded --json FILE
    python benchmarks/training_speed.py FOLDER --crop 512 1024 --input-size 1024 2048 --batch 4 --workers 0 2 4
    python benchmarks/training_speed.py artifacts/dataset --device cpu --tiny   # a dry run, under a minute on 2 cores

For each loss (``kd+cirkd``: both at once; ``teacher``: the teacher's own training), one after the other in every round,
so that a busy machine hits all alike; figures are medians over the rounds:

- ``bare``: a plain loop of torch: forward of the same networks and loss (under autocast), backward, the same optimiser;
  the batch is on the device, nothing is read from it, and torch takes the fastest kernels.
- ``arithmetic``: the convolutions and matrix products of that step at the speed of a large matrix product on this
  machine: what a step would take if nothing else cost time.
- ``one batch``: our step without data loading: ``pipeline.training.fit`` with one batch of the loader again and again.
- ``real``: our step: ``pipeline.training.fit`` with the loader; without validation.
- ``loader``: the loader alone.
- ``real / bare``: speed of our training / speed of the bare loop. 1: nothing is lost.
- ``validation``: its share of a whole run with the ``steps`` and ``validate_every`` of params.yaml, from the time of
  one validation of val.

The loader's queue is drained before the clock starts. Decoded files are in a temporary folder and are removed. Networks
and recipes come from params.yaml, with random weights: speed does not depend on them. ``accumulate`` is 1: the batch is
one part of a step. The figures of a loss are in the JSON file as soon as they are measured.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import itertools
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from accelerate.state import AcceleratorState
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from pipeline import artifact, models, plugins
from pipeline.errors import UserError, command
from pipeline.models import SegNetwork
from pipeline.prepared import Prepared, Split
from pipeline.settings import loss_mixture, params, training_params
from pipeline.settings.param_types import StoreMode
from pipeline.training import data, processes
from pipeline.training.allocator import keep_freed_memory
from pipeline.training.augment import Augmentation
from pipeline.training.distillation import DistillationTask
from pipeline.training.evaluation import check_size, frames_at_once, metrics_of
from pipeline.training.fit import fit
from pipeline.training.learner import Learner
from pipeline.training.readings import EVERY
from pipeline.training.seeding import choose_kernels, seed_everything
from pipeline.training.settings import TrainingSettings
from pipeline.training.store import Stored, open_split
from pipeline.training.tasks import SupervisedTask

Batch = Sequence[Tensor]  # images, targets, indices of the samples
STORES = ("none", "decoded")
TEACHER = "teacher"  # among the losses; no student may have this name
WARM_UP = 3  # steps before the clock starts
FLUSH = 2  # batches that a worker has ready when the clock starts
#: Values of options that are not given.
USUAL = {"count": 10, "rounds": 3, "items": 40, "validation_frames": 100, "store": STORES}
TINY = {
    "count": 2, "rounds": 1, "items": 4, "validation_frames": 2, "store": ("decoded",),
    "crop": (64, 96), "batch": 2, "workers": (0,),
}  # fmt: skip


def section_of(settings: params.Params, loss: str) -> training_params.Recipe:
    """The section of params.yaml for one of ``--loss``."""
    section = settings.teacher.train if loss == TEACHER else settings.distill
    if section is False:
        raise UserError(f"--loss {TEACHER}: teacher.train is false in params.yaml; leave it out, or set it a section")
    return section


def recipe_of(settings: params.Params, loss: str, prepared: Prepared, args: argparse.Namespace) -> TrainingSettings:
    """The recipe of params.yaml for one of ``--loss``, with the sizes of the command line."""
    section, images = section_of(settings, loss), len(prepared.splits["train"])
    whole = TrainingSettings.of(section, images=images, input_size=settings.input_size, seed=settings.seed)
    crop = tuple(args.crop or whole.crop_size)
    return replace(
        whole,
        crop=crop,
        input_size=tuple(args.input_size or args.crop or whole.input_size),
        scale=tuple(args.scale),
        batch_size=args.batch or whole.batch_size // whole.accumulate,
        accumulate=1,
    )


def task_of(
    settings: params.Params, loss: str, prepared: Prepared, *, student: str, recipe: TrainingSettings
) -> SupervisedTask:
    """A new task with random weights."""

    def network(model: training_params.Model) -> SegNetwork:
        weights = plugins.load("models", model.name).initial_weight_options
        options = {key: value for key, value in model.options.items() if key not in weights}
        return models.build(model.name, options, num_classes=prepared.labels.num_classes)

    teacher = network(settings.teacher.model)
    if loss == TEACHER:
        task = SupervisedTask(teacher, ignore_index=prepared.labels.ignore_index)
    else:
        mixture = loss_mixture.resolve(loss.split("+"), settings.losses)
        own = network(settings.student(student).model)
        task = DistillationTask.on(prepared, own, teacher, mixture, steps=recipe.forward_passes, seed=recipe.seed)
    task.class_weights = data.class_weights(prepared, balance=recipe.class_balance)
    check_size("--crop", recipe.crop_size, task.network)
    check_size("--input-size", recipe.input_size, task.network)
    return task


def bare_step(
    task: SupervisedTask, recipe: TrainingSettings, batch: Batch, *, device: torch.device
) -> Callable[[], None]:
    """One step of a plain loop; fp16 without scaling of the gradient."""
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    task.to(device).train()
    for network in task.networks():
        network.to(device=device, memory_format=layout)
        if recipe.compile:
            network.compile()
    trained = [parameter for parameter in task.parameters() if parameter.requires_grad]
    shared: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay, "fused": True}
    optimiser: torch.optim.Optimizer
    if recipe.optimizer == "sgd":
        optimiser = torch.optim.SGD(trained, momentum=recipe.momentum, **shared)
    else:
        optimiser = torch.optim.AdamW(trained, **shared)
    images, target = batch[0].to(device, memory_format=layout), batch[1].to(device)
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(recipe.precision)

    def step() -> None:
        optimiser.zero_grad()
        with torch.autocast(device.type, dtype=half, enabled=half is not None):
            loss = task(images, target)["loss"]
        loss.backward()
        optimiser.step()

    return step


def backward_operations(gradient: Any, x: Any, weight: Any, *more: Any, **_: Any) -> int:
    """Of a convolution's backward pass. torch 2.14 counts the gradient of grouped weights as if there was one group."""
    transposed, needed = more[4], more[7]
    return conv_flop_count(x, weight, gradient, transposed) * sum(needed[:2])


def billion_operations(step: Callable[[], None]) -> float:
    """Floating-point operations of the convolutions and matrix products of a step, times 1e-9."""
    backward: dict[Any, Any] = {torch.ops.aten.convolution_backward: backward_operations}
    with FlopCounterMode(display=False, custom_mapping=backward) as counter:
        step()
    return counter.get_total_flops() / 1e9


def product_speed(device: torch.device, precision: str) -> float:
    """Billions of floating-point operations per second in a product of large square matrices."""
    side = 8192 if device.type == "cuda" else 1024
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    left, right = torch.randn(2, side, side, device=device, dtype=dtype)
    return 2e-9 * side**3 / seconds(lambda: left @ right, count=10, skip=3, device=device)


class Clocked(Learner):
    """A learner that starts a clock when the warm-up is over, before the update of step ``skip + 1``."""

    skip: int
    started: float

    def update(self, *args: Any, step: int, **kwargs: Any) -> Any:
        if step == self.skip + 1:
            synchronise(self.accelerator.device)
            self.started = time.perf_counter()
        return super().update(*args, step=step, **kwargs)


def our_step(learner: Clocked, batches: Iterable[Batch], *, folder: Path) -> float:
    """Seconds per step of the training loop after its warm-up, on the first batches, one per step."""
    steps = learner.settings.steps
    stopped = 0.0

    def validate(network: SegNetwork) -> dict[str, Any]:
        nonlocal stopped
        synchronise(learner.accelerator.device)
        stopped = time.perf_counter()
        return {"miou": 0.0}

    with contextlib.redirect_stdout(io.StringIO()):  # the progress bar
        fit(
            learner, lambda done: itertools.islice(batches, steps), validate=validate, name_of=str,
            curves=folder / "curves", checkpoints=None, title="speed",
            log_every=EVERY.get(learner.accelerator.device.type, 1),
        )  # fmt: skip
    return (stopped - learner.started) / (steps - learner.skip)


def seconds(work: Callable[[], object], *, count: int, skip: int, device: torch.device) -> float:
    """Seconds per call over ``count`` calls, after ``skip``."""
    for _ in range(skip):
        work()
    synchronise(device)
    start = time.perf_counter()
    for _ in range(count):
        work()
    synchronise(device)
    return (time.perf_counter() - start) / count


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    loss: str,
    splits: dict[str, Split],
    *,
    settings: params.Params,
    prepared: Prepared,
    args: argparse.Namespace,
    folder: Path,
) -> list[dict[str, Any]]:
    """One row for each store and number of workers."""
    recipe = recipe_of(settings, loss, prepared, args)
    AcceleratorState._reset_state()  # it keeps one precision per process, and the teacher may have another
    seed_everything(recipe.seed)
    accelerator = processes.accelerator(precision=recipe.precision)
    device, counts = accelerator.device, args.workers or (section_of(settings, loss).workers,)
    bare_task, task = (task_of(settings, loss, prepared, student=args.student, recipe=recipe) for _ in range(2))
    augment = augmentation(recipe, prepared)
    for each in (bare_task, task):
        each.padding = augment.padding if augment.pads else None
    skip = WARM_UP + FLUSH * max(counts)
    steps = skip + args.count

    def loader(store: str, workers: int, seed: int) -> contextlib.closing[Iterator[list[Tensor]]]:
        crops = data.Crops(splits[store], augment, seed=seed)
        drawn = steps + FLUSH * workers  # workers stay busy to the end
        draws = data.Draws(length=len(crops), steps=drawn, images=recipe.batch_size, seed=seed)
        return contextlib.closing(data.batches(crops, draws, workers=workers))

    with loader("none", 0, 0) as batches:
        batch = next(batches)
    step = bare_step(bare_task, recipe, batch, device=device)
    short = replace(recipe, steps=steps, validate_every=steps)
    learner = Clocked(task, short, accelerator=accelerator, images=recipe.batch_size)
    learner.skip = skip
    if device.type == "cpu":
        keep_freed_memory()  # as a training does
    operations, speeds = billion_operations(step), list[float]()
    timing: dict[str, Any] = {"count": args.count, "skip": skip, "device": device}
    times: dict[tuple[Any, ...], list[float]] = {}

    def add(value: float, *what: Any) -> None:
        times.setdefault(what, []).append(1e3 * value)

    for seed in range(args.rounds):
        choose_kernels("off", device=device)
        add(seconds(step, **timing), "bare")
        speeds.append(product_speed(device, recipe.precision))
        choose_kernels(recipe.determinism, device=device)
        add(our_step(learner, itertools.repeat(batch), folder=folder), "one batch")
        for store, workers in itertools.product(args.store, counts):
            with loader(store, workers, seed) as batches:
                add(seconds(partial(next, batches), **timing), "loader", store, workers)
            with loader(store, workers, seed) as batches:
                add(our_step(learner, batches, folder=folder), "real", store, workers)
    validation = 1e3 * validation_seconds(
        learner, prepared, frames=args.validation_frames, store=args.store[-1], folder=folder
    )
    validations = math.ceil(recipe.steps / recipe.validate_every)
    arithmetic = 1e3 * operations / statistics.median(speeds)

    def row(store: str, workers: int) -> dict[str, Any]:
        bare, one_batch, loading, real = (
            statistics.median(times[what])
            for what in (("bare",), ("one batch",), ("loader", store, workers), ("real", store, workers))
        )
        whole = recipe.steps * real + validations * validation
        figures = {
            "bare_ms": bare,
            "arithmetic_ms": arithmetic,
            "one_batch_ms": one_batch,
            "real_ms": real,
            "loader_ms": loading,
        }
        return {
            "loss": loss,
            "store": store,
            "workers": workers,
            "crop": list(recipe.crop_size),
            "batch": recipe.batch_size,
            "precision": recipe.precision,
            "channels_last": recipe.channels_last,
            **{name: round(value, 3) for name, value in figures.items()},
            "real_per_bare": round(bare / real, 3),
            "billion_operations": round(operations, 1),
            "validation_ms": round(validation, 1),
            "validation_share": round(validations * validation / whole, 4),
            "validations": validations,
            "steps": recipe.steps,
        }

    return [row(store, workers) for store, workers in itertools.product(args.store, counts)]


def augmentation(recipe: TrainingSettings, prepared: Prepared) -> Augmentation:
    return data.augmentation(
        crop=recipe.crop_size, input_size=recipe.input_size, scale=recipe.scale, colour=recipe.colour_jitter,
        labels=prepared.labels,
    )  # fmt: skip


def validation_seconds(learner: Learner, prepared: Prepared, *, frames: int, store: StoreMode, folder: Path) -> float:
    """Seconds of one validation of val, from its first ``frames`` frames."""
    val = open_split(prepared, "val", mode=store, folder=folder, say=print)
    timed = replace(val, names=val.names[:frames])
    recipe, accelerator = learner.settings, learner.accelerator
    at_once = frames_at_once(
        recipe.batch_size, crop=recipe.crop_size, input_size=recipe.input_size, device=accelerator.device
    )
    validate = partial(
        metrics_of, learner.network, labels=prepared.labels, input_size=recipe.input_size, accelerator=accelerator,
        batch=at_once, autocast=contextlib.nullcontext if recipe.validates_in_fp32 else accelerator.autocast,
    )  # fmt: skip
    validate(split=timed)  # the first one chooses kernels
    synchronise(learner.accelerator.device)
    start = time.perf_counter()
    validate(split=timed)
    synchronise(learner.accelerator.device)
    return (time.perf_counter() - start) * len(val) / len(timed)


def parts(splits: dict[str, Split], augment: Augmentation, *, batch: int, items: int) -> dict[str, float]:
    """Median milliseconds of the parts of an item, on one thread."""
    plain = splits["none"]
    times: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[..., Any], *inputs: Any) -> Any:
        start = time.perf_counter()
        result = work(*inputs)
        times.setdefault(name, []).append(1e3 * (time.perf_counter() - start))
        return result

    for index in range(items):
        at = index % len(plain)
        frame = timed("decode frame", plain.frame, at)
        label = timed("decode label", plain.label, at)
        item = timed("augment", augment, frame, label, np.random.default_rng(index))
        tensors = tuple(torch.from_numpy(part) for part in item)
        timed("collate a batch", default_collate, [tensors] * batch)
        for store, split in splits.items():
            timed(f"item, store {store}", data.Crops(split, augment, seed=0).__getitem__, (at, index))
    return {name: round(statistics.median(values), 3) for name, values in times.items()}


def show_parts(title: str, costs: dict[str, float]) -> None:
    table = Table("part", "ms", title=f"milliseconds of an item, {title}")
    for name, value in costs.items():
        table.add_row(name, f"{value:.2f}")
    Console().print(table)


def show(title: str, rows: list[dict[str, Any]]) -> None:
    columns = ("bare", "arithmetic", "one batch", "real", "loader", "real / bare", "validation")
    table = Table("loss", "store", "workers", *columns, title=f"milliseconds per step, {title}")
    for row in rows:
        times = (f"{row[f'{name}_ms']:.2f}" for name in ("bare", "arithmetic", "one_batch", "real", "loader"))
        shares = (f"{row['real_per_bare']:.2f}", f"{row['validation_share']:.1%}")
        table.add_row(row["loss"], row["store"], str(row["workers"]), *times, *shares)
    Console().print(table)


def summary(rows: list[dict[str, Any]]) -> str:
    """The best ratio of each loss, and the largest share of validation, in one line."""
    best: dict[str, float] = {}
    for row in rows:
        best[row["loss"]] = max(row["real_per_bare"], best.get(row["loss"], 0.0))
    ratios = ", ".join(f"{loss} {ratio:.2f}" for loss, ratio in best.items())
    return f"real / bare: {ratios}; validation: {max(row['validation_share'] for row in rows):.1%} of a run"


def chosen_device(name: str | None) -> str:
    """``cpu`` or ``cuda``. For ``cpu`` on a machine with a GPU, torch does not see the GPU from here on."""
    if name == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device: got cuda, but torch finds no GPU here; use --device cpu")
    return name or ("cuda" if torch.cuda.is_available() else "cpu")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="folder that prepare wrote")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--student", default="kd", help="key of students in params.yaml, for its network")
    parser.add_argument("--loss", nargs="+", default=["kd"], help=f"losses; several at once: kd+cirkd; or {TEACHER}")
    size = {"type": int, "nargs": 2, "metavar": ("HEIGHT", "WIDTH")}
    parser.add_argument("--crop", **size, help="default: that of the recipe")
    parser.add_argument("--input-size", **size, help="that scale 1 means; default: --crop, else that of params.yaml")
    parser.add_argument("--scale", type=float, nargs=2, default=[0.5, 2.0])
    parser.add_argument("--batch", type=int, help="images per step; default: that of the recipe")
    parser.add_argument("--workers", type=int, nargs="+", help="default: that of the recipe")
    parser.add_argument("--store", nargs="+", choices=STORES)
    parser.add_argument("--count", type=int, help="steps of a measurement")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--items", type=int, help="items of the table of parts; 0: no such table")
    parser.add_argument("--validation-frames", type=int, help="frames of val that are timed")
    parser.add_argument("--threads", type=int, help="of torch in the training process")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: a GPU if there is one")
    parser.add_argument("--tiny", action="store_true", help="few steps on small crops: a dry run")
    parser.add_argument("--json", type=Path, help="JSON file; figures are added to those in it")
    args = parser.parse_args()

    for name, value in {**USUAL, **(TINY if args.tiny else {})}.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


@command
def main() -> None:
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    cv2.setNumThreads(1)
    device = chosen_device(args.device)
    settings, prepared = params.load(args.params, kinds=("models", "losses")), Prepared(args.dataset)
    first = recipe_of(settings, args.loss[0], prepared, args)
    crop = "x".join(map(str, first.crop_size))
    title = f"{prepared.name}, crop {crop}, batch {first.batch_size}, {' '.join(args.loss)}, {device}"
    figures: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "opencv": cv2.__version__,
        "scale": args.scale,
    }
    rows: list[dict[str, Any]] = []
    failures: dict[str, str] = {}

    def record() -> None:
        if args.json:
            known = json.loads(args.json.read_text()) if args.json.exists() else {}
            everything = {**known, title: {**figures, "rows": rows, "failures": failures}}
            artifact.write_text(args.json, artifact.dump_json(everything))

    with tempfile.TemporaryDirectory() as folder:
        splits, decoding = {}, {}
        for store in ("none", *(name for name in args.store if name != "none")):
            start = time.perf_counter()
            splits[store] = open_split(prepared, "train", mode=store, folder=Path(folder), say=print)
            if isinstance(splits[store], Stored):
                for _ in splits[store]:  # fill the file
                    pass
            decoding[store] = round(time.perf_counter() - start, 2)
        figures["store_seconds"] = decoding
        for loss in args.loss:
            try:
                measured = measure(loss, splits, settings=settings, prepared=prepared, args=args, folder=Path(folder))
            except (UserError, torch.OutOfMemoryError) as error:
                failures[loss] = str(error).partition("\n")[0]
                print(f"{loss}: not measured: {failures[loss]}", flush=True)
            else:
                rows += measured
                print(f"{loss}: {summary(measured)}", flush=True)
            record()
            gc.collect()  # the networks of this loss
        if args.items and rows:
            augment = augmentation(first, prepared)
            figures["parts_ms"] = parts(splits, augment, batch=first.batch_size, items=args.items)
            show_parts(title, figures["parts_ms"])
            record()
    if rows:
        show(title, rows)
    if "decoded" in decoding:
        print(f"frames decoded to a file in {decoding['decoded']} s")
    if failures:
        raise UserError("not measured: " + "; ".join(f"{loss}: {reason}" for loss, reason in failures.items()))
    print(summary(rows))


if __name__ == "__main__":
    sys.exit(main())
