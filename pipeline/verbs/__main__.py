"""The command ``segpress``; without installation, run ``python -m pipeline.verbs``."""

from __future__ import annotations

import argparse
import sys

from pipeline import verbs
from pipeline.errors import command


@command
def main() -> int:
    """Run the verb that the arguments name; returns the exit status."""
    lines = verbs.available()
    width = max(map(len, lines))
    parser = argparse.ArgumentParser(
        prog="segpress",
        usage="segpress VERB [arguments]",
        description="Compress segmentation networks until they fit the edge, and prove that they do.",
        epilog="\n".join(
            ["verbs:", *(f"  {name:{width}}  {line}" for name, line in lines.items()), "", "segpress VERB --help: more"]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("verb", metavar="VERB", help="what to do, see below")
    args = parser.parse_args(sys.argv[1:2])
    return verbs.run(args.verb, sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
