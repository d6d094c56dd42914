"""Train one student with every loss of `compare` in params.yaml: same teacher, same budget, several seeds.

The budget is the same number of steps, or with `compare.budget: minutes` the same time: every loss first trains for
some steps, and the time of a step says how many steps it has. Best and last weights are reported; on data that are not
rendered, every run is quantised and checked too.

The teacher and the frames without labels are first updated in the workspace. Each run is a DVC experiment in a
temporary folder; a finished run with the same data, code and params comes from DVC's run cache in seconds, a measured
time of a step as well. After an interruption run the command again. Each run adds to results/comparison.json, for the
report. The command needs a git checkout in which git tracks every file of pipeline/ and stages/.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline import artifact
from pipeline.artifact import dump_json, write_text
from pipeline.errors import UserError
from pipeline.prepared import Prepared
from pipeline.reporting import comparison, comparison_table
from pipeline.reporting.comparison import BASELINE, Curve, Measured, Run, summarise
from pipeline.reporting.limits import RENDERED
from pipeline.settings import loss_mixture, params
from pipeline.settings.params import Params
from pipeline.verbs import _experiments, new_parser
from pipeline.verbs._equal_minutes import Changes, lengths, strayed

TEACHER, DATASET = Path("artifacts/teacher"), Path("artifacts/dataset")
#: Table of mIoU on val at each validation, in the folder of a training's curves.
CURVE = "plots/metrics/val/miou.tsv"
#: Params with which `check` measures hardly any latency.
HARDLY_TIMED: Changes = {"check.warmup": 0, "check.runs": 10, "check.seconds": 0.0}
#: Stages that run once in the workspace: a temporary folder does not have the files of relative paths in params.yaml.
SHARED = ("prepare_unlabelled", "train_teacher")


def with_int8(settings: Params) -> bool:
    """Whether every run is quantised and checked. On rendered images, what INT8 costs says little about cameras."""
    asked = settings.compare.int8
    return settings.dataset not in RENDERED if asked is None else asked


def measure(name: str, seed: int, *, settings: Params, changes: Changes) -> tuple[Run, dict[str, Any], bool]:
    """Train the student with a loss, or read a finished run from DVC's run cache.

    Args:
        name: of the loss in ``compare.losses``.
        changes: of params, beside loss and seed.

    Returns:
        the run, the facts that must be the same in all runs, and whether it was trained now.
    """
    chosen, int8 = settings.compare, with_int8(settings)
    student, split = chosen.student, chosen.split
    changed = {f"students.{student}.loss": chosen.losses[name], "distill.seed": seed, **changes}
    if int8:
        changed |= _checked(settings)
    stage = f"check@{student}" if int8 else f"distill@{student}"
    commit, trained = _experiments.run(f"compare-{name}-{seed}", target=stage, params=changed)
    network = _experiments.read(commit, f"artifacts/students/{student}/meta.json")
    teacher = _experiments.read(commit, f"{TEACHER}/meta.json")
    costs = _experiments.read(commit, f"artifacts/costs/{student}.json")
    results = _experiments.read(commit, f"results/{student}.json") if int8 else None
    curve = _experiments.read_text(commit, f"artifacts/curves/{student}/{CURVE}")
    return *facts_of(network, teacher=teacher, costs=costs, results=results, curve=curve, split=split), trained


def facts_of(
    network: Mapping[str, Any],
    *,
    teacher: Mapping[str, Any],
    costs: Mapping[str, Any],
    results: Mapping[str, Any] | None,
    curve: str,
    split: str,
) -> tuple[Run, dict[str, Any]]:
    """A run, and the facts that all runs of a comparison share, from the JSON files of its stages.

    Args:
        network, teacher: meta.json of both networks.
        costs: of the training.
        results: of ``check``; None: INT8 was not checked.
        curve: content of the table ``CURVE``.
    """
    run = Run(
        best=_measured(network["metrics"][split]),
        last=_measured(network["last"]["metrics"][split]),
        int8=_measured(results["variants"]["int8"]) if results else None,
        int8_drop=results["drop"]["classes"] if results else (),
        curve=_curve(curve),
        **{key: costs[key] for key in ("seconds_per_step", "training_seconds", "peak_memory_mib")},
    )
    common = {
        "classes": network["classes"],
        "dataset_sha256": network["parents"]["dataset"],
        "teacher": {"miou": teacher["metrics"][split]["miou"], "sha256": network["parents"]["teacher"]},
        "device": costs["device"],
    }
    return run, common


def _measured(metrics: Mapping[str, Any]) -> Measured:
    return Measured(miou=metrics["miou"], per_class_iou=metrics["per_class_iou"])


def _curve(table: str) -> Curve:
    """mIoU by step, from the table that DVCLive wrote: a line of titles, then one line per validation."""
    rows = [line.split("\t") for line in table.splitlines()[1:]]
    return Curve(steps=tuple(int(step) for step, _ in rows), miou=tuple(float(miou) for _, miou in rows))


def _checked(settings: Params) -> Changes:
    """Params with which `check` measures the weights and the split of the comparison, and hardly any latency."""
    chosen = settings.compare
    changes: Changes = dict(HARDLY_TIMED)
    if settings.check.split != chosen.split:
        changes["check.split"] = chosen.split
    if settings.student(chosen.student).export != chosen.weights:
        changes[f"students.{chosen.student}.export"] = chosen.weights
    return changes


def contents(
    settings: Params,
    runs: Mapping[str, Mapping[int, Run]],
    common: Mapping[str, Any],
    *,
    minutes: float | None,
    changes: Mapping[str, Changes],
) -> dict[str, Any]:
    """The content of results/comparison.json after these runs.

    Args:
        runs: by loss and seed.
        common: see :func:`measure`.
        minutes, changes: see :func:`lengths`.
    """
    chosen = settings.compare
    mixtures = {name: loss_mixture.resolve(loss, settings.losses) for name, loss in chosen.losses.items()}
    base = next((runs[name] for name, mixture in mixtures.items() if list(mixture) == [BASELINE]), {})
    rows = [
        summarise(
            name, runs[name], seeds=chosen.seeds, loss=loss_mixture.title(mixture), options=mixture,
            base=base,
            weights=chosen.weights, steps=None if minutes is None else changes[name]["distill.steps"],
        )
        for name, mixture in mixtures.items()
        if runs[name]
    ]  # fmt: skip
    steps = next(iter(changes.values())).get("distill.steps", settings.distill.steps) if minutes is None else None
    conditions = conditions_of(
        settings, student=chosen.student, split=chosen.split, weights=chosen.weights, steps=steps, minutes=minutes
    )
    return {**common, **conditions, "seeds": chosen.seeds, "rows": [row.model_dump() for row in rows]}


def conditions_of(
    settings: Params, *, student: str, split: str, weights: str, steps: int | None, minutes: float | None
) -> dict[str, Any]:
    """What results/comparison.json says about the trainings of all its rows.

    Args:
        weights: "best" or "last", those that INT8 is made from.
        steps, minutes: of each training; one of them is None.
    """
    return {
        "student": student,
        "model": settings.student(student).model.model_dump(),
        "split": split,
        "weights": weights,
        "steps": steps,
        "minutes": None if minutes is None else round(minutes, 4),
        "batch_size": settings.distill.batch_size,
        "input_size": list(settings.input_size),
    }


def remaining(durations: Sequence[float], left: int) -> str:
    """The remaining time, in words, from the durations of finished runs in seconds."""
    seconds = statistics.fmean(durations) * left
    return f"{seconds / 60:.0f} min left" if seconds >= 90 else f"{seconds:.0f} s left"


def compare(settings: Params, *, out: Path) -> None:
    """All runs, losses in the inner loop, so that rows of an unfinished comparison have the same seeds."""
    chosen = settings.compare
    minutes, changes, timed = lengths(settings, images=len(Prepared(DATASET).splits["train"]))
    if minutes is not None:
        counts = ", ".join(f"{name} {changed['distill.steps']}" for name, changed in changes.items())
        print(f"{minutes:.2f} minutes of training per run; steps: {counts}", flush=True)
    runs: dict[str, dict[int, Run]] = {name: {} for name in chosen.losses}
    plan = [(seed, name) for seed in chosen.seeds for name in chosen.losses]
    durations: dict[bool, list[float]] = {True: [], False: []}
    first: dict[str, Any] = {}
    for index, (seed, name) in enumerate(plan, start=1):
        started = time.monotonic()
        run, common, trained = measure(name, seed, settings=settings, changes=changes[name])
        first = first or common
        first["device"] = "; ".join(sorted({*first["device"].split("; "), common["device"]}))  # earlier rows
        if changed := [key for key, value in common.items() if key != "device" and value != first[key]]:
            raise UserError(f"{', '.join(changed)} changed during the comparison; start again: make compare")
        runs[name][seed] = run
        write_text(out, dump_json(contents(settings, runs, first, minutes=minutes, changes=changes)))
        durations[trained].append(time.monotonic() - started)
        left = remaining(durations[True] or durations[False], len(plan) - index)
        how = f"{durations[trained][-1]:.0f} s" if trained else "from the run cache"
        int8 = "" if run.int8 is None else f", INT8 {run.int8.miou:.2f}"
        reached = f"mIoU {run.best.miou:.2f} (best), {run.last.miou:.2f} (last){int8}"
        print(f"{index}/{len(plan)}  {name}, seed {seed}: {reached} ({how}; {left})", flush=True)
        if timed and (warning := strayed(run.seconds_per_step, timed=timed[name])):
            print(f"{name}, seed {seed}: {warning}", flush=True)


def require_split(settings: Params) -> None:
    """Refuse, before the first run, a split without labels or on which the teacher in the workspace was not measured.

    Raises:
        UserError: names the splits that may be chosen.
    """
    metrics = artifact.load(TEACHER, kind="network").meta["metrics"]
    measured = sorted(split for split, reached in metrics.items() if reached["miou"] is not None)
    if settings.compare.split not in measured:
        raise UserError(
            f"compare.split: got '{settings.compare.split}', on which no network is measured; choose one of {measured}"
        )


def main(arguments: list[str]) -> int:
    parser = new_parser(__name__, __doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--out", type=Path, default=Path("results") / comparison.FILE)
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table as Markdown, too")
    args = parser.parse_args(arguments)
    if missing := [name for name in ("dvc.yaml", "pipeline", "stages") if not Path(name).exists()]:
        raise UserError(
            f"{Path.cwd()} has no {', '.join(missing)}: segpress compare runs DVC experiments; run it in the root of "
            "segpress's git checkout"
        )

    settings = params.load(args.params, kinds=("losses",))
    if unknown := _experiments.untracked("pipeline", "stages"):
        raise UserError(
            f"git does not track {', '.join(unknown)}; runs in temporary folders would lack them; git add them first"
        )
    chosen = settings.compare
    settings.student(chosen.student)  # an unknown student is refused now, not after the first run
    count = len(chosen.losses) * len(chosen.seeds)
    print(f"{count} runs: student {chosen.student}, {len(chosen.losses)} losses, seeds {chosen.seeds}", flush=True)
    try:
        for stage in SHARED:
            _experiments.reproduce(stage)
        require_split(settings)
        compare(settings, out=args.out)
    except KeyboardInterrupt:
        print("interrupted: finished runs are kept; continue with: make compare", file=sys.stderr)
        return 130
    loaded = comparison.load(args.out)
    console = Console(width=None if sys.stdout.isatty() else 210)
    console.print(comparison_table.rich_tables(loaded, width=console.width))
    if args.markdown:
        write_text(args.markdown, comparison_table.markdown(loaded))
    return 0
