"""Raw data set -> prepared data set: every image and label checked, train ids, disjoint splits.

With --inspect it only looks, at the data set alone: counts, sizes, faults and a picture.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline import datasets, params
from pipeline.contact_sheet import write_sheet
from pipeline.errors import command
from pipeline.inspection import show
from pipeline.plugins import KINDS
from pipeline.preparation import prepare
from pipeline.progress import Bars
from pipeline.survey import absences, cores, survey


@command
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="where the prepared data set goes")
    what.add_argument("--inspect", action="store_true", help="print what it holds and every fault; write no data set")
    parser.add_argument("--sheet", type=Path, help="with --inspect: PNG of random samples with their labels")
    parser.add_argument("--samples", type=int, default=12, help="in the sheet (default: 12)")
    parser.add_argument("--seed", type=int, default=0, help="of the sheet; another one draws other samples")
    args = parser.parse_args()
    if args.sheet and not args.inspect:
        parser.error("--sheet goes with --inspect")

    kinds = ("datasets",) if args.inspect else KINDS  # the first stage of a run checks what all stages need
    settings = params.load(args.params, kinds=kinds)
    name = settings.dataset
    options = settings.datasets.get(name, {})
    dataset = datasets.build(name, options)
    if args.inspect:
        with Bars() as bars:
            found = survey(dataset, progress=bars.step, workers=cores())
        show(name, found)
        if args.sheet:
            drawn = write_sheet(dataset, found, args.sheet, name=name, count=args.samples, seed=args.seed)
            print(f"{args.sheet}: {drawn} samples")
        return 1 if found.faults else 0
    warnings: list[str] = []
    with Bars() as bars:
        facts = prepare(
            dataset, args.out, name=name, options=options, progress=bars.step, warn=warnings.append, workers=cores()
        )
    for warning in (*absences(dataset.labels, facts["class_pixels"]), *warnings):
        print(f"warning: {warning}", file=sys.stderr)
    sizes = ", ".join(f"{len(names)} {split}" for split, names in facts["splits"].items())
    print(f"{args.out}: {name}, {len(facts['classes'])} classes, {sizes}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
