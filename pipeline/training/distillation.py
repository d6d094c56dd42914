"""The task of learning from labels and a teacher: it owns the student, the loss and the frozen teacher."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline import losses
from pipeline.errors import UserError
from pipeline.losses import DistillationLoss
from pipeline.models import SegNetwork, SegOutput
from pipeline.prepared import Prepared
from pipeline.training.balance import Balance
from pipeline.training.tasks import Normaliser, SupervisedTask

log = logging.getLogger(__name__)


class DistillationTask(SupervisedTask):
    """A student that learns from labels and from a frozen teacher: the only place that knows both networks.

    Each network gets the frames normalised with its own mean and deviation.

    ``train()`` leaves the teacher in eval mode, and it runs under no_grad. Its logits, auxiliary logits and embedding
    are resized to the student's (h, w) once when strides differ (bilinear, align_corners False; in the CIRKD code base
    strides agree and nothing is resized). Its weights are no part of the task's state.
    """

    def __init__(
        self,
        student: SegNetwork,
        teacher: SegNetwork,
        loss: DistillationLoss,
        *,
        ignore_index: int,
    ) -> None:
        super().__init__(student, ignore_index=ignore_index)
        self.loss = loss
        self.balance = Balance(loss.term_weights, until=loss.until)
        self._teacher = [teacher.eval().requires_grad_(False)]  # in a list: not a submodule, so not optimised or saved
        teacher.auxiliary_in_eval(loss.uses_auxiliary)
        self.normalise_for_teacher = Normaliser(teacher)

    @classmethod
    def on(
        cls,
        prepared: Prepared,
        student: SegNetwork,
        teacher: SegNetwork,
        options: Mapping[str, Mapping[str, Any]],
        *,
        steps: int,
        seed: int,
    ) -> DistillationTask:
        """The task on a prepared data set, with the losses of a student.

        Args:
            student, teacher: networks with the data set's classes.
            options: options of each loss by the loss's name.
            steps: forward passes of the training, see ``TrainingSettings.forward_passes``.
            seed: of the training.
        """
        labels = prepared.labels
        loss = losses.build_all(
            options,
            steps=steps,
            seed=seed,
            num_classes=labels.num_classes,
            ignore_index=labels.ignore_index,
            **student.facts.offered("student"),
            **teacher.facts.offered("teacher"),
        )
        return cls(student, teacher, loss, ignore_index=labels.ignore_index)

    @property
    def teacher(self) -> SegNetwork:
        return self._teacher[0]

    def forward(self, x: Tensor, target: Tensor, weight: Tensor | None = None) -> dict[str, Tensor]:
        target, valid = self.receive(target)
        student = self.predict(x, valid)
        terms = self.supervised(student, target, weight)
        if self.balance.over:
            return self.total(terms)
        taught = self.loss(student, self.teach(x, student), target)
        if clash := sorted({"loss", *terms} & set(taught)):
            raise UserError(f"the loss returns a term named {', '.join(clash)}, which the task uses itself; rename it")
        taught, curves = self.balance(taught, terms, student)
        return {**self.total({**terms, **taught}), **curves}

    def predict(self, x: Tensor, valid: Tensor | None) -> SegOutput:
        # In a compiled network autograd sees no path from the embedding to the logits.
        compiled = self.network._compiled_call_impl is not None
        with torch.compiler.set_stance("force_eager") if compiled and self.balance.measures else nullcontext():
            return super().predict(x, valid)

    def begin(self, step: int, *, steps: int) -> None:
        self.balance.begin(step, steps=steps)

    def finish(self) -> None:
        self.balance.finish()

    def check(self) -> None:
        self.balance.warn()

    @property
    def parameters_of_loss(self) -> int:
        """Trainable parameters of the losses, which no artifact holds."""
        return sum(p.numel() for p in self.loss.parameters() if p.requires_grad)

    def networks(self) -> list[SegNetwork]:
        return [self.network, self.teacher]

    def teach(self, x: Tensor, student: SegOutput) -> SegOutput:
        """The teacher's output at the student's resolution; the student's own when the loss uses no teacher.

        Args:
            x: (N, 3, H, W), RGB in 0..255.
            student: the student's output for it.
        """
        if not self.loss.uses_teacher:
            return student.detach()
        with torch.no_grad():
            if next(self.teacher.parameters()).device != x.device:
                self.teacher.to(x.device)
            output: SegOutput = self.teacher(self.normalise_for_teacher(x, student.valid))
            size = student.logits.shape[-2:]
            return SegOutput(
                logits=_resize(output.logits, size),
                embedding=_resize(output.embedding, student.embedding.shape[-2:]),
                stages=output.stages,
                aux=None if output.aux is None or student.aux is None else _resize(output.aux, student.aux.shape[-2:]),
                valid=student.valid,
            )


def warn_of_other_targets(loss: DistillationLoss, *, class_balance: float, teacher: Mapping[str, Any]) -> None:
    """Warn where labels and teacher give the student targets that it cannot both reach.

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


def _resize(x: Tensor, size: torch.Size) -> Tensor:
    return x if x.shape[-2:] == size else F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
