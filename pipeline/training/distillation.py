"""The task of learning from labels and a teacher: it owns the student, the loss and the frozen teacher."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline import losses
from pipeline.errors import UserError
from pipeline.losses import DistillationLoss
from pipeline.losses._classes import resize_labels
from pipeline.losses._padding import inside
from pipeline.models import SegNetwork, SegOutput
from pipeline.prepared import Prepared
from pipeline.settings.param_types import FrameLabels
from pipeline.training.balance import Balance
from pipeline.training.frame_outputs import FrameOutputs
from pipeline.training.pseudo_labels import PseudoLabels, cross_entropy
from pipeline.training.tasks import Normaliser, SupervisedTask


class DistillationTask(SupervisedTask):
    """A student that learns from labels and from a frozen teacher: the only place that knows both networks.

    Each network gets the frames normalised with its own mean and deviation.

    ``train()`` leaves the teacher in eval mode, and it runs under no_grad. Its logits, auxiliary logits and embedding
    are resized to the student's (h, w) once when strides differ (bilinear, align_corners False; in the CIRKD code base
    strides agree and nothing is resized). Its weights are no part of the task's state.

    Frames without labels have no cross-entropy with labels. ``labels`` says what they have instead:

    - ``soft``: the terms of the loss. Where a loss uses labels, it gets the confident predictions of the labeller.
    - ``hard``: cross-entropy with these predictions, as ``pseudo_ce``: the mean over the frames without labels of
      :func:`pipeline.training.pseudo_labels.cross_entropy`, at the size of the logits. The loss gets the frames with
      labels only.
    - ``both``: both.

    Args:
        labels: soft, hard or both.
        pseudo: which predictions are confident; None: there are no frames without labels, or only soft terms.

    Attributes:
        unlabelled_share: share of a batch's images that have no labels; a run sets it.
        cached: whether the teacher's output on whole frames is computed before the training, where ``known`` allows.
        outputs, cached_seconds: this output, for all rounds of a training, and the time that it took.
    """

    def __init__(
        self,
        student: SegNetwork,
        teacher: SegNetwork,
        loss: DistillationLoss,
        *,
        ignore_index: int,
        labels: FrameLabels = "soft",
        pseudo: PseudoLabels | None = None,
    ) -> None:
        super().__init__(student, ignore_index=ignore_index)
        self.loss = loss
        self.balance = Balance(loss.term_weights, until=loss.until)
        self._teacher = [teacher.eval().requires_grad_(False)]  # in a list: not a submodule, so not optimised or saved
        self.normalise_for_teacher = Normaliser(teacher)
        self.labels = labels
        self.pseudo = pseudo if labels != "soft" or loss.uses_labels else None
        self._labeller: list[SegNetwork] = []
        self.unlabelled_share = 0.0
        self.cached, self.cached_seconds = False, 0.0
        self.outputs: FrameOutputs | None = None

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
        labels: FrameLabels = "soft",
        threshold: float | None = None,
        keep: float = 0.0,
    ) -> DistillationTask:
        """The task on a prepared data set, with the losses of a student.

        Args:
            student, teacher: networks with the data set's classes.
            options: options of each loss by the loss's name.
            steps: forward passes of the training, see ``TrainingSettings.forward_passes``.
            seed: of the training.
            labels: what frames without labels teach, see the class.
            threshold, keep: see :class:`PseudoLabels`; None: no frames without labels will come.
        """
        spec = prepared.labels
        facts = {"num_classes": spec.num_classes, "ignore_index": spec.ignore_index}
        loss = losses.build_all(
            options,
            steps=steps,
            seed=seed,
            **facts,
            **student.facts.offered("student"),
            **teacher.facts.offered("teacher"),
        )
        pseudo = None if threshold is None else PseudoLabels(**facts, threshold=threshold, keep=keep)
        return cls(student, teacher, loss, ignore_index=spec.ignore_index, labels=labels, pseudo=pseudo)

    @property
    def teacher(self) -> SegNetwork:
        return self._teacher[0]

    def forward(
        self, x: Tensor, target: Tensor, weight: Tensor | None = None, unlabelled: Sequence[bool] | None = None,
        outputs: Sequence[Tensor] = (),
    ) -> dict[str, Tensor]:  # fmt: skip
        """Terms of the loss and their sum.

        Args:
            weight: see :class:`SupervisedTask`.
            unlabelled: which images are frames without labels, (N,); None: none of them. Their pixels have the ignored
                id. Void pixels of other images have it too, and stay ignored.
            outputs: the teacher's output for these crops, (N, C, h, w) for each field in :attr:`known`; empty: the
                teacher runs.
        """
        target, valid = self.receive(target)
        student = self.predict(x, valid)
        supervised = self.supervised(student, target, weight)
        hard = unlabelled is not None and self.pseudo is not None and self.labels != "soft"
        if self.balance.over and not hard:
            return self.total(supervised)
        labelled_by_student = self.balance.over and bool(self._labeller)
        teacher = student.detach() if labelled_by_student else self.teach(x, student, outputs)
        terms, curves = dict(supervised), {}
        if unlabelled is not None and self.pseudo is not None:
            chosen = _positions(unlabelled, True, device=x.device)
            labels = self._labels(x, student, teacher, chosen)
            target = target.index_copy(0, chosen, resize_labels(labels, target.shape[-2:]))
            if hard:
                terms["pseudo_ce"] = self._pseudo_cross_entropy(student, labels, chosen)
        if not self.balance.over:
            taught = self._taught(student, teacher, target, unlabelled)
            if clash := ", ".join(sorted({"loss", *terms} & set(taught))):
                raise UserError(f"the loss returns a term named {clash}, which the task uses itself; rename it")
            taught, curves = self.balance(taught, supervised, student)
            terms |= taught
        return {**self.total(terms), **curves}

    def _taught(
        self, student: SegOutput, teacher: SegOutput, target: Tensor, unlabelled: Sequence[bool] | None
    ) -> dict[str, Tensor]:
        """The terms of the loss on all images; with ``hard`` on images with labels only, whose number is then the
        weight of a part of a batch."""
        if unlabelled is None or self.labels != "hard":
            return self.loss(student, teacher, target)
        chosen = _positions(unlabelled, False, device=target.device)
        taught = self.loss(_images(student, chosen), _images(teacher, chosen), target[chosen])
        factor = len(chosen) / (len(target) * (1 - self.unlabelled_share))
        return {name: value * factor for name, value in taught.items()}

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
        return [self.network, self.teacher, *self._labeller]

    def label_with(self, network: SegNetwork) -> None:
        """From now on a copy of this network, not the teacher, labels frames without labels.

        Args:
            network: with the student's normalisation.
        """
        self._labeller = [copy.deepcopy(network).eval().requires_grad_(False)]

    @property
    def teacher_runs(self) -> bool:
        return self.loss.uses_teacher or (self.pseudo is not None and not self._labeller)

    @torch.no_grad()
    def labelling(self, x: Tensor, valid: Tensor | None) -> SegOutput:
        """The output of the network that labels frames without labels, for frames (N, 3, H, W), RGB in 0..255."""
        network = self._labeller[0] if self._labeller else self.teacher
        normalise = self.normalise if self._labeller else self.normalise_for_teacher
        output: SegOutput = network.to(x.device)(normalise(x, valid))
        return replace(output, valid=valid)

    def _labels(self, x: Tensor, student: SegOutput, teacher: SegOutput, chosen: Tensor) -> Tensor:
        """Labels (n, h, w) of the chosen images at the size of the student's logits."""
        assert self.pseudo is not None
        logits = teacher.logits[chosen]
        if self._labeller:
            logits = self.labelling(x[chosen], _rows(student.valid, chosen)).logits
        valid = _rows(inside(student, student.logits), chosen)
        labels: Tensor = self.pseudo(_resize(logits, student.logits.shape[-2:]), valid)
        return labels

    def _pseudo_cross_entropy(self, student: SegOutput, labels: Tensor, chosen: Tensor) -> Tensor:
        """Its mean over the parts of a batch is the mean over the batch's frames without labels."""
        values = cross_entropy(
            student.logits[chosen], labels, ignore_index=self.ignore_index, class_weights=self.class_weights,
            valid=_rows(inside(student, student.logits), chosen),
        )  # fmt: skip
        return values.sum() / (len(student.logits) * self.unlabelled_share)

    @property
    def known(self) -> tuple[str, ...]:
        """Fields of the teacher's output that are enough for the loss, and can be computed once per frame; empty: the
        teacher must run on every crop."""
        reads = set(self.loss.reads) if self.loss.uses_teacher else set()
        if self.pseudo is not None:
            reads.add("logits")
        if self.network.auxiliary is None or self.teacher.auxiliary is None:
            reads.discard("aux")
        return tuple(sorted(reads)) if reads <= {"embedding", "logits"} else ()

    @property
    def reads_cache(self) -> bool:
        """Whether crops bring the teacher's output, so that the teacher does not run on them."""
        return self.cached and self.teacher_runs and bool(self.known)

    def teach(self, x: Tensor, student: SegOutput, outputs: Sequence[Tensor] = ()) -> SegOutput:
        """The teacher's output at the student's resolution; the student's own when nothing uses the teacher.

        Args:
            x: (N, 3, H, W), RGB in 0..255.
            student: the student's output for it.
            outputs: see :meth:`forward`. A field that is not among them is nan.
        """
        if not self.teacher_runs:
            return student.detach()
        if outputs:
            nothing = student.logits.new_full((), torch.nan, dtype=torch.float32)
            fields = {name: nothing.expand_as(getattr(student, name)) for name in ("logits", "embedding")}
            for name, part in zip(self.known, outputs, strict=True):
                fields[name] = _resize(part.float(), getattr(student, name).shape[-2:])
            return SegOutput(logits=fields["logits"], embedding=fields["embedding"], valid=student.valid)
        with torch.no_grad():
            if next(self.teacher.parameters()).device != x.device:
                self.teacher.to(x.device)
            self.teacher.auxiliary_in_eval(self.loss.uses_auxiliary)  # tasks that follow each other share the teacher
            output: SegOutput = self.teacher(self.normalise_for_teacher(x, student.valid))
            size = student.logits.shape[-2:]
            return SegOutput(
                logits=_resize(output.logits, size),
                embedding=_resize(output.embedding, student.embedding.shape[-2:]),
                stages=output.stages,
                aux=None if output.aux is None or student.aux is None else _resize(output.aux, student.aux.shape[-2:]),
                valid=student.valid,
            )


def _positions(flags: Sequence[bool], value: bool, *, device: torch.device) -> Tensor:
    """Positions of the flags that have a value; the host does not wait for the copy."""
    positions = torch.tensor([position for position, flag in enumerate(flags) if flag == value], dtype=torch.int64)
    if device.type == "cuda":
        positions = positions.pin_memory()
    return positions.to(device, non_blocking=True)


def _rows(x: Tensor | None, chosen: Tensor) -> Tensor | None:
    return None if x is None else x[chosen]


def _images(output: SegOutput, chosen: Tensor) -> SegOutput:
    """The output for some of its images."""
    return replace(output.map(lambda x: x[chosen]), valid=_rows(output.valid, chosen))


def _resize(x: Tensor, size: torch.Size) -> Tensor:
    return x if x.shape[-2:] == size else F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
