"""Raw data set -> prepared data set: every image and label checked, train ids, disjoint splits."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline import datasets
from pipeline.errors import command
from pipeline.preparation.prepare import prepare
from pipeline.preparation.survey import absences, cores
from pipeline.progress import Bars
from pipeline.provenance import closure
from pipeline.settings import params


@command
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--out", type=Path, required=True, help="folder for the prepared data set")
    args = parser.parse_args()

    settings = params.load(args.params)  # with all kinds: the first stage of a run checks the params of all stages
    name = settings.dataset
    options = settings.datasets.get(name, {})
    dataset = datasets.build(name, options)
    warnings: list[str] = []
    try:
        with Bars() as bars:
            facts = prepare(
                dataset, args.out, name=name, options=options, progress=bars.step, warn=warnings.append,
                workers=cores(), code=closure.of_stage("prepare", {"datasets": [name]}),
            )  # fmt: skip
    except KeyboardInterrupt:
        print("interrupted: complete samples are kept; the same command resumes", file=sys.stderr)
        return 130
    for warning in (*absences(dataset.labels, facts["class_pixels"]), *warnings):
        print(f"warning: {warning}", file=sys.stderr)
    sizes = ", ".join(f"{len(names)} {split}" for split, names in facts["splits"].items())
    print(f"{args.out}: {name}, {len(facts['classes'])} classes, {sizes}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
