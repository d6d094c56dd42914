"""When training must stop: a loss or gradient that is not finite, or a loss that explodes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pipeline.errors import UserError

#: A loss explodes when it is this many times its running mean, and above EXPLODED.
TIMES, EXPLODED = 1000.0, 100.0
KEPT = 0.98  # share of the running mean that stays from step to step
SKIPPED = 100  # consecutive updates that fp16 may skip because its gradients overflow


class Watch:
    """Checks every step of a run.

    Two numbers belong to the run's state: ``average``, the running mean of the loss, and ``skipped``, the number of
    consecutive updates that fp16 skipped.
    """

    def __init__(self) -> None:
        self.average: float | None = None
        self.skipped = 0

    def check(
        self, terms: Mapping[str, float], *, step: int, names: Sequence[str], gradient: float, scaled: bool
    ) -> None:
        """Stop after a step with a loss or a gradient that cannot be right.

        Args:
            terms: values of this process; ``loss`` is their sum.
            step: 1-based.
            names: the samples that this process used in the step.
            gradient: norm of the gradient.
            scaled: whether the gradient was scaled for fp16: then an overflow skips the update and lowers the scale.

        Raises:
            UserError: with the step, every term and the names of the samples.
        """
        loss = terms["loss"]
        if not math.isfinite(loss):
            raise UserError(_message("the loss is not finite", terms, step, names))
        if self.average is not None and loss > max(EXPLODED, TIMES * self.average):
            raise UserError(
                _message(f"the loss explodes (its running mean was {self.average:.4g})", terms, step, names)
            )
        self.average = loss if self.average is None else KEPT * self.average + (1 - KEPT) * loss
        if math.isfinite(gradient):
            self.skipped = 0
        elif not scaled:
            raise UserError(_message("the gradient is not finite", terms, step, names))
        else:
            self.skipped += 1
            if self.skipped > SKIPPED:
                raise UserError(
                    _message(
                        f"{self.skipped} updates in a row overflowed in fp16; use bf16 or fp32", terms, step, names
                    )
                )

    def state(self) -> dict[str, float | None]:
        return {"average": self.average, "skipped": self.skipped}

    def restore(self, state: Mapping[str, float | None]) -> None:
        self.average, self.skipped = state["average"], int(state["skipped"] or 0)


def _message(what: str, terms: Mapping[str, float], step: int, names: Sequence[str]) -> str:
    values = ", ".join(f"{name} {value:.4g}" for name, value in terms.items())
    return (
        f"{what} at step {step} ({values}), on {', '.join(names)}; look at these samples, lower the learning rate or "
        "the term's weight, or set clip_norm"
    )
