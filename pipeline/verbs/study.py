"""Run a study: comparisons of trainings in order of value, then INT8, latency and a report of chosen networks.

    segpress study studies/camvid/small.yaml --set datasets.camvid.root=/data/CamVid --work ../camvid

docs/studies.md explains the study file: what differs from params.yaml, and the runs. Every run has a folder of its own
below --work, where the stages of dvc.yaml run without DVC. After an interruption run the command again: finished runs
are kept, and a training resumes. A second process with the same command takes the runs that no other process has.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from pipeline.errors import UserError
from pipeline.settings import presets, yaml_file
from pipeline.settings import study as study_file
from pipeline.settings.params import Params
from pipeline.settings.study import Study, changed
from pipeline.verbs import new_parser
from pipeline.verbs._equal_minutes import Changes
from pipeline.verbs._repository import folder_of
from pipeline.verbs._steps import TIME_OVER
from pipeline.verbs._study import StageError, Work


def main(arguments: list[str]) -> int:
    parser = new_parser(__name__, __doc__)
    parser.add_argument("study", type=Path, help="YAML file")
    parser.add_argument("--work", type=Path, required=True, help="folder for all runs and results")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one more changed param")
    parser.add_argument("--only", nargs="+", metavar="COMPARISON", help="run these comparisons only")
    parser.add_argument("--minutes", type=float, help="stop after this time; run again to continue")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args(arguments)

    folder_of("stages")
    study = study_file.load(args.study)
    chosen = args.only or list(study.comparisons)
    if unknown := [name for name in chosen if name not in study.comparisons]:
        raise UserError(f"--only: the study has no {', '.join(unknown)}; it has {', '.join(study.comparisons)}")
    values = presets.merged(yaml_file.read(args.params, sections=Params.model_fields), study.params)
    values = changed(values, dict(map(_setting, args.set)))
    study_file.require_valid(study, values, of=args.study)
    until = None if args.minutes is None else time.monotonic() + 60 * args.minutes
    work = Work(study, values, args.work, until=until)
    try:
        run(work, study, chosen)
    except StageError as error:
        if error.status != TIME_OVER:
            print(
                f"stopped; finished runs are kept in {args.work}: correct the error above, run again", file=sys.stderr
            )
            return error.status
        print("the time is over; finished runs are kept: run the same command again to continue", flush=True)
        return TIME_OVER
    except KeyboardInterrupt:
        print("interrupted; finished runs are kept: run the same command again to continue", file=sys.stderr)
        return 130
    return 0


def run(work: Work, study: Study, chosen: list[str]) -> None:
    """All runs that no other process has, then the networks that are shown, then the report."""
    work.prepare()
    lengths: dict[str, dict[str, Changes]] = {}
    plan = [
        (index, name, key, seed)
        for name in chosen
        for index, seed in enumerate(study.comparisons[name].seeds)
        for key in study.comparisons[name].rows
    ]
    for _, name, key, seed in sorted(plan, key=lambda entry: entry[0]):  # the first seed of all comparisons first
        lengths[name] = lengths.get(name) or work.lengths(name)
        started = time.monotonic()
        if work.run(name, key, seed, length=lengths[name][key]):
            work.write(name, lengths[name])
            minutes = (time.monotonic() - started) / 60
            print(f"{name}/{key}/{seed}: {work.reached(name, key, seed)} ({minutes:.1f} min)", flush=True)
            if warning := work.strayed(name, key, seed):
                print(f"{name}/{key}/{seed}: {warning}", flush=True)
    for name in study.shown:
        for threads in study.threads:
            if not work.show(name, threads=threads):
                print(f"{name}: not shown, because {study.shown[name]} is not trained", flush=True)
    work.report()


def _setting(text: str) -> tuple[str, object]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise UserError(f"--set: got {text!r}; write KEY=VALUE, such as datasets.camvid.root=/data/CamVid")
    return key, yaml_file.value(value)
