"""Compare a training that is killed many times with one that is not interrupted: are the last bits equal?

    python benchmarks/kills.py --kills 20

A student of rendered streets learns by `kd` and `cirkd`, whose memory of teacher vectors fills during training, with an
average of its weights and two loader processes; every step writes a checkpoint. The run is killed (SIGKILL) at random
times, every second time in the middle of writing a checkpoint, and started again until it has been killed often
enough; then it may finish. Every tensor of its last checkpoint (student, adapters, memory, optimiser, average, best
weights) and its curves are compared with those of an undisturbed run. Exit status 1 when anything differs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import load_file

from pipeline import datasets, losses, models
from pipeline.preparation import prepare
from pipeline.prepared import Prepared
from pipeline.training import run
from pipeline.training.distillation import DistillationTask
from pipeline.training.seeding import seed_everything
from pipeline.training.settings import TrainingSettings

FORKED = multiprocessing.get_context("fork")  # new runs import nothing again; this process computes nothing

#: Options of CIRKD: a memory of some MiB, so that writing takes long enough to be killed.
MEMORY = {"pixel_queue": 8000, "region_queue": 500, "pixel_samples": 512, "region_samples": 128}
NETWORK = {
    "architecture": "fpn",
    "encoder": "tu-tf_mobilenetv3_small_minimal_100",
    "options": {"decoder_pyramid_channels": 16, "decoder_segmentation_channels": 32},
}
RECIPE: dict[str, Any] = {
    "input_size": (64, 96), "crop": None, "scale": (0.75, 1.5), "colour_jitter": 0.5, "class_balance": 0.0,
    "batch_size": 4, "accumulate": 2, "seed": 0, "precision": "fp32",
    "optimizer": "adamw", "lr": 2e-3, "lr_factors": {"encoder": 0.5, "head": 1.0, "loss": 1.0}, "momentum": 0.9,
    "weight_decay": 1e-2, "decay_norms": False, "clip_norm": 5.0, "schedule": "poly", "power": 0.9, "warmup": 2,
    "ema": 0.9, "sync_batch_norm": False, "channels_last": False, "compile": False, "validate_every": 4,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, help="of the run; default: enough for all kills")
    parser.add_argument("--seed", type=int, default=0, help="of the times at which it is killed")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    steps = args.steps or 6 * args.kills

    os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker"  # killed loaders leave semaphores, which it clears away
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        _finish(FORKED.Process(target=prepare_data, args=(root / "dataset",)))
        _finish(FORKED.Process(target=train, args=(root / "dataset", root / "alone", steps)))
        chance = random.Random(args.seed)  # noqa: S311
        kills = list(_killed(root / "dataset", root / "killed", steps=steps, kills=args.kills, chance=chance))
        _finish(FORKED.Process(target=train, args=(root / "dataset", root / "killed", steps)))
        differing = differences(root / "alone", root / "killed")
    for number, (step, torn) in enumerate(kills, start=1):
        print(f"kill {number:3}: after checkpoint {step:3} of {steps}{', while writing the next' if torn else ''}")
    facts = {"kills": len(kills), "while_writing": sum(torn for _, torn in kills), "steps": steps, "differs": differing}
    print(
        f"{facts['kills']} kills, {facts['while_writing']} while writing; differs: {', '.join(differing) or 'nothing'}"
    )
    if args.json:
        args.json.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return 1 if differing else 0


def prepare_data(out: Path) -> None:
    options = {"train": 14, "val": 2, "sequence": 0, "size": [64, 96], "seed": 3}
    streets = datasets.build("streets", options)
    prepare.prepare(streets, out, name="streets", options=options, progress=lambda *_: None)


def train(dataset: Path, folder: Path, steps: int) -> None:
    """The run: it resumes from the newest checkpoint in the folder."""
    os.setpgrp()  # its loader processes end with it
    folder.mkdir(exist_ok=True)
    log = (folder / "log").open("a")
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    torch.set_num_threads(1)
    prepared = Prepared(dataset)
    seed_everything(0)
    classes = prepared.labels.num_classes
    student, teacher = (models.build("smp", NETWORK, num_classes=classes) for _ in range(2))
    facts = {**student.facts.offered("student"), **teacher.facts.offered("teacher")}
    loss = losses.build_all({"kd": {}, "cirkd": MEMORY}, steps=steps, num_classes=classes, ignore_index=255, **facts)
    task = DistillationTask(student, teacher, loss, ignore_index=255)
    run.train(
        task, TrainingSettings(**RECIPE, steps=steps), prepared=prepared, inputs={}, title="kills",
        curves=folder / "curves", checkpoints=folder / "checkpoints", checkpoint_seconds=0.0, workers=2,
    )  # fmt: skip


def _finish(process: BaseProcess) -> None:
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"the run ended with status {process.exitcode}; it should not have")


def _killed(
    dataset: Path, folder: Path, *, steps: int, kills: int, chance: random.Random
) -> Iterator[tuple[int, bool]]:
    """Start and kill, at steps spread over the run; gives the newest whole checkpoint at each kill, and whether another
    was being written."""
    for number, target in enumerate(sorted(chance.sample(range(steps - 4), kills))):
        while_writing, before = number % 2 == 1, _torn(folder)
        process = FORKED.Process(target=train, args=(dataset, folder, steps))
        process.start()
        while process.is_alive() and not (_reached(folder) >= target and _torn(folder) - before):
            time.sleep(0.0002)
        if not while_writing:
            time.sleep(chance.random() * 0.4)
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
        if process.exitcode != -signal.SIGKILL:
            said = (folder / "log").read_text(encoding="utf-8")[-2000:]
            raise SystemExit(f"{said}\nthe run ended with status {process.exitcode} before it could be killed")
        yield _reached(folder), bool(_torn(folder))


def _reached(folder: Path) -> int:
    return max((int(path.name[5:]) for path in folder.glob("checkpoints/*/step-*")), default=0)


def _torn(folder: Path) -> set[Path]:
    """Checkpoints that are being written, or were when the run was killed: the next one clears them away."""
    return set(folder.glob("checkpoints/*/.step-*"))


def differences(first: Path, second: Path) -> list[str]:
    """Names of tensors and tables that are not equal to the bit; times are left out."""
    states = [load_file(max(folder.glob("checkpoints/*/step-*/state.safetensors"))) for folder in (first, second)]
    names = sorted({*states[0], *states[1]} - {"seconds"})
    differing = [name for name in names if any(name not in state for state in states)]
    shared = [name for name in names if name not in differing]
    differing += [name for name in shared if states[0][name].tobytes() != states[1][name].tobytes()]
    tables = [{file.name: file.read_bytes() for file in folder.rglob("*.tsv")} for folder in (first, second)]
    if not any("loss.pixels" in name or "parts.cirkd.pixels" in name for name in names):
        differing.append("the memory of CIRKD is missing")
    return differing + [name for name in sorted({*tables[0], *tables[1]}) if tables[0].get(name) != tables[1].get(name)]


if __name__ == "__main__":
    sys.exit(main())
