"""Time and memory of every distillation loss, and CIRKD's mini-batch term against a plain double loop.

    python benchmarks/losses.py                     # every loss at both feature shapes
    python benchmarks/losses.py --size 368 480 --stride 4 8 --batch 16 --precision bf16 --device cuda
    python benchmarks/losses.py --double-loop       # CIRKD's mini-batch term against the formula, pair by pair
    python benchmarks/losses.py --step              # a whole training step with a ResNet-18 student; takes --size too
    python benchmarks/losses.py --crops             # CIRKD on 8 crops of 512x512, features at stride 8
    python benchmarks/losses.py --compile           # every loss as it is and under torch.compile
    python benchmarks/losses.py --auto              # what weights that fit themselves add to a training step
    python benchmarks/losses.py ... --json FILE     # the figures, added to those in FILE after each round
    python benchmarks/losses.py --tiny              # a dry run, seconds

Seconds are medians of forward and backward; in each round every variant runs once, so that a busy machine hits all of
them alike. ``of kd's step`` is the time of the loss alone as a share of a whole training step with kd, on images of
that size (sides rounded up to multiples of 16): the step of ``--step``, with logits and embedding at stride 4. Memory
is the growth of the peak over the memory before, in MiB: of CUDA's allocations on a GPU, else of a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pipeline import artifact, losses, models, plugins
from pipeline.errors import UserError, command
from pipeline.losses._numerics import unit
from pipeline.losses._queues import ClassQueues
from pipeline.losses._similarity import relation_kl
from pipeline.losses._weights import TermWeight, options_of
from pipeline.models import SegOutput
from pipeline.training.balance import Balance
from pipeline.training.costs import peak_resident, reset_peak
from pipeline.training.distillation import DistillationTask
from pipeline.training.evaluation import check_size

C_S, C_T = 128, 256
STEP_DIVISOR = 16  # of the sides of a training step's images
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TEMPERATURE = 0.1


class Shape(NamedTuple):
    """Shape of feature maps, or of images, where ``stride`` has no meaning."""

    images: int
    height: int
    width: int
    classes: int
    stride: int = 8  # image pixels per feature pixel

    @property
    def of_images(self) -> Shape:
        """Of images with such features, or with a few pixels more: the networks of a step need multiples of 16."""
        height, width = (-(-side * self.stride // STEP_DIVISOR) * STEP_DIVISOR for side in (self.height, self.width))
        return self._replace(height=height, width=width)


class Place(NamedTuple):
    """Where the work runs, and its precision: a key of ``DTYPES``. Gradients in fp16 are not scaled."""

    device: str
    precision: str

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.precision]

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device, self.dtype, enabled=self.precision != "fp32")


SHAPES = {"8x45x60": Shape(8, 45, 60, 11), "2x64x128": Shape(2, 64, 128, 19)}
CROPS = Shape(8, 64, 64, 19)
CLASSES = 11  # of --size
SMALL_MAPS: dict[str, dict[str, Any]] = {"af_dcd": {"pool": 1}}  # the last stage of such crops has 4 x 6 pixels
STEP = (8, 128, 192)  # images, height, width of the crops of a training step, unless --batch and --size name others
AUTO_STEPS = (300, 40000)  # of trainings, for the mean cost of weights that fit themselves
Work = Callable[[], None]


def outputs(shape: Shape, place: Place) -> tuple[SegOutput, SegOutput, Tensor]:
    """Student, teacher and labels at random for each feature pixel, a tenth of them ignored."""
    torch.manual_seed(0)
    size, device = (shape.height, shape.width), place.device

    def output(channels: int) -> SegOutput:
        feature = torch.randn(shape.images, channels, *size, device=device, dtype=place.dtype).relu()
        logits = torch.randn(shape.images, shape.classes, *size, device=device, dtype=place.dtype)
        return SegOutput(logits=logits, embedding=feature, stages=(feature,))

    labels = torch.randint(0, shape.classes, (shape.images, *size), device=device)
    labels[torch.rand(labels.shape, device=device) < 0.1] = 255
    target = labels.repeat_interleave(shape.stride, dim=1).repeat_interleave(shape.stride, dim=2)
    return output(C_S).map(Tensor.requires_grad_), output(C_T), target


def loss_work(name: str, shape: Shape, place: Place, *, compiled: bool = False) -> Work:
    student, teacher, target = outputs(shape, place)
    loss = losses.build(
        name,
        {},
        num_classes=shape.classes,
        ignore_index=255,
        student_channels=C_S,
        teacher_channels=C_T,
        student_stage_channels=(C_S,),
        teacher_stage_channels=(C_T,),
        student_output_stride=shape.stride,
        teacher_output_stride=shape.stride,
        steps=1000,
    ).to(place.device)
    fill(loss)
    if compiled:
        loss.compile()

    def work() -> None:
        with place.autocast():
            terms = loss(student, teacher, target)
        torch.stack([term.float() for term in terms.values()]).sum().backward()

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


def pair_work(name: str, shape: Shape, place: Place) -> Work:
    student, teacher, _ = outputs(shape, place)
    return lambda: PAIRS[name](student.embedding, teacher.embedding).backward()


def step_work(name: str, shape: Shape, place: Place, *, auto: bool = False) -> Work:
    """A training step: student and teacher DeepLabV3+ with ResNet-18 and ResNet-34, losses, backward, AdamW.

    Args:
        name: of a loss, or of several (``kd+fitnet``).
        auto: every weight that is not 0 fits itself, and the step is one that measures.
    """
    torch.manual_seed(0)
    options = {"architecture": "deeplabv3plus", "encoder_weights": None}
    student = models.build("smp", {**options, "encoder": "resnet18"}, num_classes=shape.classes)
    teacher = models.build("smp", {**options, "encoder": "resnet34"}, num_classes=shape.classes)
    offered = {"num_classes": shape.classes, "ignore_index": 255, "steps": 1000}
    check_size("--size", (shape.height, shape.width), student)
    facts = {**student.facts.offered("student"), **teacher.facts.offered("teacher")}
    mixture = {each: {**SMALL_MAPS.get(each, {}), **(all_auto(each) if auto else {})} for each in name.split("+")}
    loss = losses.build_all(mixture, **offered, **facts)
    fill(loss)
    device = place.device
    task = DistillationTask(student, teacher, loss, ignore_index=255).to(device).train()
    optimiser = torch.optim.AdamW(task.parameters())
    x = torch.randint(0, 256, (shape.images, 3, shape.height, shape.width), dtype=torch.uint8, device=device)
    target = torch.randint(0, shape.classes, (shape.images, shape.height // 16, shape.width // 16), device=device)
    target = target.repeat_interleave(16, dim=1).repeat_interleave(16, dim=2)

    def work() -> None:
        optimiser.zero_grad()
        with place.autocast():
            total = task(x, target)["loss"]
        total.backward()
        task.finish()
        optimiser.step()

    return work


def all_auto(name: str) -> dict[str, str]:
    """Options of a loss with which the weight of every term fits itself."""
    weights = options_of(plugins.keys(plugins.load("losses", name)))
    return {key: "auto" for key, default in weights.items() if default}


KD_STEP = "kd's step"
WORK = {"loss": loss_work, "pair": pair_work, "step": step_work}


def seconds(work: dict[str, Work], *, rounds: int, device: str) -> Iterator[dict[str, float]]:
    """After each round the median of each so far, the variants taking turns; the first round is a warm-up.

    What does not fit into the memory of the GPU is removed from ``work``.
    """
    times: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, run in list(work.items()):
            start = time.perf_counter()
            try:
                run()
            except torch.OutOfMemoryError:
                del work[name]
                continue
            if device == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
        if number:
            yield {name: statistics.median(times[name][1:]) for name in work}


def peak(kind: str, name: str, shape: Shape, place: Place) -> float:
    """Growth of memory in one run, in MiB."""
    WORK[kind](name, Shape(2, 64, 64, shape.classes), place)()  # libraries and kernels are in memory
    work = WORK[kind](name, shape, place)
    if place.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    reset_peak()
    before = peak_resident()
    work()
    return (peak_resident() - before) / 2**20


def memory_of(kind: str, name: str, shape: Shape, place: Place) -> float:
    """:func:`peak`, on a CPU in a process of its own."""
    if place.device == "cuda":
        return peak(kind, name, shape, place)
    arguments = ["--peak", kind, name, *map(str, shape), "--device", place.device, "--precision", place.precision]
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{kind} {name}: failed with status {done.returncode}:\n{done.stderr}")
    return float(done.stdout.split()[-1])


def measure_compiled(names: list[str], shape: Shape, *, rounds: int, place: Place) -> list[dict[str, Any]]:
    """Seconds of each loss as it is and compiled, and of the first compiled call."""
    rows = []
    for name in names:
        compiled = loss_work(name, shape, place, compiled=True)
        start = time.perf_counter()
        try:
            compiled()
        except torch._dynamo.exc.TorchDynamoException as error:
            rows.append({"name": name, "fails": str(error).splitlines()[0]})
            continue
        first = time.perf_counter() - start
        work = {"plain": loss_work(name, shape, place), "compiled": compiled}
        *_, medians = seconds(work, rounds=rounds, device=place.device)
        rows.append({"name": name, **medians, "first": first})
    return rows


def measure_auto(names: list[str], shape: Shape, *, rounds: int, place: Place) -> list[dict[str, Any]]:
    """Seconds of a step and of one that measures, and what this adds to the mean step of a training, in percent."""
    rows = []
    for name in names:
        work = {"plain": step_work(name, shape, place), "measuring": step_work(name, shape, place, auto=True)}
        *_, medians = seconds(work, rounds=rounds, device=place.device)
        extra = medians["measuring"] / medians["plain"] - 1
        adds = {f"of_{steps}": round(100 * extra * measured_steps(steps) / steps, 2) for steps in AUTO_STEPS}
        rows.append({"name": name, **medians, **adds})
    return rows


def measured_steps(steps: int) -> int:
    """Steps of a training that are measured."""
    balance = Balance({"term": TermWeight(1.0, share=0.5)})
    count = 0
    for step in range(1, steps + 1):
        balance.begin(step, steps=steps)
        count += balance.measures
    return count


def show_auto(title: str, rows: list[dict[str, Any]]) -> None:
    trainings = [f"of {steps} steps, %" for steps in AUTO_STEPS]
    table = Table("", "step s", "measuring s", "adds %", *trainings, title=title)
    for row in rows:
        extra = 100 * (row["measuring"] / row["plain"] - 1)
        adds = (f"{row[f'of_{steps}']:.2f}" for steps in AUTO_STEPS)
        table.add_row(row["name"], f"{row['plain']:.4f}", f"{row['measuring']:.4f}", f"{extra:.1f}", *adds)
    Console().print(table)


def show_compiled(title: str, rows: list[dict[str, Any]]) -> None:
    table = Table("", "plain s", "compiled s", "faster", "first call s", title=title)
    for row in rows:
        if "fails" in row:
            table.add_row(row["name"], "-", row["fails"])
            continue
        times = (f"{row[key]:.4f}" for key in ("plain", "compiled"))
        table.add_row(row["name"], *times, f"{row['plain'] / row['compiled']:.2f}x", f"{row['first']:.1f}")
    Console().print(table)


def measure(
    kind: str, names: list[str], shape: Shape, *, rounds: int, place: Place, memory: bool
) -> Iterator[list[dict[str, Any]]]:
    """Rows after each round: ``seconds``, for a loss its share of kd's whole step, and at the end ``mib``."""
    work: dict[str, Work] = {}
    for name in names:
        with contextlib.suppress(torch.OutOfMemoryError):
            work[name] = WORK[kind](name, shape, place)
    if kind == "loss":
        with contextlib.suppress(torch.OutOfMemoryError):
            work[KD_STEP] = step_work("kd", shape.of_images, place)
    rows: list[dict[str, Any]] = []
    for medians in seconds(work, rounds=rounds, device=place.device):
        rows = [
            {"name": name, "seconds": round(medians[name], 6)}
            if name in medians
            else {"name": name, "fails": "out of memory"}
            for name in names
        ]
        for row in rows:
            if KD_STEP in medians and "seconds" in row:
                row["of_kd_step"] = round(row["seconds"] / medians[KD_STEP], 4)
        yield rows
    work.clear()
    for row in rows:
        if memory and "seconds" in row:
            with contextlib.suppress(torch.OutOfMemoryError):
                row["mib"] = round(memory_of(kind, row["name"], shape, place), 1)
    yield rows


