"""Write one file per stage and student with the hashes of its code, losses and weight files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline import artifact
from pipeline.errors import command
from pipeline.provenance import closure, weight_files
from pipeline.settings import loss_mixture, params, training_params

#: Stages that run once; all others run for each student.
ONCE = ("prepare", "prepare_unlabelled", "train_teacher", "report", "gate")
#: Stages that start from the weights that params.yaml names.
TRAIN = ("train_teacher", "distill")
TAUGHT = ("distill", "qat")  # stages with a teacher


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--out", type=Path, required=True, help="folder for <stage>.json and <stage>/<student>.json")
    args = parser.parse_args()

    written = {args.out / f"{name}.json": facts for name, facts in sources(params.load(args.params, kinds=("losses",)))}
    for file, facts in written.items():
        artifact.write_text(file, artifact.dump_json(facts))
    for stage in closure.KINDS:
        for file in (args.out / f"{stage}.json", *(args.out / stage).glob("*.json")):
            if file not in written:
                file.unlink(missing_ok=True)
    print(f"{args.out}: {len(written)} files")


def sources(settings: params.Params) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each ``<stage>`` or ``<stage>/<student>`` with its code and, if it uses them, losses and weight files."""
    teacher = settings.teacher.model
    shared = {"datasets": [settings.dataset], "runtimes": [settings.convert.runtime]}
    for stage in closure.KINDS:
        if stage in ONCE:
            facts: dict[str, Any] = {"code": closure.of_stage(stage, {**shared, "models": [teacher.name]})}
            yield stage, facts | weights(stage, teacher) | defaults(stage, settings)
            continue
        for name, student in settings.students.items():
            losses = loss_mixture.resolve(student.loss, settings.losses)
            features = settings.distill.stage0.model if stage == "distill" else None
            networks = [teacher.name, student.model.name, *([] if features is None else [features.name])]
            plugins = {**shared, "models": networks, "losses": list(losses)}
            facts = {"code": closure.of_stage(stage, plugins)} | defaults(stage, settings)
            facts |= weights(stage, student.model, settings.distill.teaching.others)
            if features is not None:
                facts["features"] = weight_files.fingerprint(features.options)
            if "losses" in closure.KINDS[stage]:
                facts["loss"] = loss_mixture.facts(losses)
            yield f"{stage}/{name}", facts


def weights(stage: str, model: training_params.Model, others: Sequence[str] = ()) -> dict[str, Any]:
    """Weight files that a training starts from, and more teachers: outside the graph; a change runs the stage again."""
    facts: dict[str, Any] = {"weights": weight_files.fingerprint(model.options)} if stage in TRAIN else {}
    return facts | ({"teachers": weight_files.folders(others)} if others and stage in TAUGHT else {})


def defaults(stage: str, settings: params.Params) -> dict[str, Any]:
    """Optional values that params.yaml leaves out: the stage runs again where a new version has other defaults."""
    section = {
        "train_teacher": settings.teacher.train or None,
        "distill": settings.distill,
        "qat": settings.distill,
        "export": settings.export,
        "quantize": settings.budgets,
        "check": settings.budgets,
    }.get(stage)
    values = params.defaults(section) if section else {}
    return {"defaults": values} if values else {}


if __name__ == "__main__":
    sys.exit(main())
