"""Why losses differ in a comparison: mIoU while they train, the cross-entropy, and the strength of every term.

    segpress compare                                 # first: its runs are DVC experiments
    python benchmarks/comparison_curves.py curves.md

A row has the means over the seeds of a loss: mIoU on val at each validation, the cross-entropy of the last tenth of the
steps, and for each term with an automatic weight its measured share of the cross-entropy's gradient over the last half.
Run it in the clone and at the commit of the comparison.
"""

from __future__ import annotations

import argparse
import csv
import io
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from dvc.api import DVCFileSystem  # type: ignore[import-untyped]

from pipeline import artifact
from pipeline.errors import UserError, command
from pipeline.settings import params

#: Values of a curve by its name, such as val/miou, in the order of the steps.
Curves = dict[str, list[float]]


def curves(commit: str, student: str) -> Curves:
    """All curves of a run that DVC stored."""
    files, folder = DVCFileSystem(rev=commit), f"artifacts/curves/{student}/plots/metrics"
    found: Curves = {}
    for path in sorted(files.find(folder)):
        rows = list(csv.reader(io.StringIO(files.read_text(path, encoding="utf-8")), delimiter="\t"))
        found[path.rpartition("/metrics/")[2].removesuffix(".tsv")] = [float(value) for _, value in rows[1:]]
    return found


def commits(names: list[str]) -> dict[str, list[str]]:
    """The commits of the runs of each loss at this commit, from the names that ``segpress compare`` gives to them."""
    head = git("rev-parse", "HEAD").strip()
    refs = git("for-each-ref", "--format=%(objectname) %(refname:lstrip=4)", f"refs/exps/{head[:2]}/{head[2:]}")
    found: dict[str, list[str]] = {name: [] for name in names}
    for line in refs.splitlines():
        commit, _, title = line.partition(" ")
        name, _, seed = title.removeprefix("compare-").rpartition("-")
        if name in found and seed.isdigit():
            found[name].append(commit)
    return found


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout  # noqa: S607


def row(name: str, runs: list[Curves]) -> list[Any]:
    """A row of the table, see the top of this file."""

    def late(key: str, part: int) -> float:
        return statistics.fmean(statistics.fmean(run[key][-max(1, len(run[key]) // part) :]) for run in runs)

    validations = zip(*(run["val/miou"] for run in runs), strict=True)
    shares = [f"{key.rpartition('/')[2]} {late(key, 2):.2f}" for key in runs[0] if key.startswith("train/share/")]
    steps = len(runs[0]["train/ce"])
    miou = " → ".join(f"{statistics.fmean(values):.1f}" for values in validations)
    return [name, len(runs), steps, miou, f"{late('train/ce', 10):.3f}", ", ".join(shares) or ""]


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="Markdown file for the table")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    chosen = params.load(args.params, kinds=("losses",)).compare
    lines = [
        "| name | runs | steps | mIoU at the validations | cross-entropy | share of its gradient |",
        "| --- | ---: | ---: | --- | ---: | --- |",
    ]
    for name, found in commits(list(chosen.losses)).items():
        if not found:
            raise UserError(f"no run of the loss {name} in this clone; run segpress compare here first")
        cells = row(name, [curves(commit, chosen.student) for commit in found])
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    artifact.write_text(args.out, "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
