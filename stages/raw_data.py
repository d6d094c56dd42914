"""Write a fingerprint of the raw data set to a small file; `prepare` runs again when it changes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline import artifact, datasets
from pipeline.errors import UserError, command
from pipeline.progress import Bars
from pipeline.provenance import raw_files
from pipeline.settings import params


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--out", type=Path, required=True, help="JSON file; it stays unchanged if the data are missing")
    args = parser.parse_args()

    settings = params.load(args.params, kinds=("datasets",))
    try:
        dataset = datasets.build(settings.dataset, settings.datasets.get(settings.dataset, {}))
    except UserError as error:
        if not args.out.is_file():
            raise
        print(f"warning: {error}\nUntil you correct this, the raw data count as unchanged.", file=sys.stderr)
        return
    with Bars() as bars:
        facts = raw_files.fingerprint(dataset, progress=bars.step)
    artifact.write_text(args.out, artifact.dump_json(facts))
    missing = f", {facts['missing']} of them missing or unreadable" if facts["missing"] else ""
    print(f"{args.out}: {settings.dataset}, {facts['files']} files{missing}")


if __name__ == "__main__":
    sys.exit(main())
