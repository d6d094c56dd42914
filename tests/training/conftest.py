"""A prepared data set of a few rendered frames, and small runs on it."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar
from unittest import mock

import pytest
import torch
import torch.multiprocessing as mp
from torch.nn import BatchNorm2d, Dropout2d, Module

from pipeline import artifact, datasets, losses, models
from pipeline.errors import UserError
from pipeline.models import SegNetwork
from pipeline.preparation.prepare import prepare
from pipeline.prepared import UNLABELLED, Prepared, Unlabelled
from pipeline.settings.param_types import FrameLabels, StoreMode
from pipeline.training import run
from pipeline.training.distillation import DistillationTask
from pipeline.training.pseudo_labels import PseudoLabels
from pipeline.training.run import Trained, train
from pipeline.training.seeding import seed_everything
from pipeline.training.settings import TrainingSettings
from pipeline.training.tasks import SupervisedTask

#: Of a run that takes about a second.
SETTINGS = TrainingSettings(
    input_size=(64, 96),
    crop=None,
    scale=(0.75, 1.5),
    colour_jitter=0.5,
    class_balance=0.0,
    batch_size=4,
    accumulate=1,
    steps=4,
    seed=0,
    precision="fp32",
    optimizer="adamw",
    lr=2e-3,
    lr_factors={"encoder": 1.0, "head": 1.0, "loss": 1.0},
    momentum=0.9,
    weight_decay=1e-2,
    decay_norms=True,
    clip_norm=None,
    schedule="poly",
    power=0.9,
    warmup=1,
    ema=None,
    sync_batch_norm=False,
    channels_last=False,
    compile=False,
    validate_every=2,
)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    out: Path = tmp_path_factory.mktemp("data") / "dataset"
    options = {"train": 10, "val": 3, "sequence": 0, "size": [64, 96], "seed": 3}
    prepare(
        datasets.build("streets", options), out, name="streets", options=options, progress=lambda split, total: None
    )
    return Prepared(out)


def without_labels(folder: Path, *, count: int, seed: int) -> Unlabelled:
    """An artifact with rendered frames, without their labels."""
    options = {"train": count, "val": 2, "sequence": 0, "size": [64, 96], "seed": seed}
    streets = datasets.build("streets", options)
    prepare(streets, folder / "labelled", name="streets", options=options, progress=lambda split, total: None)
    rendered = Prepared(folder / "labelled")
    meta = {**rendered.labels.to_meta(), "splits": {UNLABELLED: rendered.splits["train"]}}
    with artifact.create(folder / "frames", kind="unlabelled", meta=meta) as partial_folder:
        shutil.copytree(rendered.artifact.path / "train/images", partial_folder / UNLABELLED / "images")
    return Unlabelled(folder / "frames")


@pytest.fixture(scope="session")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Unlabelled:
    return without_labels(tmp_path_factory.mktemp("unlabelled"), count=7, seed=5)


class Bench:
    """Networks, tasks and runs that take about a second."""

    OPTIONS: ClassVar[dict[str, Any]] = {
        "architecture": "fpn",
        "encoder": "tu-tf_mobilenetv3_small_minimal_100",
        "options": {"decoder_pyramid_channels": 16, "decoder_segmentation_channels": 32},
    }
    #: Options that fit a loss to deepest features of 2 x 3; every other loss runs with its defaults.
    LOSS_OPTIONS: ClassVar[dict[str, dict[str, Any]]] = {"af_dcd": {"pool": 1, "patch": 2}}
    SETTINGS = SETTINGS
    #: AdamW makes steps of full size from gradients that are rounding errors; SGD lets runs be compared.
    SGD: ClassVar[dict[str, Any]] = {"optimizer": "sgd", "lr": 0.05, "warmup": 0}

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared

    def network(self, seed: int = 0) -> SegNetwork:
        seed_everything(seed)
        return models.build("smp", self.OPTIONS, num_classes=self.prepared.labels.num_classes)

    def supervised(self) -> SupervisedTask:
        return SupervisedTask(self.network(), ignore_index=255)

    def loss(self, name: str, student: SegNetwork, teacher: SegNetwork, **options: Any) -> losses.DistillationLoss:
        return losses.build(name, {**self.LOSS_OPTIONS.get(name, {}), **options}, **self.offered(student, teacher))

    def offered(self, student: SegNetwork, teacher: SegNetwork) -> dict[str, Any]:
        """What a run offers to its losses."""
        facts = {**student.facts.offered("student"), **teacher.facts.offered("teacher")}
        return {**facts, "num_classes": 11, "ignore_index": 255, "steps": 4}

    def distillation(self, loss: str, **options: Any) -> DistillationTask:
        teacher, student = self.network(seed=1), self.network(seed=0)
        return DistillationTask(student, teacher, self.loss(loss, student, teacher, **options), ignore_index=255)

    @staticmethod
    def interrupted(task: SupervisedTask, *, after: int) -> Any:
        """While it is active, Ctrl-C comes in the forward pass after so many of the task's class."""
        forward, calls = type(task).forward, []

        def pass_or_interrupt(self: Any, *args: Any, **options: Any) -> Any:
            calls.append(self)
            if len(calls) > after:
                raise KeyboardInterrupt
            return forward(self, *args, **options)

        return mock.patch.object(type(task), "forward", pass_or_interrupt)

    def labelling(self, loss: str, labels: FrameLabels, *, keep: float = 0.5, **options: Any) -> DistillationTask:
        """A distillation that learns from frames without labels, too."""
        teacher, student = self.network(seed=1), self.network(seed=0)
        pseudo = PseudoLabels(num_classes=11, ignore_index=255, threshold=0.9, keep=keep)
        return DistillationTask(
            student, teacher, self.loss(loss, student, teacher, **options), ignore_index=255, labels=labels,
            pseudo=pseudo,
        )  # fmt: skip

    def image_by_image(self, task: SupervisedTask) -> SupervisedTask:
        """The same without dropout, and its batch norm with the statistics it has: what an image gives then hangs on no
        other image and no process."""
        for module in task.network.modules():
            if isinstance(module, Dropout2d):
                module.p = 0.0
            if isinstance(module, BatchNorm2d):
                module.eval()
                module.train = partial(_stay, module)  # type: ignore[method-assign,assignment]
        return task

    def train(
        self,
        task: SupervisedTask,
        curves: Path,
        *,
        inputs: Mapping[str, Any] = MappingProxyType({}),
        checkpoints: Path | None = None,
        checkpoint_seconds: float = 60.0,
        store: StoreMode = "none",
        estimated: bool = False,
        log_every: int | None = None,
        frames: Unlabelled | None = None,
        **changes: Any,
    ) -> Trained:
        """Train with `SETTINGS`, changed; the estimate of the memory, if asked for, takes half of the time."""
        estimate = run.estimate if estimated else mock.Mock(side_effect=UserError("not estimated in this test"))
        with mock.patch.object(run, "estimate", estimate):
            return train(
                task, replace(SETTINGS, **changes), prepared=self.prepared, inputs=inputs, title="test", curves=curves,
                checkpoints=checkpoints, checkpoint_seconds=checkpoint_seconds, store=store,
                log_every=log_every, unlabelled=frames,
            )  # fmt: skip


def in_two_processes(work: Callable[..., None], *arguments: str) -> None:
    """Run ``work(rank, *arguments, port)`` in two processes; each calls :func:`join_the_other` first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = mp.spawn(work, args=(*arguments, port), nprocs=2, join=False)
    until = time.monotonic() + 240
    try:
        while not group.join(timeout=5):
            assert time.monotonic() < until, "the processes wait for each other"
    finally:
        for process in group.processes:
            process.kill()


def join_the_other(rank: int, port: int) -> None:
    """Make this process one of two that train together, with one thread."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)


def _stay(module: Module, mode: bool = True) -> Module:
    return module


@pytest.fixture
def bench(prepared: Prepared) -> Bench:
    return Bench(prepared)
