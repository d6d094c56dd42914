"""How much frames without labels help: few labels, few labels and the other frames without labels, all labels.

    python benchmarks/unlabelled.py artifacts/dataset --work .unlabelled                # 3 seeds; hours on 2 cores
    python benchmarks/unlabelled.py artifacts/dataset --work .unlabelled --seeds 0 --json FILE

Every 8th train frame keeps its label (``--keep-every``). The teacher learns from these alone, unless ``--teacher``
names one. Then a student is trained in several ways for the same number of steps, with every seed:

- ``few``: on the frames with labels.
- ``soft``, ``hard``, ``both``: on these and on the other frames without labels, see ``distill.unlabelled.labels``.
- ``all``: on all frames with labels, and the same teacher: what labels for the other frames would give.

The share of the gap that is closed is (way - few) / (all - few), from means over seeds. Student, recipe and losses are
those of params.yaml (``--student``). Runs in ``--work`` that are complete are not repeated, and others resume.

With ``--time STEPS`` no student is trained; steps of each way are timed in turns. On a CPU the time is that of this
process on the CPU: other programs do not count, and one thread is used. ``--losses kd cirkd i2ckd`` times these instead
of the student's loss. ``few`` and ``all`` have the same steps.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from ruamel.yaml import YAML

from pipeline import artifact, models
from pipeline.errors import UserError, command
from pipeline.models.weights import network_artifact
from pipeline.prepared import Prepared, Unlabelled, jpeg_facts
from pipeline.settings import loss_mixture, params
from pipeline.training import data, processes
from pipeline.training.distillation import DistillationTask
from pipeline.training.learner import Learner
from pipeline.training.seeding import seed_everything
from pipeline.training.settings import TrainingSettings
from pipeline.training.unlabelled import ready_for_unlabelled

ROOT = Path(__file__).parents[1]
LABELS = ("soft", "hard", "both")
WAYS = ("few", *LABELS, "all")
WARM_UP = 5  # steps that are not timed


def with_few_labels(prepared: Prepared, out: Path, *, every: int) -> None:
    """Write the data set with every N-th of its train frames, and their pixel counts."""
    names = prepared.splits["train"][::every]
    meta = copy.deepcopy(prepared.artifact.facts)
    meta["splits"]["train"] = names
    train = prepared.split("train")
    counts = np.zeros(256, np.int64)
    for name in names:
        counts += np.bincount(train.label(train.names.index(name)).ravel(), minlength=256)
    meta["class_pixels"]["train"] = counts[: prepared.labels.num_classes].tolist()
    kept = {f"train/{kind}/{name}" for kind in ("images", "labels") for name in names}  # a name may have folders
    files = [
        file for file in prepared.artifact.meta["files"]
        if not file.startswith("train/") or file.rpartition(".")[0] in kept
    ]  # fmt: skip
    meta.pop("jpeg", None)  # its file may have gone
    meta |= jpeg_facts(prepared.artifact.path, files)
    with artifact.create(out, kind="dataset", meta=meta) as folder:
        for file in files:
            artifact.copy_file(prepared.artifact.path / file, folder / file)


def other_frames(prepared: Prepared, out: Path, *, every: int) -> None:
    """Copy the images of the train frames that lose their labels."""
    train = prepared.split("train")
    for index in range(len(train)):
        if index % every:
            file = train.image_file(index)
            artifact.copy_file(file, out / file.relative_to(train.root / "train" / "images"))


def run(stage: str, **options: Any) -> None:
    """Run a stage with its options."""
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    subprocess.run([sys.executable, str(ROOT / "stages" / f"{stage}.py"), *arguments], check=True, cwd=ROOT)


class Work:
    """The folder of a comparison: data sets, teacher and students."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.folder: Path = args.work.resolve()
        self.prepared = Prepared(args.dataset)
        self.args = args
        self.raw: dict[str, Any] = YAML(typ="safe").load(args.params.read_text(encoding="utf-8"))
        if self.raw["distill"]["steps"] is None:
            raise UserError(
                f"{args.params}: distill.steps: got null; the ways are compared with the same number of steps: set it, "
                "and distill.epochs: null"
            )
        self.params: Path = self.folder / "params.yaml"
        self.few, self.frames = self.folder / "few", self.folder / "unlabelled"
        self.teacher = args.teacher or self.folder / "teacher"

    def write_params(self, file: Path, **distill: Any) -> Path:
        changed = copy.deepcopy(self.raw)
        for key, value in distill.items():
            section = changed["distill"].get(key) or {}
            changed["distill"][key] = {**section, **value} if isinstance(value, dict) else value
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w", encoding="utf-8") as stream:
            YAML().dump(changed, stream)
        return file

    def prepare(self) -> None:
        """Data sets and the teacher, as far as they are missing."""
        images = self.folder / "images"
        plain = self.write_params(self.params, unlabelled={"sources": [str(images)]})
        if not self.few.exists():
            with_few_labels(self.prepared, self.few, every=self.args.keep_every)
        if not self.frames.exists():
            other_frames(self.prepared, images, every=self.args.keep_every)
            run("prepare_unlabelled", params=plain, dataset=self.few, out=self.frames)
        if not self.teacher.exists():
            place = self.folder / "checkpoints/teacher"
            run(
                "train_teacher", params=plain, dataset=self.few, curves=self.folder / "curves/teacher",
                checkpoints=place, out=self.teacher,
            )  # fmt: skip

    def student(self, way: str, seed: int) -> dict[str, Any]:
        """Train a student, unless it is there, and read its results."""
        name, key = f"{way}-{seed}", self.args.student
        out, costs = self.folder / "students" / name, self.folder / "costs" / f"{name}.json"
        if not out.exists():
            labels = {"labels": way} if way in LABELS else {}
            file = self.write_params(self.folder / "params" / f"{name}.yaml", seed=seed, unlabelled=labels)
            settings = params.load(file)
            losses = loss_mixture.resolve(settings.student(key).loss, settings.losses)
            loss = self.folder / "losses.json"
            artifact.write_text(loss, artifact.dump_json({"loss": loss_mixture.facts(losses)}))
            frames = {"unlabelled": self.frames} if labels else {}
            run(
                "distill", params=file, student=key, teacher=self.teacher, loss=loss, costs=costs, out=out,
                dataset=self.prepared.artifact.path if way == "all" else self.few, **frames,
                curves=self.folder / "curves" / name, checkpoints=self.folder / "checkpoints" / name,
            )  # fmt: skip
        facts = artifact.load(out, kind="network").meta
        seconds = artifact.read_json(costs, advice=f"remove {out}")["seconds_per_step"]
        results = {"best": facts["metrics"], "last": facts["last"]["metrics"]}
        return {
            "way": way, "seed": seed, "seconds_per_step": seconds, "best_step": facts["best_step"],
            **{f"val_{kind}": metrics["val"]["miou"] for kind, metrics in results.items()},
            "worst_class": min(iou for iou in facts["metrics"]["val"]["per_class_iou"] if iou is not None),
        }  # fmt: skip


