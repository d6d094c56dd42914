"""Training of one student: data set, teachers and losses -> network artifact."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pipeline import artifact, licence, models
from pipeline.artifact import Artifact
from pipeline.models import SegNetwork
from pipeline.models.weights import network_artifact
from pipeline.prepared import Prepared, Unlabelled
from pipeline.settings import loss_mixture
from pipeline.settings.params import Params
from pipeline.training import processes, rounds, stage0, teachers
from pipeline.training.conflicts import warn_of_missing_auxiliary, warn_of_other_targets
from pipeline.training.distillation import DistillationTask
from pipeline.training.run import Trained, train
from pipeline.training.seeding import seed_everything
from pipeline.training.settings import TrainingSettings

log = logging.getLogger(__name__)


def distill(
    params: Params,
    *,
    name: str,
    loss: Mapping[str, Any],
    dataset: Path,
    teacher: Path,
    curves: Path,
    costs: Path,
    checkpoints: Path,
    out: Path,
    unlabelled: Path | None = None,
) -> Trained:
    """Train a student, with stage 0 before if ``distill.stage0.steps`` is set, and write its network artifact.

    If there are frames without labels, they join every batch of stage 0 and of the task. With the loss ``none`` and
    ``distill.unlabelled.labels: soft`` they would teach nothing in the task. Then its batches have labelled images
    only, so that the other students can be compared with this one.

    Args:
        name: of the student, a key of ``params.students``.
        loss: ``name`` and ``options`` of its losses, see ``loss_mixture.read``.
        dataset, teacher: prepared data set and network artifact.
        curves: folder for the training curves.
        costs: JSON with seconds and memory of the training.
        checkpoints: folder for checkpoints, from which an interrupted run resumes.
        out: network artifact of the student.
        unlabelled: artifact with frames without labels, see ``prepared.Unlabelled``; None, or one without frames: none.

    Raises:
        UserError: see ``teachers.open_all``, ``stage0.learn`` and ``training.run.train``.
    """
    prepared = Prepared(dataset)
    labels, recipe, size = prepared.labels, params.distill, params.input_size
    model, teaching = params.student(name).model, recipe.teaching.model_dump()
    views = recipe.teaching.model_dump(exclude={"cached"})
    teacher_network, opened = teachers.open_all(teacher, labels=labels, **views)
    hashes = {key: stored.hash for key, stored in opened.items()}
    processes.start_asked_for()
    seed_everything(params.distill_seed)
    student = models.build(model.name, model.options, num_classes=labels.num_classes, classes=labels.names)
    frames = None if unlabelled is None else Unlabelled(unlabelled)
    frames, joining = frames or None, recipe.unlabelled
    teaches = frames is not None and (loss["name"] != loss_mixture.NOTHING or joining.labels != "soft")
    mixed, settings = (
        TrainingSettings.of(
            recipe, images=len(prepared.splits["train"]), input_size=size, seed=params.distill_seed, share=share
        )
        for share in (joining.share if frames else 0.0, joining.share if teaches else 0.0)
    )
    settings = replace(settings, steps=mixed.steps)  # with epochs too, all losses have the same number of steps
    labelling = joining.model_dump(include={"labels", "threshold", "keep"}) if teaches else {}
    task = DistillationTask.on(
        prepared, student, teacher_network, loss["options"], steps=settings.forward_passes, seed=settings.seed,
        **labelling,
    )  # fmt: skip
    task.cached = recipe.teaching.cached
    if processes.is_main():
        if frames and not teaches:
            log.warning(
                "students.%s.loss: got none, which learns nothing from frames without labels with "
                "distill.unlabelled.labels: soft; the batches of its task have labelled images only", name,
            )  # fmt: skip
        warn_of_other_targets(task.loss, class_balance=recipe.class_balance, teacher=opened["teacher"].meta)
        warn_of_missing_auxiliary(task.loss, student=student, teacher=teacher_network)
    run = partial(
        train, prepared=prepared, checkpoint_seconds=params.checkpoint_seconds, workers=recipe.workers,
        store=recipe.store, log_every=recipe.log_every,
    )  # fmt: skip
    inputs = {
        "model": {"name": model.name, **model.options}, "initial_weights": student.initial_weights,
        "teaching": teaching, **hashes,
    }  # fmt: skip
    places: dict[str, Any] = {"curves": curves, "checkpoints": checkpoints, "title": name}
    features, beginning = stage0.source(task, recipe.stage0, labels=labels)
    before = stage0.learn(
        partial(run, unlabelled=frames), task, mixed, teacher=features, steps=recipe.stage0.steps,
        inputs={**inputs, "features": beginning}, **places,
    )  # fmt: skip
    if frames and before:  # all that decides the weights with which the task begins
        beginning |= {"frames": frames.facts_hash, "unlabelled_images": mixed.unlabelled_images}
    *earlier, trained = rounds.learn(
        partial(run, settings=settings, unlabelled=frames if teaches else None), task,
        rounds=joining.rounds if teaches else 1,
        inputs={**inputs, "loss": loss, "stage0": beginning, "labelling": labelling}, **places,
    )  # fmt: skip
    processes.leave()
    if processes.is_main():
        facts = {
            **trained.facts, "student": name,
            "loss": {"name": loss["name"], "options": loss["options"], "weights": task.balance.values()},
            "training": {"seed": settings.seed, "batch_size": settings.batch_size},
            "parents": {"dataset": prepared.artifact.hash, **hashes},
        }  # fmt: skip
        if before:
            facts["stage0"] = beginning
        if frames and teaches:
            facts["unlabelled"] = {
                "facts_hash": frames.facts_hash, "frames": len(frames), "share": joining.share, **labelling,
                "rounds": joining.rounds,
            }  # fmt: skip
        if frames and (teaches or before):
            facts["parents"]["unlabelled"] = frames.artifact.hash
        taught = loss["name"] != loss_mixture.NOTHING or teaches or (before and recipe.stage0.model is None)
        facts["licences"] = _sources(
            prepared, student, teachers=opened.values() if taught else (),
            features=beginning.get("initial_weights", {}) if before else {},
            frames=frames is not None and bool(teaches or before),
        )  # fmt: skip
        network_artifact.save(
            out, student, name=model.name, options=model.options, labels=labels, input_size=size, facts=facts,
            last=trained.last,
        )  # fmt: skip
        further = {
            "parameters_of_loss": task.parameters_of_loss,
            "teacher_passes": teachers.passes(teacher_network) if task.teacher_runs and not task.reads_cache else 0,
        }  # fmt: skip
        spent = stage0.costs(before, earlier, trained, cached=task.cached_seconds)
        artifact.write_text(costs, artifact.dump_json(spent | further))
        for finished in (*before, *earlier, trained):
            finished.finish()
    return trained


def _sources(
    prepared: Prepared, student: SegNetwork, *, teachers: Iterable[Artifact], features: Mapping[str, Any], frames: bool
) -> list[licence.Source]:
    """``licences`` of a student, see :mod:`pipeline.licence`.

    Args:
        teachers: from which it learned.
        features: initial weights of the network whose features stage 0 learns; empty: the teacher's features, or none.
        frames: whether frames without labels were used; nobody states their licence.
    """
    sources = [licence.data(prepared.artifact.meta), *licence.weights(student.initial_weights)]
    sources += licence.weights(features, role="weights of stage 0")
    if frames:
        sources.append(licence.source("frames without labels", "distill.unlabelled.sources", None))
    return licence.distinct([*sources, *(each for teacher in teachers for each in licence.of_teacher(teacher.meta))])
