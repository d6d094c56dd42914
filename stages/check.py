"""Engines and data set -> results: mIoU, per-class IoU, latency and size of every variant, measured on this machine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline import artifact
from pipeline.errors import command
from pipeline.evaluation import fastest
from pipeline.evaluation.budgets import conclusion
from pipeline.evaluation.measure import Timing
from pipeline.export.checking import check_student, write_predictions
from pipeline.prepared import Prepared
from pipeline.progress import Bars
from pipeline.reporting import card
from pipeline.reporting import results as results_of
from pipeline.reporting.class_table import class_table
from pipeline.settings import params


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--device", type=Path, required=True)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, help="teacher network; omit it for a network without a teacher")
    parser.add_argument("--student", type=Path, help="float reference; omit it for a network of segpress import")
    parser.add_argument(
        "--engines", type=Path, required=True, help="folder; the record of the fastest gets its name with .json"
    )
    parser.add_argument(
        "--int8", type=Path, help="artifact of the INT8 engine's file, to compare labels with exact arithmetic"
    )
    parser.add_argument(
        "--predictions", type=Path, required=True, help="folder for the sample predictions of the report"
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="results JSON; the per-class table gets its name with .csv, the model card with .md",
    )
    args = parser.parse_args()

    settings = params.load(args.params, kinds=("runtimes",))
    prepared = Prepared(args.dataset)
    with Bars() as bars:
        results, predictions = check_student(
            prepared=prepared,
            teacher=artifact.load(args.teacher, kind="network") if args.teacher else None,
            student=args.student,
            engines=args.engines,
            int8=artifact.load(args.int8, kind="int8") if args.int8 else None,
            device=artifact.read_json(args.device, advice="write it with: dvc repro device"),
            budgets=settings.budgets.model_dump(),
            split=settings.check.split,
            samples=settings.check.samples,
            timing=Timing.of(settings.check.model_dump()),
            progress=bars.step,
        )
    write_predictions(args.predictions, predictions, results, labels=prepared.labels)
    artifact.write_text(args.out.with_suffix(".csv"), class_table(results))
    artifact.write_text(args.out, artifact.dump_json(results))
    facts = artifact.load(args.student or args.engines / "fp32", kind="network" if args.student else "engine")
    measured = results_of.read(args.out)
    artifact.write_text(args.out.with_suffix(".md"), card.render(measured, card.Details.of(facts, prepared)))
    fastest.write(args.engines, results)
    int8 = results["variants"]["int8"]
    for line in fastest.lines(results["fastest"]):
        print(line)
    for violation in results["violations"]:
        print(f"budget broken: {violation['what']}")
    exact = results["int8_exact_agreement"]
    agrees = "" if exact is None else f"{exact:.2f} % of the labels as in exact arithmetic, "
    print(
        f"{args.out}: INT8 mIoU {int8['miou']:.2f}, p50 {int8['latency_ms']['p50']} ms, "
        f"{results['speedup_int8_vs_fp32']:.2f}x of float32, {agrees}{conclusion(results)}"
    )


if __name__ == "__main__":
    sys.exit(main())