def show(title: str, rows: list[dict[str, Any]], *, base: str) -> None:
    reference = next(row for row in rows if row["name"] == base)
    columns = ["of kd's step"] if any("of_kd_step" in row for row in rows) else []
    table = Table("", "seconds", f"x {base}", *columns, "extra MiB", f"x {base}", title=title)
    for row in rows:
        if "fails" in row:
            table.add_row(row["name"], row["fails"])
            continue
        times, mib = ratio(row, reference, "seconds"), ratio(row, reference, "mib")
        share = [f"{row['of_kd_step']:.1%}" if "of_kd_step" in row else ""] if columns else []
        table.add_row(row["name"], f"{row['seconds']:.4f}", times, *share, f"{row['mib']:.0f}" if mib else "-", mib)
    Console().print(table)


def ratio(row: dict[str, Any], reference: dict[str, Any], key: str) -> str:
    """A figure as a multiple of the reference; empty where one of them is missing."""
    if key not in row:
        return ""
    return f"{row[key] / reference[key]:.2f}" if reference.get(key) else "-"


def summary(rows: list[dict[str, Any]]) -> str:
    """The slowest losses first, in one line: as shares of kd's whole step, or whole steps as multiples of it."""
    measured = sorted((row for row in rows if "seconds" in row), key=lambda row: -row["seconds"])
    kd = next((row["seconds"] for row in measured if row["name"] == "kd"), None)
    if any("of_kd_step" in row for row in measured):
        return "loss alone / kd's step: " + ", ".join(f"{row['name']} {row['of_kd_step']:.2f}" for row in measured)
    return "x kd: " + ", ".join(f"{row['name']} {row['seconds'] / kd:.2f}" for row in measured if kd)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--double-loop", action="store_true")
    parser.add_argument("--step", action="store_true")
    parser.add_argument("--crops", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--auto", action="store_true")
    parser.add_argument("--losses", nargs="+", default=[name for name in losses.available() if name != "none"])
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="of the images")
    parser.add_argument("--stride", type=int, nargs="+", default=[8], help="of the features, with --size")
    parser.add_argument("--batch", type=int, help="images, with --size")
    parser.add_argument("--precision", choices=list(DTYPES), default="fp32", help="bf16, fp16: autocast")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--no-memory", action="store_true", help="measure the time only")
    parser.add_argument("--tiny", action="store_true", help="one round of two small images: a dry run")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak", nargs=7, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.tiny:
        args.size, args.batch, args.rounds, args.no_memory = STEP[1:], 2, 1, True
    return args


