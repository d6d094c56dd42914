"""Warnings about a student, its teacher and its loss that do not fit each other."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from pipeline.losses import DistillationLoss
from pipeline.models import SegNetwork

log = logging.getLogger(__name__)


def warn_of_other_targets(loss: DistillationLoss, *, class_balance: float, teacher: Mapping[str, Any]) -> None:
    """Warn if the labels and the teacher give the student different targets.

    Cross-entropy with class weights raises the probabilities of rare classes. A teacher from elsewhere was usually
    trained without weights, and gives the same pixels other probabilities.

    Args:
        class_balance: of the student's training.
        teacher: meta of the teacher's artifact; ``trained`` is false for a network from elsewhere.
    """
    if loss.imitates_probabilities and class_balance and not teacher.get("trained", True):
        log.warning(
            "distill.class_balance: got %g, but the teacher was not trained here (teacher.train: false), usually "
            "without class weights: for rare classes the loss asks for lower probabilities than the labels do; set "
            "distill.class_balance: 0, or fine-tune the teacher with the same class_balance",
            class_balance,
        )


def warn_of_missing_auxiliary(loss: DistillationLoss, *, student: SegNetwork, teacher: SegNetwork) -> None:
    """Warn if the loss compares auxiliary logits and only one of the networks has them: the term is then absent."""
    heads = {"student": student.auxiliary, "teacher": teacher.auxiliary}
    missing = [name for name, head in heads.items() if head is None]
    if loss.uses_auxiliary and len(missing) == 1:
        log.warning(
            "the loss compares auxiliary logits, but the %s has no auxiliary head, so this term is absent; set "
            "aux_loss: true in the model of the %s, or in neither model",
            missing[0], missing[0],
        )  # fmt: skip
