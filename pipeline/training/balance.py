"""Weights of distillation terms that change during training: schedules, and weights that fit themselves.

A term with ``weight: auto`` is held at a share of the cross-entropy. What is compared is the strength of a gradient:
the sum over all positions of its length at one tensor of the student. Strengths of means over pixels do not depend on
how many pixels there are, and those of parts of a batch add up to that of the batch.

The tensor is the first of embedding, logits, auxiliary logits and encoder stages (deep to shallow) that both the term
and the cross-entropy (with that of the auxiliary head) reach. Terms on logits reach the embedding through the
classifier.

Strengths are measured in each of the first :data:`FIRST` steps and later every :func:`interval` steps, in the forward
pass of training, by one more backward pass from each term to that tensor. In a step every term has the weight that the
steps before it gave; in the first step it is 0.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.losses._distributed import mean_over_processes
from pipeline.losses._numerics import at_least_float32
from pipeline.losses._weights import TermWeight
from pipeline.models import SegOutput

log = logging.getLogger(__name__)

#: Steps at the start that are all measured; their geometric mean is the weight.
FIRST = 5
#: Share of a later measurement in the moving geometric mean.
RATE = 0.3
#: Least and most steps between two later measurements.
INTERVALS = (20, 200)
#: Measurements of a training after the first, if the interval allows it.
LATER = 15
#: Highest factor of a weight, and of its inverse: over the option's default, and over what the first steps gave.
OF_DEFAULT, OF_FIRST = 1e6, 100.0
#: Gradients are computed for terms times this number, so that they are no zeros in float16 (GradScaler's own start).
SCALE = 2.0**16


def interval(steps: int) -> int:
    """Steps between two measurements after the first steps of a training.

    Example:
        >>> [interval(steps) for steps in (60, 300, 1000, 40000)]
        [20, 20, 66, 200]
    """
    return min(INTERVALS[1], max(INTERVALS[0], steps // LATER))


class Balance(nn.Module):
    """Multiplies the terms of a loss by factors that change during training.

    State (buffers): ``measured`` (n,) the number of measurements of each term with ``weight: auto``; ``fit`` (n,) the
    logarithm of their moving geometric mean of cross-entropy's strength / term's strength; ``start`` (n,) its value
    after the first steps. A measurement without a gradient of the term or of the cross-entropy (no labels in the
    batch), or with one that is not finite, does not count. The factor stays within 1e-6 to 1e6, and within 1/100 to
    100 times that of the first steps; at a bound a warning is printed.

    Args:
        weights: of the terms, by name.
        until: part of the training after which no term of the loss counts; 1: never.
    """

    measured: Tensor
    fit: Tensor
    start: Tensor
    strengths: Tensor
    at_bound: Tensor

    def __init__(self, weights: Mapping[str, TermWeight], *, until: float = 1.0) -> None:
        super().__init__()
        self.weights = {name: weight for name, weight in weights.items() if weight.changes}
        self.until = until
        self.auto = [name for name, weight in self.weights.items() if weight.share is not None]
        self.step, self.steps = 1, 1
        self._warned: set[str] = set()
        count = len(self.auto)
        if count:
            self.register_buffer("measured", torch.zeros(count, dtype=torch.int64))
            self.register_buffer("fit", torch.zeros(count))
            self.register_buffer("start", torch.zeros(count))
            self.register_buffer("strengths", torch.zeros(2, count), persistent=False)  # cross-entropy, term
            self.register_buffer("at_bound", torch.zeros(count, dtype=torch.bool), persistent=False)

    def begin(self, step: int, *, steps: int) -> None:
        """Say which update is next.

        Args:
            step: 1-based.
            steps: of the training.
        """
        self.step, self.steps = step, steps

    @property
    def measures(self) -> bool:
        """Whether this step is measured."""
        return bool(self.auto) and (self.step <= FIRST or self.step % interval(self.steps) == 0)

    @property
    def over(self) -> bool:
        """Whether all terms have ended, so that the loss need not be computed."""
        return self.until <= self._done

    @property
    def _done(self) -> float:
        """The part of the training before this step, below 1."""
        return (self.step - 1) / self.steps

    def forward(
        self, terms: Mapping[str, Tensor], supervised: Mapping[str, Tensor], student: SegOutput
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Terms with their weights in this step, and values for the curves.

        Args:
            terms: of the loss, as built.
            supervised: terms of the labels.
            student: the output from which both were computed.

        Returns:
            the terms; ``weight/<term>`` for each term whose weight changes, and, in a step that measures,
            ``share/<term>``: the strength of the weighted term / that of the cross-entropy, 0 where that is not a
            finite number.

        Raises:
            UserError: a term and the cross-entropy have no tensor in common.
        """
        weighted, curves = dict(terms), {}
        strengths = self._measure(terms, supervised, student) if self.measures else None
        for name, weight in self.weights.items():
            if name not in terms:
                continue
            factor = self._fitted(name, weight, device=terms[name].device) * weight.factor(self._done)
            weighted[name] = factor.to(terms[name].dtype) * terms[name]
            curves[f"weight/{name}"] = weight.base * factor
            if strengths is not None and name in self.auto:
                reference, own = strengths[:, self.auto.index(name)]
                share = factor * own / reference
                curves[f"share/{name}"] = torch.where(share.isfinite(), share, 0.0)
        return weighted, curves

    def _fitted(self, name: str, weight: TermWeight, *, device: torch.device | None = None) -> Tensor:
        if weight.share is None:
            return torch.ones((), device=device)
        index = self.auto.index(name)
        return torch.where(self.measured[index] > 0, weight.share * self.fit[index].exp(), 0.0)

    def _measure(self, terms: Mapping[str, Tensor], supervised: Mapping[str, Tensor], student: SegOutput) -> Tensor:
        """Strengths (2, n) of the cross-entropy and of the terms, in this part of a batch of this process."""
        reference = torch.stack(list(supervised.values())).sum()
        places = [student.embedding, student.logits, student.aux, *reversed(student.stages)]
        trained = [place for place in places if place is not None and place.requires_grad]
        of_labels: dict[int, Tensor | None] = {}
        rows = torch.zeros_like(self.strengths)
        for column, name in enumerate(self.auto):
            if name not in terms or not terms[name].requires_grad:
                continue
            for index, place in enumerate(trained):
                if (own := strength(terms[name], place)) is None:
                    continue
                if index not in of_labels:
                    of_labels[index] = strength(reference, place)
                labels = of_labels[index]
                if labels is not None:
                    rows[:, column] = torch.stack([labels, own]).to(rows.dtype)
                    break
            else:
                raise UserError(
                    f"the term {name} has the weight auto, but it and the cross-entropy reach no tensor of the student "
                    "in common: give it a number"
                )
        self.strengths += rows
        return rows

    @torch.no_grad()
    def finish(self) -> None:
        """After all parts of a batch: fit the weights to what was measured. All processes must call it."""
        if not self.measures:
            return
        reference, own = mean_over_processes(self.strengths)
        ratio = (reference / own).log()
        self.strengths.zero_()
        counts = ratio.isfinite()
        self.measured += counts
        rate = (1 / self.measured.clamp(min=1)).clamp(min=RATE) if self.step > FIRST else 1 / self.measured.clamp(min=1)
        fit = torch.where(counts, self.fit + rate * (ratio - self.fit), self.fit)
        widest = math.log(OF_DEFAULT)
        low, high = (torch.full_like(fit, bound) for bound in (-widest, widest))
        if self.step > FIRST:
            settled = self.measured > counts  # measured in a step before this one
            around = math.log(OF_FIRST)
            low = torch.where(settled, (self.start - around).clamp(min=-widest), low)
            high = torch.where(settled, (self.start + around).clamp(max=widest), high)
            self.start.copy_(torch.where(settled, self.start, fit))
        self.fit.copy_(fit.clamp(low, high))
        if self.step <= FIRST:
            self.start.copy_(self.fit)
        self.at_bound |= fit != self.fit

    def warn(self) -> None:
        """Print a warning, once, for each term whose weight is at a bound or that was not measured in the first steps.

        It waits for the device.
        """
        if not self.auto:
            return
        for name, bound, measured in zip(self.auto, self.at_bound.tolist(), self.measured.tolist(), strict=True):
            if name in self._warned or not (bound or (not measured and self.step > FIRST)):
                continue
            self._warned.add(name)
            if bound:
                log.warning(
                    "the weight auto of the term %s reached its bound (%g times the default, or %g times that of the "
                    "first steps): its gradient is far from that of the cross-entropy; give it a number, or leave the "
                    "term out",
                    name, OF_DEFAULT, OF_FIRST,
                )  # fmt: skip
            else:
                log.warning(
                    "the term %s has the weight auto, but in the first %d steps it or the cross-entropy had no "
                    "gradient, or one that is not finite, or the term was absent: it does not count until it is "
                    "measured",
                    name, FIRST,
                )  # fmt: skip

    def values(self) -> dict[str, float]:
        """The weight of each term with the weight auto, without its schedule; 0: it was never measured."""
        return {name: self.weights[name].base * float(self._fitted(name, self.weights[name])) for name in self.auto}


def strength(term: Tensor, place: Tensor) -> Tensor | None:
    """Sum over positions of the length of a term's gradient at a tensor (N, C, h, w); None: it does not reach it."""
    scale = term.new_full((), SCALE)
    gradient: Tensor | None
    (gradient,) = torch.autograd.grad(term, place, scale, retain_graph=True, allow_unused=True)
    if gradient is None:
        return None
    lengths: Tensor = torch.linalg.vector_norm(at_least_float32(gradient), dim=1)  # (N, h, w)
    return lengths.sum() / SCALE
