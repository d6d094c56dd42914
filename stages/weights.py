"""Weights that params.yaml names -> one file a network: what they are, so that it is trained again when they change."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline import artifact, params, weight_files
from pipeline.errors import command


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--out", type=Path, required=True, help="folder for teacher.json and <student>.json")
    args = parser.parse_args()

    settings = params.load(args.params, kinds=())
    networks = {"teacher": settings.teacher.model} | {name: each.model for name, each in settings.students.items()}
    for name, model in networks.items():
        found = weight_files.fingerprint(model.options)
        artifact.write_text(args.out / f"{name}.json", artifact.dump_json(found))
    for file in args.out.glob("*.json"):
        if file.stem not in networks:
            file.unlink()


if __name__ == "__main__":
    sys.exit(main())
