"""A preset -> params.yaml. Without a name, lists them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline import presets
from pipeline.errors import command


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="?")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()

    if args.name is None:
        for name, purpose in presets.available().items():
            print(f"{name:20} {purpose}")
        return
    changes = presets.apply(args.name, args.params)
    print("\n".join(changes) if changes else f"{args.params} has these values already")


if __name__ == "__main__":
    sys.exit(main())
