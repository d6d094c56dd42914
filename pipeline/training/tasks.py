"""Tasks: a module that owns the networks and the loss of one run and returns ``{"loss": ..., "<term>": ...}``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.losses import DistillationLoss
from pipeline.models import SegNetwork, SegOutput

AUX_WEIGHT = 0.4  # of the auxiliary head's cross-entropy, as in the CIRKD code base


class SupervisedTask(nn.Module):
    """A network that learns from labels.

    Args:
        network: the network to train.
        ignore_index: target id that counts nowhere.
        class_weights: (K,) weights of the cross-entropy, or None.

    Shapes: x (N, 3, H, W), target (N, H, W) int64.
    """

    def __init__(self, network: SegNetwork, *, ignore_index: int, class_weights: Tensor | None = None) -> None:
        super().__init__()
        self.network = network
        self.ignore_index = ignore_index
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, x: Tensor, target: Tensor) -> dict[str, Tensor]:
        return self.total(self.supervised(self.network(x), target))

    def supervised(self, output: SegOutput, target: Tensor) -> dict[str, Tensor]:
        terms = {"ce": self.cross_entropy(output.logits, target)}
        if output.aux is not None:
            terms["aux"] = AUX_WEIGHT * self.cross_entropy(output.aux, target)
        return terms

    def cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean over labelled pixels at label size; a connected zero when there is none."""
        upsampled = F.interpolate(logits.float(), size=target.shape[-2:], mode="bilinear", align_corners=False)
        if not bool((target != self.ignore_index).any()):
            return upsampled.sum() * 0.0
        weights: Tensor | None = self.class_weights  # type: ignore[assignment]
        return F.cross_entropy(upsampled, target, weight=weights, ignore_index=self.ignore_index)

    @staticmethod
    def total(terms: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}


class DistillationTask(SupervisedTask):
    """A student that learns from labels and from a frozen teacher: the only place that knows both networks.

    The teacher stays in eval mode whatever ``train()`` is called, runs under no_grad, and is resized to the student's
    (h, w) once when strides differ. Its weights are no part of the task's state.
    """

    def __init__(
        self,
        student: SegNetwork,
        teacher: SegNetwork,
        loss: DistillationLoss,
        *,
        ignore_index: int,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__(student, ignore_index=ignore_index, class_weights=class_weights)
        self.loss = loss
        self._teacher = [teacher.eval().requires_grad_(False)]  # in a list: not a submodule, so not optimised or saved

    @property
    def teacher(self) -> SegNetwork:
        return self._teacher[0]

    def forward(self, x: Tensor, target: Tensor) -> dict[str, Tensor]:
        student = self.network(x)
        terms = self.supervised(student, target)
        terms.update(self.loss(student, self.teach(x, student), target))
        return self.total(terms)

    def teach(self, x: Tensor, student: SegOutput) -> SegOutput:
        """The teacher's output at the student's resolution; the student's own when the loss asks for no teacher."""
        if not self.loss.uses_teacher:
            return student.detach()
        with torch.no_grad():
            self.teacher.to(x.device)
            output: SegOutput = self.teacher(x)
            size = student.logits.shape[-2:]
            return SegOutput(
                logits=_resize(output.logits, size),
                embedding=_resize(output.embedding, student.embedding.shape[-2:]),
                stages=output.stages,
            )


def _resize(x: Tensor, size: torch.Size) -> Tensor:
    return x if x.shape[-2:] == size else F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
