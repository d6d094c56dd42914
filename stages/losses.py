"""Losses in params.yaml -> one file a student: its losses, their options, and the sha256 of the code they come from."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline import artifact, params, recipes
from pipeline.errors import command


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--out", type=Path, required=True, help="folder for <student>.json; those of others go")
    args = parser.parse_args()

    settings = params.load(args.params, kinds=("losses",))
    for name, student in settings.students.items():
        recipe = recipes.resolve(student.loss, settings.losses)
        facts = {"name": recipes.title(recipe), "options": recipe, "sources": recipes.sources(recipe)}
        artifact.write_text(args.out / f"{name}.json", artifact.dump_json(facts))
    for file in args.out.glob("*.json"):
        if file.stem not in settings.students:
            file.unlink()
    print(f"{args.out}: {', '.join(settings.students)}")


if __name__ == "__main__":
    sys.exit(main())
