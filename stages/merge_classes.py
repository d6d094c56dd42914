"""Data set -> the same frames with the classes of a foreign network, by `merge` and `rest` of its description."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline.errors import command
from pipeline.foreign import description
from pipeline.foreign.merging import merge
from pipeline.prepared import Prepared
from pipeline.progress import Bars


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--description", type=Path, required=True)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    found = description.load(args.description)
    with Bars() as bars:
        facts = merge(Prepared(args.dataset), found, args.out, progress=bars.step)
    for split, shares in facts["class_share"].items():
        told = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
        print(f"{args.out}: {split}, {len(facts['splits'][split])} frames: {told}")


if __name__ == "__main__":
    sys.exit(main())
