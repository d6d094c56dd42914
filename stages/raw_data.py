"""Raw data set -> one small file: what its files are, so that it is prepared again when they change."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline import artifact, datasets, params, raw_files
from pipeline.errors import UserError, command
from pipeline.progress import Bars


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--out", type=Path, required=True, help="JSON file; not changed when the raw data are missing")
    args = parser.parse_args()

    settings = params.load(args.params, kinds=("datasets",))
    try:
        dataset = datasets.build(settings.dataset, settings.datasets.get(settings.dataset, {}))
    except UserError as error:
        if not args.out.is_file():
            raise
        print(f"warning: {error}\nUntil then the raw data are treated as unchanged.", file=sys.stderr)
        return
    with Bars() as bars:
        found = raw_files.fingerprint(dataset, progress=bars.step)
    artifact.write_text(args.out, artifact.dump_json(found))
    missing = f", {found['missing']} of them missing or unreadable" if found["missing"] else ""
    print(f"{args.out}: {settings.dataset}, {found['files']} files{missing}")


if __name__ == "__main__":
    sys.exit(main())
