"""Student -> student with the weights to export; with `qat: true`, fine-tuned with its losses and 8 bits simulated."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline.errors import command
from pipeline.models.weights import network_artifact
from pipeline.quantization.fine_tuning import fine_tune
from pipeline.settings import loss_mixture, params
from pipeline.training import processes


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--name", required=True, help="key of students in params.yaml")
    parser.add_argument("--student", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--loss", type=Path, required=True, help="JSON of the stage sources, with the losses")
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument(
        "--checkpoints", type=Path, required=True, help="folder; an interrupted training resumes from it"
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    settings = params.load(args.params, kinds=())
    student = settings.student(args.name)
    if student.qat:
        trained = fine_tune(
            settings,
            name=args.name,
            student=args.student,
            teacher=args.teacher,
            loss=loss_mixture.read(args.loss),
            dataset=args.dataset,
            checkpoints=args.checkpoints,
            out=args.out,
        )
        outcome = f"{trained}, with the roundings of {settings.qat.target} INT8 simulated"
    else:
        if processes.is_main():
            network_artifact.copy(args.student, args.out, weights=student.export)
        outcome = f"the {student.export} weights of the student, unchanged; qat: false"
    if processes.is_main():
        print(f"{args.out}: {outcome}")


if __name__ == "__main__":
    sys.exit(main())
