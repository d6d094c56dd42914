"""Results -> an exit status: 1 if a student breaks a budget or is not measured, with a table of broken budgets."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from pipeline.errors import UserError, command
from pipeline.reporting import results, wording
from pipeline.reporting.table import violations_table
from pipeline.settings import params


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()

    students = list(params.load(args.params, kinds=()).students)
    reported = results.of(students, results.load(args.results, expected=students))
    broken = [result for result in reported if result.verdict != "pass"]
    if broken:
        Console().print(violations_table(broken))
        names = ", ".join(result.student for result in broken if result.verdict == "fail")
        unknown = ", ".join(result.student for result in broken if result.verdict == "not measured")
        what = [f"{unknown}: not measured; run dvc repro check"] if unknown else []
        if names:
            what.append(f"{names} broke a budget of params.yaml; change the student, its quantisation, or the budget")
        raise UserError(f"{'. '.join(what)}. The results and the report are complete")
    for result in reported:
        for what in wording.notes(result):
            print(f"{result.label}: {what}")
    names = ", ".join(result.student for result in reported)
    decided = not any(result.undecided for result in reported)
    print(f"every budget holds for {names}" if decided else f"no budget is broken by {names}; some are undecided")


if __name__ == "__main__":
    sys.exit(main())
