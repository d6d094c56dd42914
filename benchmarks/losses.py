"""Time and memory of every distillation loss, and CIRKD's mini-batch term against a plain double loop.

    python benchmarks/losses.py                     # every loss at both feature shapes
    python benchmarks/losses.py --double-loop       # CIRKD's mini-batch term against the formula, pair by pair
    python benchmarks/losses.py --step              # a whole training step with a ResNet-18 student
    python benchmarks/losses.py --crops             # CIRKD on 8 crops of 512x512, features at stride 8
    python benchmarks/losses.py --compile           # every loss as it is and under torch.compile
    python benchmarks/losses.py ... --json FILE     # the figures, added to those in FILE

Seconds are medians of forward and backward; in each round every variant runs once, so that a busy machine hits all of
them alike. Memory is the growth of the process's peak (of CUDA's, on a GPU) over its memory before, in MiB,
measured in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pipeline import artifact, losses, models
from pipeline.errors import UserError, command
from pipeline.losses._numerics import unit
from pipeline.losses._queues import ClassQueues
from pipeline.losses._similarity import relation_kl
from pipeline.models import SegOutput
from pipeline.training.costs import peak_resident, reset_peak
from pipeline.training.distillation import DistillationTask

C_S, C_T = 128, 256
TEMPERATURE = 0.1


class Shape(NamedTuple):
    images: int
    height: int
    width: int
    classes: int


SHAPES = {"8x45x60": Shape(8, 45, 60, 11), "2x64x128": Shape(2, 64, 128, 19)}
CROPS = Shape(8, 64, 64, 19)
SMALL_MAPS: dict[str, dict[str, Any]] = {"af_dcd": {"pool": 1}}  # the last stage of such crops has 4 x 6 pixels
STEP = (8, 128, 192)  # images, height, width of the crops of a training step
Work = Callable[[], None]


def outputs(shape: Shape, device: str) -> tuple[SegOutput, SegOutput, Tensor]:
    """Student, teacher and labels at random for each feature pixel (8 x 8 image pixels), a tenth of them ignored."""
    torch.manual_seed(0)
    size = (shape.height, shape.width)

    def output(channels: int) -> SegOutput:
        feature = torch.randn(shape.images, channels, *size, device=device).relu()
        logits = torch.randn(shape.images, shape.classes, *size, device=device)
        return SegOutput(logits=logits, embedding=feature, stages=(feature,))

    labels = torch.randint(0, shape.classes, (shape.images, *size), device=device)
    labels[torch.rand(labels.shape, device=device) < 0.1] = 255
    target = labels.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
    return output(C_S).map(Tensor.requires_grad_), output(C_T), target


def loss_work(name: str, shape: Shape, device: str, *, compiled: bool = False) -> Work:
    student, teacher, target = outputs(shape, device)
    loss = losses.build(
        name,
        {},
        num_classes=shape.classes,
        ignore_index=255,
        student_channels=C_S,
        teacher_channels=C_T,
        student_stage_channels=(C_S,),
        teacher_stage_channels=(C_T,),
        steps=1000,
    ).to(device)
    fill(loss)
    if compiled:
        loss.compile()

    def work() -> None:
        torch.stack(list(loss(student, teacher, target).values())).sum().backward()

    return work


def fill(loss: losses.DistillationLoss) -> None:
    """Memories as late in a training: full."""
    for part in loss.modules():
        if isinstance(part, ClassQueues):
            part.vectors.normal_()
            part.filled.fill_(part.length)


def double_loop(student: Tensor, teacher: Tensor) -> Tensor:
    """The mini-batch term as in the formula, image pair by image pair, with plain autograd."""
    f_s, f_t = unit(student).flatten(2), unit(teacher).flatten(2)
    total = student.new_zeros(())
    for i in range(len(f_s)):
        for j in range(len(f_s)):
            s = (f_s[i].T @ f_s[j] / TEMPERATURE).log_softmax(dim=1)
            t = (f_t[i].T @ f_t[j] / TEMPERATURE).softmax(dim=1)
            total = total + torch.nn.functional.kl_div(s, t, reduction="sum") / len(s)
    return total / len(f_s) ** 2


def blocks(student: Tensor, teacher: Tensor) -> Tensor:
    f_s, f_t = unit(student).flatten(2), unit(teacher).flatten(2)
    return relation_kl(f_s, f_t, temperature=TEMPERATURE, group=len(f_s))


PAIRS = {"double loop": double_loop, "blocks": blocks}


def pair_work(name: str, shape: Shape, device: str) -> Work:
    student, teacher, _ = outputs(shape, device)
    return lambda: PAIRS[name](student.embedding, teacher.embedding).backward()


def step_work(name: str, shape: Shape, device: str) -> Work:
    """A training step: student and teacher DeepLabV3+ with ResNet-18 and ResNet-34, loss, backward, AdamW."""
    torch.manual_seed(0)
    options = {"architecture": "deeplabv3plus", "encoder_weights": None}
    student = models.build("smp", {**options, "encoder": "resnet18"}, num_classes=shape.classes)
    teacher = models.build("smp", {**options, "encoder": "resnet34"}, num_classes=shape.classes)
    offered = {"num_classes": shape.classes, "ignore_index": 255, "steps": 1000}
    facts = {**student.facts.offered("student"), **teacher.facts.offered("teacher")}
    loss = losses.build(name, SMALL_MAPS.get(name, {}), **offered, **facts)
    fill(loss)
    task = DistillationTask(student, teacher, loss, ignore_index=255).to(device).train()
    optimiser = torch.optim.AdamW(task.parameters())
    x = torch.randn(shape.images, 3, shape.height, shape.width, device=device)
    target = torch.randint(0, shape.classes, (shape.images, shape.height // 16, shape.width // 16), device=device)
    target = target.repeat_interleave(16, dim=1).repeat_interleave(16, dim=2)

    def work() -> None:
        optimiser.zero_grad()
        task(x, target)["loss"].backward()
        optimiser.step()

    return work


WORK = {"loss": loss_work, "pair": pair_work, "step": step_work}


def seconds(work: dict[str, Work], *, rounds: int, device: str) -> dict[str, float]:
    """Median of each, the variants taking turns; the first round is a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds + 1):
        for name, run in work.items():
            start = time.perf_counter()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def peak(kind: str, name: str, shape: Shape, device: str) -> float:
    """Growth of memory in one run, in MiB."""
    WORK[kind](name, Shape(2, 64, 64, shape.classes), device)()  # libraries and kernels are in memory
    work = WORK[kind](name, shape, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    reset_peak()
    before = peak_resident()
    work()
    return (peak_resident() - before) / 2**20


def peak_elsewhere(kind: str, name: str, shape: Shape, device: str) -> float:
    arguments = ["--peak", kind, name, *map(str, shape), "--device", device]
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{kind} {name}: failed with status {done.returncode}:\n{done.stderr}")
    return float(done.stdout.split()[-1])


def measure_compiled(names: list[str], shape: Shape, *, rounds: int, device: str) -> list[dict[str, Any]]:
    """Seconds of each loss as it is and compiled, and of the first compiled call."""
    rows = []
    for name in names:
        compiled = loss_work(name, shape, device, compiled=True)
        start = time.perf_counter()
        try:
            compiled()
        except torch._dynamo.exc.TorchDynamoException as error:
            rows.append({"name": name, "fails": str(error).splitlines()[0]})
            continue
        first = time.perf_counter() - start
        work = {"plain": loss_work(name, shape, device), "compiled": compiled}
        rows.append({"name": name, **seconds(work, rounds=rounds, device=device), "first": first})
    return rows


def show_compiled(title: str, rows: list[dict[str, Any]]) -> None:
    table = Table("", "plain s", "compiled s", "faster", "first call s", title=title)
    for row in rows:
        if "fails" in row:
            table.add_row(row["name"], "-", row["fails"])
            continue
        times = (f"{row[key]:.4f}" for key in ("plain", "compiled"))
        table.add_row(row["name"], *times, f"{row['plain'] / row['compiled']:.2f}x", f"{row['first']:.1f}")
    Console().print(table)


def measure(kind: str, names: list[str], shape: Shape, *, rounds: int, device: str) -> list[dict[str, Any]]:
    memory = {name: peak_elsewhere(kind, name, shape, device) for name in names}
    time_of = seconds({name: WORK[kind](name, shape, device) for name in names}, rounds=rounds, device=device)
    return [{"name": name, "seconds": round(time_of[name], 4), "mib": round(memory[name], 1)} for name in names]


def show(title: str, rows: list[dict[str, Any]], *, base: str) -> None:
    reference = next(row for row in rows if row["name"] == base)
    table = Table("", "seconds", f"x {base}", "extra MiB", f"x {base}", title=title)
    for row in rows:
        ratios = (f"{row[key] / reference[key]:.2f}" if reference[key] else "-" for key in ("seconds", "mib"))
        table.add_row(row["name"], f"{row['seconds']:.4f}", next(ratios), f"{row['mib']:.0f}", next(ratios))
    Console().print(table)


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--double-loop", action="store_true")
    parser.add_argument("--step", action="store_true")
    parser.add_argument("--crops", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--losses", nargs="+", default=[name for name in losses.available() if name != "none"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak", nargs=6, help=argparse.SUPPRESS)
    args = parser.parse_args()

    if args.peak:
        kind, name, *numbers = args.peak
        print(peak(kind, name, Shape(*map(int, numbers)), args.device))
        return
    figures: dict[str, Any] = {}
    names = list(dict.fromkeys(["kd", *args.losses]))
    if args.double_loop:
        for title, shape in SHAPES.items():
            rows = measure("pair", list(PAIRS), shape, rounds=args.rounds, device=args.device)
            show(f"CIRKD's mini-batch term, all pairs of {title}", rows, base="blocks")
            figures[f"double loop {title}"] = rows
    elif args.step:
        shape = Shape(*STEP, classes=11)
        rows = measure("step", names, shape, rounds=args.rounds, device=args.device)
        show(f"training step, ResNet-18 student, {'x'.join(map(str, STEP))}", rows, base="kd")
        figures["step"] = rows
    elif args.crops:
        rows = measure("loss", ["kd", "cirkd"], CROPS, rounds=args.rounds, device=args.device)
        show("8 crops of 512x512, features at stride 8", rows, base="kd")
        figures["crops"] = rows
    elif args.compile:
        shape = SHAPES["8x45x60"]
        rows = measure_compiled(names, shape, rounds=args.rounds, device=args.device)
        show_compiled("torch.compile, forward and backward, 8x45x60", rows)
        figures["compile"] = rows
    else:
        for title, shape in SHAPES.items():
            rows = measure("loss", names, shape, rounds=args.rounds, device=args.device)
            show(f"losses, forward and backward, {title}, {C_S}/{C_T} channels", rows, base="kd")
            figures[f"losses {title}"] = rows
    if args.json:
        known = json.loads(args.json.read_text()) if args.json.exists() else {}
        facts = {"device": args.device, "threads": torch.get_num_threads(), "torch": torch.__version__}
        artifact.write_text(
            args.json, artifact.dump_json({**known, **{k: {**facts, "rows": v} for k, v in figures.items()}})
        )


if __name__ == "__main__":
    sys.exit(main())
