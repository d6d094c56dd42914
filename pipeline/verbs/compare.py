"""Train one student with every loss of `compare` in params.yaml: same teacher, same budget, several seeds.

The teacher is first updated in the workspace. Each run is a DVC experiment in a temporary folder; a finished run with
the same data, code and params comes from DVC's run cache in seconds. After an interruption run the command again. Each
run adds to results/comparison.json, for the report. The command needs a git checkout in which git tracks every file of
pipeline/ and stages/.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.artifact import dump_json, write_text
from pipeline.errors import UserError
from pipeline.reporting import comparison, comparison_table
from pipeline.reporting.comparison import BASELINE, Run, summarise
from pipeline.settings import loss_mixture, params
from pipeline.settings.params import Params
from pipeline.verbs import _experiments, new_parser


def measure(name: str, seed: int, *, loss: Any, student: str) -> tuple[Run, dict[str, Any], bool]:
    """Train a student with a loss, or read a finished run from DVC's run cache.

    Returns:
        the run, the facts that must be the same in all runs, and whether it was trained now.
    """
    changed = {f"students.{student}.loss": loss, "distill.seed": seed}
    commit, trained = _experiments.run(f"compare-{name}-{seed}", target=f"distill@{student}", params=changed)
    network = _experiments.read(commit, f"artifacts/students/{student}/meta.json")
    teacher = _experiments.read(commit, "artifacts/teacher/meta.json")
    costs = _experiments.read(commit, f"artifacts/costs/{student}.json")
    reached = network["metrics"]["val"]
    run = Run(
        miou=reached["miou"],
        per_class_iou=reached["per_class_iou"],
        **{key: costs[key] for key in ("seconds_per_step", "training_seconds", "peak_memory_mib")},
    )
    common = {
        "classes": network["classes"],
        "dataset_sha256": network["parents"]["dataset"],
        "teacher": {"miou": teacher["metrics"]["val"]["miou"], "sha256": network["parents"]["teacher"]},
        "device": costs["device"],
    }
    return run, common, trained


def contents(settings: Params, runs: Mapping[str, Mapping[int, Run]], common: Mapping[str, Any]) -> dict[str, Any]:
    """The content of results/comparison.json after these runs.

    Args:
        runs: by loss and seed.
        common: see :func:`measure`.
    """
    chosen = settings.compare
    mixtures = {name: loss_mixture.resolve(loss, settings.losses) for name, loss in chosen.losses.items()}
    base = next((runs[name] for name, mixture in mixtures.items() if list(mixture) == [BASELINE]), {})
    rows = [
        summarise(name, runs[name], seeds=chosen.seeds, loss=loss_mixture.title(mixture), options=mixture, base=base)
        for name, mixture in mixtures.items()
        if runs[name]
    ]
    return {
        **common,
        "student": chosen.student,
        "model": settings.student(chosen.student).model.model_dump(),
        "steps": settings.distill.steps,
        "batch_size": settings.distill.batch_size,
        "input_size": list(settings.input_size),
        "seeds": chosen.seeds,
        "rows": [row.model_dump() for row in rows],
    }


def remaining(durations: Sequence[float], left: int) -> str:
    """The remaining time, in words, from the durations of finished runs in seconds."""
    seconds = statistics.fmean(durations) * left
    return f"{seconds / 60:.0f} min left" if seconds >= 90 else f"{seconds:.0f} s left"


def compare(settings: Params, *, out: Path) -> None:
    """All runs, losses in the inner loop, so that rows of an unfinished comparison have the same seeds."""
    chosen = settings.compare
    runs: dict[str, dict[int, Run]] = {name: {} for name in chosen.losses}
    plan = [(seed, name) for seed in chosen.seeds for name in chosen.losses]
    durations: dict[bool, list[float]] = {True: [], False: []}
    first: dict[str, Any] = {}
    for index, (seed, name) in enumerate(plan, start=1):
        started = time.monotonic()
        run, common, trained = measure(name, seed, loss=chosen.losses[name], student=chosen.student)
        first = first or common
        first["device"] = "; ".join(sorted({*first["device"].split("; "), common["device"]}))  # earlier rows
        if changed := [key for key, value in common.items() if key != "device" and value != first[key]]:
            raise UserError(f"{', '.join(changed)} changed during the comparison; start again: make compare")
        runs[name][seed] = run
        write_text(out, dump_json(contents(settings, runs, first)))
        durations[trained].append(time.monotonic() - started)
        left = remaining(durations[True] or durations[False], len(plan) - index)
        how = f"{durations[trained][-1]:.0f} s" if trained else "from the run cache"
        print(f"{index}/{len(plan)}  {name}, seed {seed}: mIoU {run.miou:.2f} ({how}; {left})", flush=True)


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
        _experiments.reproduce("train_teacher")
        compare(settings, out=args.out)
    except KeyboardInterrupt:
        print("interrupted: finished runs are kept; continue with: make compare", file=sys.stderr)
        return 130
    loaded = comparison.load(args.out)
    Console(width=None if sys.stdout.isatty() else 170).print(comparison_table.rich_table(loaded))
    if args.markdown:
        write_text(args.markdown, comparison_table.markdown(loaded))
    return 0
