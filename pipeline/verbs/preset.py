"""Write a preset, a tested set of values, into params.yaml; without a name, list the presets."""

from __future__ import annotations

from pathlib import Path

from pipeline.settings import presets
from pipeline.verbs import new_parser
from pipeline.verbs._repository import folder_of


def main(arguments: list[str]) -> None:
    parser = new_parser(__name__, __doc__)
    parser.add_argument("name", nargs="?")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args(arguments)
    folder_of("presets")

    if args.name is None:
        for name, purpose in presets.available().items():
            print(f"{name:20} {purpose}")
        return
    changes = presets.apply(args.name, args.params)
    print("\n".join(changes) if changes else f"{args.params} has these values already")
