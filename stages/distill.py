"""Prepared data set and teacher -> one student, trained with its losses."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline.errors import command
from pipeline.settings import loss_mixture, params
from pipeline.training import processes
from pipeline.training.students import distill


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--student", required=True, help="key of students in params.yaml")
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--unlabelled", type=Path, help="frames without labels; none: every image has labels")
    parser.add_argument("--loss", type=Path, required=True, help="JSON of the stage sources, with the losses")
    parser.add_argument("--curves", type=Path, required=True)
    parser.add_argument("--costs", type=Path, required=True, help="JSON: seconds and memory of the training")
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder; an interrupted run resumes from it")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    settings = params.load(args.params, kinds=("models",))
    trained = distill(
        settings, name=args.student, loss=loss_mixture.read(args.loss), dataset=args.dataset, teacher=args.teacher,
        unlabelled=args.unlabelled, curves=args.curves, costs=args.costs, checkpoints=args.checkpoints, out=args.out,
    )  # fmt: skip
    if processes.is_main():
        print(f"{args.out}: {trained}")


if __name__ == "__main__":
    sys.exit(main())
