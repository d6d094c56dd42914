"""Write fingerprints of the raw data set and of the frames without labels; `prepare` and `prepare_unlabelled` run again
when theirs changes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline import artifact, datasets
from pipeline.errors import UserError, command
from pipeline.preparation.frame_sources import find_files
from pipeline.progress import Bars
from pipeline.provenance import raw_files
from pipeline.settings import params
from pipeline.settings.unlabelled import Unlabelled

UNCHANGED = "Until you correct this, the raw data count as unchanged."


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--out", type=Path, required=True, help="JSON file; it stays unchanged if the data are missing")
    parser.add_argument("--unlabelled", type=Path, help="the same for frames without labels")
    args = parser.parse_args()

    settings = params.load(args.params, kinds=("datasets",))
    with Bars() as bars:
        labelled(settings, args.out, bars)
        if args.unlabelled:
            unlabelled(settings.distill.unlabelled, args.unlabelled, bars)


def labelled(settings: params.Params, out: Path, bars: Bars) -> None:
    try:
        dataset = datasets.build(settings.dataset, settings.datasets.get(settings.dataset, {}))
    except UserError as error:
        if not out.is_file():
            raise
        print(f"warning: {error}\n{UNCHANGED}", file=sys.stderr)
        return
    facts = raw_files.fingerprint(dataset, progress=bars.step)
    artifact.write_text(out, artifact.dump_json(facts))
    missing = f", {facts['missing']} of them missing or unreadable" if facts["missing"] else ""
    print(f"{out}: {settings.dataset}, {facts['files']} files{missing}")


def unlabelled(options: Unlabelled, out: Path, bars: Bars) -> None:
    """Write sources, options and files of the frames without labels.

    If a source is missing, because the clone of a project may not have the data, the fingerprint stays. Other options
    than those of the last run are added to it as ``wanted``: the next stage runs and reports the missing source, and
    with the old options the file has its old bytes again.
    """
    files = find_files(options.sources)
    chosen = options.model_dump(include={"sources", "every", "duplicates"})
    if files.missing and out.is_file():
        facts = artifact.read_json(out, advice="delete it")
        facts.pop("wanted", None)
        unchanged = facts.get("options") == chosen
        artifact.write_text(out, artifact.dump_json(facts | ({} if unchanged else {"wanted": chosen})))
        print("warning:", "\n".join([*files.missing, *([UNCHANGED] if unchanged else [])]), file=sys.stderr)
        return
    content = {"missing": files.missing, "problems": files.problems}
    facts = raw_files.of_files(
        files.names, content=content, remembered=f"unlabelled {chosen['sources']}", progress=bars.step
    )
    artifact.write_text(out, artifact.dump_json({**facts, "options": chosen}))
    print(f"{out}: {facts['files']} files without labels")


if __name__ == "__main__":
    sys.exit(main())
