"""Frames without labels -> checked images without near-duplicates, and a list of what was used."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline.errors import command
from pipeline.preparation.frame_sources import find_files
from pipeline.preparation.survey import cores
from pipeline.preparation.unlabelled import prepare_unlabelled
from pipeline.prepared import Prepared
from pipeline.progress import Bars
from pipeline.settings import params


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--dataset", type=Path, required=True, help="labelled data set; its frames are left out")
    parser.add_argument("--out", type=Path, required=True, help="folder for the frames")
    args = parser.parse_args()

    options = params.load(args.params, kinds=()).distill.unlabelled
    warnings: list[str] = []
    with Bars() as bars:
        facts = prepare_unlabelled(
            find_files(options.sources), args.out, prepared=Prepared(args.dataset), every=options.every,
            duplicates=options.duplicates, progress=bars.step, warn=warnings.append, workers=cores(),
        )  # fmt: skip
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    counts = facts["unlabelled"]
    of = f"{counts['images']} images, {counts['videos']} videos"
    print(f"{args.out}: {counts['kept']} of {counts['read']} frames; {of}")


if __name__ == "__main__":
    sys.exit(main())
