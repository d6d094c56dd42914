"""Stage 0: before the task begins, the student's encoder learns the features of another network's encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline import models
from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.losses import DistillationLoss
from pipeline.losses._padding import inside, mean
from pipeline.losses._standard import Standardised
from pipeline.models import SegNetwork, SegOutput
from pipeline.settings.training_params import Stage0
from pipeline.training.distillation import DistillationTask
from pipeline.training.run import Trained
from pipeline.training.seeding import seed_everything
from pipeline.training.settings import TrainingSettings
from pipeline.training.teachers import Teachers

#: Deepest encoder stages that are compared: strides 8, 16 and 32 of most encoders.
DEPTH = 3


class StandardisedFeatures(DistillationLoss):
    """Mean squared error between the student's encoder stages, through 1x1 adapters, and the teacher's, standardised.

    Each channel of the teacher has mean 0 and variance 1 over all steps so far, so that the value is the unexplained
    share of the teacher's variance: 1 for a student that knows only the mean, 0 for a perfect one. It does not depend
    on the scale of the teacher's features. The student's stages are resized to the teacher's. Padding takes no part.

    The order (features first, then the task) is that of GKD (arXiv 2603.02554); the rest is ours.

    Args:
        student_stage_channels, teacher_stage_channels: C_i of the encoder stages, shallow to deep.

    Shapes: stages (N, C_i, h_i, w_i); returns ``{"features": scalar}``.
    """

    def __init__(self, *, student_stage_channels: tuple[int, ...], teacher_stage_channels: tuple[int, ...]) -> None:
        super().__init__()
        count = min(DEPTH, len(student_stage_channels), len(teacher_stage_channels))
        self.adapters = nn.ModuleList(
            nn.Conv2d(ours, theirs, kernel_size=1)
            for ours, theirs in zip(student_stage_channels[-count:], teacher_stage_channels[-count:], strict=True)
        )
        self.standards = nn.ModuleList(
            Standardised(theirs, how="channels") for theirs in teacher_stage_channels[-count:]
        )

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor) -> dict[str, Tensor]:
        errors = []
        for depth, (adapter, standard) in enumerate(
            zip(self.adapters, self.standards, strict=True), start=-len(self.adapters)
        ):
            valid = inside(teacher, teacher.stages[depth])
            wanted = standard(teacher.stages[depth], valid)
            adapted = adapter(student.stages[depth])  # (N, C_T, h, w)
            if adapted.shape[-2:] != wanted.shape[-2:]:
                adapted = F.interpolate(adapted, size=wanted.shape[-2:], mode="bilinear", align_corners=False)
            errors.append(mean(F.mse_loss(adapted, wanted, reduction="none"), valid))
        return {"features": torch.stack(errors).mean()}


class FeatureTask(DistillationTask):
    """The task of stage 0: it has no cross-entropy, and labels are not used."""

    def supervised(self, output: SegOutput, target: Tensor, weight: Tensor | None = None) -> dict[str, Tensor]:
        return {}


def source(task: DistillationTask, recipe: Stage0, *, labels: LabelSpec) -> tuple[SegNetwork, dict[str, Any]]:
    """The network whose features are learned, and facts that identify stage 0.

    It is that of ``recipe.model``, else the first teacher of the task.

    Args:
        labels: of the data set.

    Raises:
        UserError: the network of ``recipe.model`` cannot be built, or has random weights.
    """
    facts: dict[str, Any] = recipe.model_dump()
    if recipe.steps == 0 or recipe.model is None:
        return (task.teacher.first if isinstance(task.teacher, Teachers) else task.teacher), facts
    model = recipe.model
    network = models.build(model.name, model.options, num_classes=labels.num_classes, classes=labels.names)
    if not network.initial_weights:
        raise UserError(
            "distill.stage0.model: its weights are random, and their features teach nothing; set encoder_weights or "
            "weights there, or model: null for the features of the teacher"
        )
    return network, {**facts, "initial_weights": dict(network.initial_weights)}


def learn(
    train: Callable[..., Trained],
    task: DistillationTask,
    settings: TrainingSettings,
    *,
    teacher: SegNetwork,
    steps: int,
    inputs: Mapping[str, Any],
    title: str,
    curves: Path,
    checkpoints: Path,
) -> list[Trained]:
    """Train the student's encoder on features, in place; the rest of the student does not change, but for batch norm.

    An interrupted stage 0 resumes. Its last checkpoint stays until ``Trained.finish``, so that an interruption of the
    task does not repeat it.

    Args:
        train: :func:`pipeline.training.run.train` with the data set and the options of a run.
        task: its student learns.
        settings: of the task; stage 0 has the same but for its steps, without an average and without validations.
        teacher: network whose features are learned, see :func:`source`.
        steps: updates of stage 0; 0: nothing is done.
        inputs: hashes and options of the run's inputs.
        title: of the student.
        curves, checkpoints: folders of the run; those of stage 0 are in their folders ``stage0``.

    Returns:
        the run of stage 0; empty without it.

    Raises:
        UserError: the student has no encoder that learns; see ``train``.
    """
    if steps == 0:
        return []
    student, factor = task.network, settings.lr_factors["encoder"]
    if student.encoder is None or factor == 0:
        reason = "its network has no encoder" if student.encoder is None else "distill.lr_factors.encoder is 0"
        raise UserError(
            f"distill.stage0.steps: got {steps}, but the encoder of student {title} does not learn: {reason}"
        )
    seed_everything(settings.seed)  # the adapters of a run that resumes are those of its start
    loss = StandardisedFeatures(
        student_stage_channels=student.facts.stage_channels, teacher_stage_channels=teacher.facts.stage_channels
    )
    feature_task = FeatureTask(student, teacher, loss, ignore_index=task.ignore_index)
    learning = [parameter for parameter in student.parameters() if parameter.requires_grad]
    features = replace(
        settings,
        steps=steps,
        warmup=min(settings.warmup, steps),
        lr_factors={"encoder": factor, "head": 0.0, "loss": 1.0},
        ema=None,
        validate_every=None,
    )
    trained = train(
        feature_task,
        features,
        inputs={**inputs, "stage": "features"},
        title=f"{title}, stage 0",
        curves=curves / "stage0",
        checkpoints=checkpoints / "stage0",
    )
    for parameter in learning:
        parameter.requires_grad_(True)  # the head was frozen
    task.teacher.to(next(student.parameters()).device)  # all teachers, where the first one is
    return [trained]


def costs(
    before: Sequence[Trained], earlier: Sequence[Trained], trained: Trained, *, cached: float = 0.0
) -> dict[str, float | str]:
    """Costs of a run for its JSON; ``stage0_seconds`` and ``cached_seconds`` are parts of its ``training_seconds``.

    Args:
        before: what :func:`learn` returned.
        earlier: rounds before the last one, see ``training.rounds``.
        trained: the last round.
        cached: seconds in which the teacher saw whole frames.
    """
    seconds = sum(sum(stage.costs.seconds) for stage in before)
    total = seconds + cached + sum(sum(each.costs.seconds) for each in (*earlier, trained))
    parts = {"stage0_seconds": round(seconds, 3), "cached_seconds": round(cached, 3)}
    return trained.costs.to_meta() | {"training_seconds": round(total, 3), **parts}
