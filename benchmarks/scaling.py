"""Bytes that processes exchange per step, calculated from params.yaml; and the speed of two processes against one.

    python benchmarks/scaling.py                                  # bytes per step, for the teacher and every student
    python benchmarks/scaling.py --measure artifacts/dataset      # and seconds per step: 1 process, 2 processes

Gradients: DDP adds up every trainable parameter in float32 (ring all-reduce: each process sends and receives
2 (p - 1) / p times their bytes). SyncBN: two values per channel of every batch norm forward, and two backward. Memory
of a loss (CIRKD): the rows that one process's images add, counted in a real step on labels with every class, are sent
to all others. Seconds at a bandwidth are bytes / bandwidth: a lower bound without latency. Gradients are sent during
the backward pass.

The measurement trains the first student that has a teacher for a few steps, in the same order in every round.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline import artifact, losses, models
from pipeline.errors import command
from pipeline.labels import LabelSpec
from pipeline.losses import _queues
from pipeline.prepared import Prepared
from pipeline.settings import loss_mixture, params
from pipeline.training import run
from pipeline.training.distillation import DistillationTask
from pipeline.training.settings import TrainingSettings
from pipeline.training.tasks import SupervisedTask

PROCESSES = (2, 4, 8, 16)
#: GB/s that one process can send: NVLink inside a node, PCIe 4.0 x16, 100 and 10 Gbit/s Ethernet between nodes.
LINKS = {"NVLink": 200.0, "PCIe": 20.0, "100 GbE": 12.5, "10 GbE": 1.25}
MB = 1e6


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--measure", type=Path, help="a prepared data set to train on for a few steps")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    settings = params.load(args.params)
    figures: dict[str, Any] = {"traffic": traffic(settings, args.classes)}
    if args.measure is not None:
        figures["measured"] = measured(args)
    if args.json is not None:
        artifact.write_text(args.json, artifact.dump_json(figures))


def traffic(settings: params.Params, classes: int) -> dict[str, Any]:
    """Bytes exchanged per step, by task; printed as a table."""
    table = Table(title="MB that one process sends per step, and ms at a bandwidth")
    columns = ("task", "parameters", "processes", "images each", "gradients", "SyncBN", "memory", *LINKS)
    for column in columns:
        table.add_column(column, justify="left" if column == "task" else "right")
    by_task = {}
    for name in ("teacher", *settings.students):
        task, recipe = _task(settings, name, classes), settings.distill
        if name == "teacher":
            assert settings.teacher.train is not False
            recipe = settings.teacher.train
        trained = sum(parameter.numel() for parameter in task.parameters() if parameter.requires_grad)
        channels = sum(module.num_features for module in task.modules() if isinstance(module, _BatchNorm))
        rows = _rows_of_an_image(task, recipe.crop or settings.input_size, classes)
        facts = {"parameters": trained, "batch_norm_channels": channels, "memory_bytes_an_image": rows}
        by_task[name] = facts
        for count in (count for count in PROCESSES if recipe.batch_size % count == 0):
            images = recipe.batch_size // count
            gradients = 4 * trained * 2 * (count - 1) / count
            norms = 4 * 4 * channels * (count - 1) if recipe.sync_batch_norm else 0
            memory = rows * images * (count - 1)
            total = gradients + norms + memory
            table.add_row(
                name, f"{trained / 1e6:.2f} M", str(count), str(images),
                *(f"{sent / MB:.1f}" for sent in (gradients, norms, memory)),
                *(f"{1e3 * total / (speed * 1e9):.1f}" for speed in LINKS.values()),
            )  # fmt: skip
    Console(width=140).print(table)
    return by_task


def _task(settings: params.Params, name: str, classes: int) -> SupervisedTask:
    teaching = settings.teacher.model
    bare = {"encoder_weights", "weights", "allow_missing"}
    teacher = models.build(
        teaching.name, {k: v for k, v in teaching.options.items() if k not in bare}, num_classes=classes
    )
    if name == "teacher":
        return SupervisedTask(teacher, ignore_index=255)
    entry = settings.student(name)
    student = models.build(
        entry.model.name, {k: v for k, v in entry.model.options.items() if k not in bare}, num_classes=classes
    )
    facts = {**student.facts.offered("student"), **teacher.facts.offered("teacher")}
    chosen = loss_mixture.resolve(entry.loss, settings.losses)
    loss = losses.build_all(chosen, num_classes=classes, ignore_index=255, steps=1000, **facts)
    return DistillationTask(student, teacher, loss, ignore_index=255)


def _rows_of_an_image(task: SupervisedTask, size: tuple[int, int], classes: int) -> float:
    """Bytes that an image adds to the memory of a loss, counted where processes exchange them."""
    sent: list[int] = []

    def counted(rows: Tensor) -> Tensor:
        sent.append(rows.nbytes)
        return rows

    height, width = (min(side, 256) for side in size)
    target = (torch.arange(width) * classes // width).expand(2, height, width).contiguous()
    with mock.patch.object(_queues, "gather_rows", counted), torch.no_grad():
        task.train()
        task(torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8), target)
    return sum(sent) / 2


def measured(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds per step of one process and of two on this machine; printed."""
    seconds: dict[tuple[int, int], list[float]] = {(1, 2): [], (1, 1): [], (2, 1): []}
    for _ in range(args.rounds):
        for (count, threads), times in seconds.items():
            with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
                free.close()
                context = multiprocessing.get_context("spawn")
                place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
                started = [
                    context.Process(target=_train, args=({**place, "RANK": str(rank)}, threads, Path(folder), args))
                    for rank in range(count)
                ]
                for process in started:
                    process.start()
                for process in started:
                    process.join()
                times.append(json.loads((Path(folder) / "seconds.json").read_text()))
    rows = []
    for (count, threads), times in seconds.items():
        rows.append({"processes": count, "threads": threads, "seconds_per_step": statistics.median(times)})
        print(f"{count} process(es) of {threads} thread(s): {1e3 * statistics.median(times):.0f} ms per step")
    return rows


def _train(place: dict[str, str], threads: int, folder: Path, args: argparse.Namespace) -> None:
    os.environ |= place if place["WORLD_SIZE"] == "1" else {**place, "LOCAL_RANK": place["RANK"]}
    torch.set_num_threads(threads)
    settings, prepared = params.load(args.params), Prepared(args.measure)
    labels: LabelSpec = prepared.labels
    name = next(name for name, entry in settings.students.items() if entry.loss != loss_mixture.NOTHING)
    task = _task(settings, name, labels.num_classes)
    recipe = TrainingSettings.of(settings.distill, images=1, input_size=settings.input_size, seed=0)
    trained = run.train(
        task, replace(recipe, steps=args.steps, validate_every=args.steps), prepared=prepared, inputs={},
        title="scaling", curves=folder / "curves", workers=settings.distill.workers,
    )  # fmt: skip
    if place["RANK"] == "0":
        (folder / "seconds.json").write_text(json.dumps(trained.costs.seconds_per_step))


if __name__ == "__main__":
    sys.exit(main())