def step_times(work: Work, names: Sequence[str], *, ways: Sequence[str], steps: int) -> dict[str, float]:
    """Median milliseconds of an update (loading excluded) by loss and way, and its ratio to that of ``few``."""
    torch.set_num_threads(1)
    settings = params.load(work.params)
    recipe, labels, frames = settings.distill, work.prepared.labels, Unlabelled(work.frames)
    few = Prepared(work.few)
    teacher, _ = network_artifact.load(work.teacher)
    model = settings.student(work.args.student).model
    accelerator = processes.accelerator(precision=recipe.precision)
    runs: dict[tuple[str, str], tuple[Learner, Any]] = {}
    for name, way in itertools.product(names, ways):
        mixed = way in LABELS
        training = TrainingSettings.of(
            recipe, images=len(few.splits["train"]), input_size=settings.input_size, seed=settings.seed,
            share=recipe.unlabelled.share if mixed else 0.0,
        )  # fmt: skip
        training = replace(training, steps=steps + WARM_UP)  # the learning rate has no value after the last step
        seed_everything(settings.seed)
        student = models.build(model.name, model.options, num_classes=labels.num_classes, classes=labels.names)
        task = DistillationTask.on(
            few, student, teacher, loss_mixture.resolve(name.split("+"), settings.losses), steps=training.steps,
            seed=settings.seed, **({"labels": way, "threshold": 0.9, "keep": 0.5} if mixed else {}),
        )  # fmt: skip
        augment = data.augmentation(
            crop=training.crop_size, input_size=settings.input_size, scale=training.scale,
            colour=training.colour_jitter, labels=labels,
        )  # fmt: skip
        task.padding = augment.padding if augment.pads else None
        task.class_weights = data.class_weights(few, balance=training.class_balance)
        crops = data.Crops(few.split("train"), augment, seed=0, unlabelled=frames.split() if mixed else None)
        learner = Learner(task, training, accelerator=accelerator, images=training.batch_size)
        if mixed:
            ready_for_unlabelled(task, training, crops=crops, accelerator=accelerator, names=labels.names)
        draws = data.Draws(
            length=len(crops.split), steps=1, images=training.batch_size, seed=0, unlabelled=len(frames),
            per_update=training.unlabelled_images,
        )  # fmt: skip
        runs[name, way] = learner, next(data.batches(crops, draws, workers=0))
    clock = time.process_time if accelerator.device.type == "cpu" else time.perf_counter
    times: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    for step in range(1, steps + WARM_UP + 1):
        for key, (learner, batch) in runs.items():
            start = clock()
            learner.update([batch], step=step, names=["x"] * len(batch[0]))
            learner.read()
            if step > WARM_UP:
                times[key].append(1e3 * (clock() - start))
    medians = {key: statistics.median(values) for key, values in times.items()}
    table = Table("loss", *ways, title=f"milliseconds per step, {steps} steps, in brackets / few")
    for name in names:
        ratios = (f"{medians[name, way]:.1f} ({medians[name, way] / medians[name, ways[0]]:.3f})" for way in ways)
        table.add_row(name, *ratios)
    Console().print(table)
    return {f"{name}, {way}": round(value, 2) for (name, way), value in medians.items()}


