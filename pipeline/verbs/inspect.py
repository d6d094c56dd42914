"""Check a data set before training: classes, sizes, every error, and a picture of samples with their labels.

It reads the data set that params.yaml chooses, and writes no prepared data set. The exit status is 1 if there is an
error.
"""

from __future__ import annotations

from pathlib import Path

from pipeline import datasets
from pipeline.preparation.contact_sheet import write_sheet
from pipeline.preparation.inspection import show
from pipeline.preparation.survey import cores, survey
from pipeline.progress import Bars
from pipeline.settings import params
from pipeline.verbs import new_parser


def main(arguments: list[str]) -> int:
    parser = new_parser(__name__, __doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--sheet", type=Path, help="PNG of random samples with their labels")
    parser.add_argument("--samples", type=int, default=12, help="samples in the sheet; 12")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other samples; 0")
    args = parser.parse_args(arguments)

    settings = params.load(args.params, kinds=("datasets",))
    name = settings.dataset
    dataset = datasets.build(name, settings.datasets.get(name, {}))
    with Bars() as bars:
        survey_of_all = survey(dataset, progress=bars.step, workers=cores())
    show(name, survey_of_all)
    if args.sheet:
        count = write_sheet(dataset, survey_of_all, args.sheet, name=name, count=args.samples, seed=args.seed)
        print(f"{args.sheet}: {count} samples")
    return 1 if survey_of_all.problems else 0
