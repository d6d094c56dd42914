"""Print the table of results and the path of the report."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from pipeline.reporting import table
from pipeline.reporting.results import load, of
from pipeline.settings import params
from pipeline.verbs import new_parser

WIDTH_OF_A_PIPE = 170


def main(arguments: list[str]) -> None:
    parser = new_parser(__name__, __doc__)
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="folder of results/<student>.json; results"
    )
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="contains the names of the students")
    parser.add_argument("--students", nargs="+", metavar="NAME", help="show these instead, imported networks too")
    parser.add_argument("--report", type=Path, default=Path("report"), help="folder of the report; report")
    args = parser.parse_args(arguments)

    students = args.students or list(params.load(args.params, kinds=()).students)
    console = Console(width=None if sys.stdout.isatty() else WIDTH_OF_A_PIPE)
    console.print(table.rich_table(of(students, load(args.results, expected=students))))
    page = args.report / "index.html"
    print(page if page.exists() else f"{page}: not written yet; run: dvc repro")
