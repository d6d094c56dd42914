"""Raw data set -> prepared data set: every image and label checked, train ids, disjoint splits."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline import datasets, params
from pipeline.errors import command
from pipeline.preparation import prepare
from pipeline.progress import Bars


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    settings = params.load(args.params)
    name = settings.dataset
    options = settings.datasets.get(name, {})
    with Bars() as bars:
        facts = prepare(datasets.build(name, options), args.out, name=name, options=options, progress=bars.step)
    sizes = ", ".join(f"{len(names)} {split}" for split, names in facts["splits"].items())
    print(f"{args.out}: {name}, {len(facts['classes'])} classes, {sizes}")


if __name__ == "__main__":
    sys.exit(main())
