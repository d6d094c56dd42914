"""Results -> one HTML page, and the same tables as Markdown for a README."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline.artifact import write_text
from pipeline.errors import command
from pipeline.reporting import comparison, comparison_table, page, table
from pipeline.reporting.measured import TEACHER
from pipeline.reporting.results import load, of
from pipeline.settings import params


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True, help="folder of <student>.json and comparison*.json")
    parser.add_argument("--dataset", type=Path, required=True, help="prepared data set")
    parser.add_argument(
        "--predictions", type=Path, required=True, help="folder of one predictions artifact per student"
    )
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="contains the names of the students")
    parser.add_argument("--students", nargs="+", metavar="NAME", help="report these instead, imported networks too")
    parser.add_argument(
        "--no-frames", action="store_true", help="leave out every picture of the data, to publish the page"
    )
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder for index.html and table.md")
    args = parser.parse_args()

    students = args.students or list(params.load(args.params, kinds=()).students)
    results = of({*students, TEACHER}, load(args.results, expected=students))
    comparisons = [comparison.load(file) for file in comparison.files(args.results)]
    html = page.build(
        results,
        dataset=args.dataset,
        predictions=args.predictions,
        comparisons=comparisons,
        frames=not args.no_frames,
    )
    write_text(args.out / "index.html", html)
    tables = [table.markdown(results)]
    tables += [f"## {compared.title}\n\n{comparison_table.markdown(compared)}" for compared in comparisons]
    write_text(args.out / "table.md", "\n".join(tables))


if __name__ == "__main__":
    sys.exit(main())