def summary(rows: list[dict[str, Any]], ways: list[str]) -> dict[str, dict[str, float]]:
    """Means over seeds by way, and the share of the gap between ``few`` and ``all`` that a way closes."""
    means = {
        way: {
            key: statistics.mean(row[key] for row in rows if row["way"] == way)
            for key in ("val_best", "val_last", "seconds_per_step")
        }
        for way in ways
    }
    if {"few", "all"} <= set(ways):
        for values in means.values():
            for kind in ("best", "last"):
                gap = means["all"][f"val_{kind}"] - means["few"][f"val_{kind}"]
                if gap:
                    values[f"closed_{kind}"] = (values[f"val_{kind}"] - means["few"][f"val_{kind}"]) / gap
    return means


def show(rows: list[dict[str, Any]], means: dict[str, dict[str, float]], title: str) -> None:
    table = Table("way", "val best", "spread", "val last", "gap closed (best)", "ms / step", title=title)
    for way, values in means.items():
        best = [row["val_best"] for row in rows if row["way"] == way]
        table.add_row(
            way, f"{values['val_best']:.2f}", f"{max(best) - min(best):.2f}", f"{values['val_last']:.2f}",
            f"{values['closed_best']:.0%}" if "closed_best" in values else "",
            f"{1e3 * values['seconds_per_step']:.0f}",
        )  # fmt: skip
    Console().print(table)


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="folder that prepare wrote")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--work", type=Path, required=True, help="folder for data sets and networks")
    parser.add_argument("--student", default="kd", help="key of students in params.yaml")
    parser.add_argument("--teacher", type=Path, help="network artifact; default: one that learns from the few labels")
    parser.add_argument("--keep-every", type=int, default=8, help="every N-th train frame keeps its label")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--time", type=int, metavar="STEPS", help="time that many steps of each way instead")
    parser.add_argument("--losses", nargs="+", default=["kd"], help="of --time; several at once: kd+cirkd")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.keep_every < 2:
        raise UserError(
            f"--keep-every: got {args.keep_every}; allowed: 2 or more, so that some frames lose their labels"
        )

    work = Work(args)
    work.prepare()
    if args.time:
        ways = ["few", *(way for way in args.ways if way in LABELS)]
        times = step_times(work, args.losses, ways=ways, steps=args.time)
        if args.json:
            artifact.write_text(args.json, artifact.dump_json({"milliseconds_per_step": times}))
        return
    rows: list[dict[str, Any]] = []
    for seed in args.seeds:
        for way in args.ways:
            rows.append(work.student(way, seed))
            print(rows[-1], flush=True)
    means = summary(rows, args.ways)
    labelled = len(work.prepared.splits["train"][:: args.keep_every])
    show(rows, means, f"{work.prepared.name}: {labelled} frames with labels, {args.student}, seeds {args.seeds}")
    if args.json:
        teacher = artifact.load(work.teacher, kind="network").meta["metrics"]["val"]["miou"]
        figures = {"rows": rows, "means": means, "teacher_val": teacher, "labelled": labelled}
        artifact.write_text(args.json, artifact.dump_json(figures))


if __name__ == "__main__":
    sys.exit(main())