def shapes(args: argparse.Namespace) -> dict[str, Shape]:
    """Feature shapes by title.

    Raises:
        UserError: the size is not a multiple of a stride.
    """
    if not args.size:
        return SHAPES
    height, width = args.size
    images = args.batch or STEP[0]
    if uneven := [stride for stride in args.stride if height % stride or width % stride]:
        raise UserError(f"--size: got {height} {width}; needed: multiples of each --stride, and so of {uneven[0]}")
    return {
        f"{images}x{height}x{width}, stride {stride}": Shape(images, height // stride, width // stride, CLASSES, stride)
        for stride in args.stride
    }


@command
def main() -> None:
    args = arguments()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device: got cuda, but torch finds no GPU here; use --device cpu")
    place = Place(args.device, args.precision)
    if args.peak:
        kind, name, *numbers = args.peak
        print(peak(kind, name, Shape(*map(int, numbers)), place))
        return
    facts = {
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        "precision": args.precision,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }

    def record(key: str, rows: list[dict[str, Any]]) -> None:
        if args.json:
            known = json.loads(args.json.read_text()) if args.json.exists() else {}
            artifact.write_text(args.json, artifact.dump_json({**known, key: {**facts, "rows": rows}}))

    def run(kind: str, what: list[str], shape: Shape, *, key: str, title: str, base: str = "kd") -> None:
        rows: list[dict[str, Any]] = []
        for rows in measure(kind, what, shape, rounds=args.rounds, place=place, memory=not args.no_memory):
            record(key, rows)
        show(title, rows, base=base)
        if base == "kd":
            print(f"{title}: {summary(rows)}", flush=True)

    names = list(dict.fromkeys(["kd", *args.losses]))
    if args.double_loop:
        for at, shape in SHAPES.items():
            title = f"CIRKD's mini-batch term, all pairs of {at}"
            run("pair", list(PAIRS), shape, key=f"double loop {at}", title=title, base="blocks")
    elif args.step:
        images = (args.batch or STEP[0], *(args.size or STEP[1:]))
        size = "x".join(map(str, images))
        key = f"step {size}" if args.size else "step"
        run("step", names, Shape(*images, CLASSES), key=key, title=f"training step, ResNet-18 student, {size}")
    elif args.auto:
        images = (args.batch or STEP[0], *(args.size or STEP[1:]))
        rows = measure_auto([*names, "kd+fitnet"], Shape(*images, CLASSES), rounds=args.rounds, place=place)
        show_auto(f"steps that measure for the weight auto, {'x'.join(map(str, images))}", rows)
        record("auto", rows)
    elif args.crops:
        run("loss", ["kd", "cirkd"], CROPS, key="crops", title="8 crops of 512x512, features at stride 8")
    elif args.compile:
        rows = measure_compiled(names, SHAPES["8x45x60"], rounds=args.rounds, place=place)
        show_compiled("torch.compile, forward and backward, 8x45x60", rows)
        record("compile", rows)
    else:
        for at, shape in shapes(args).items():
            title = f"losses, forward and backward, {at}, {C_S}/{C_T} channels"
            run("loss", names, shape, key=f"losses {at}", title=title)


if __name__ == "__main__":
    sys.exit(main())
