"""Losses and gradient norms of steps: they stay on the device until the host reads those of several steps together.

To read a value, the host waits until the device has computed it, and meanwhile launches nothing. So losses and norms
are read every few steps; a loss that is not finite is noticed up to that many steps later, and the message names
the step and the samples where it happened.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from pipeline.training.guards import Watch
from pipeline.training.processes import total

#: Steps between two reads, by the type of the device; on other devices every step is read.
EVERY = {"cuda": 20}


@dataclass(frozen=True)
class Reading:
    """A step: its 1-based number, and the terms of its loss, means over parts and processes; ``loss`` is their sum
    (names with a slash are values for the curves)."""

    step: int
    terms: dict[str, float]


@dataclass(frozen=True)
class _Unread:
    step: int
    samples: Sequence[str]
    names: tuple[str, ...]
    values: Tensor  # (names + 1,) float32; the last one is the norm of the gradient


class Readings:
    """The steps that were not read yet.

    Args:
        watch: checks every step when it is read.
    """

    def __init__(self, watch: Watch, *, accelerator: Accelerator) -> None:
        self._watch, self._accelerator = watch, accelerator
        self._unread: list[_Unread] = []

    def __len__(self) -> int:
        return len(self._unread)

    def add(self, step: int, *, samples: Sequence[str], terms: Mapping[str, Tensor], gradient: Tensor) -> None:
        """Keep the values of a step on the device.

        Args:
            step: 1-based.
            samples: names of the samples that this process used, for messages.
            terms: scalars of this process; ``loss`` is their sum.
            gradient: norm of the gradient, a scalar.
        """
        values = torch.stack([*terms.values(), gradient.float()])
        self._unread.append(_Unread(step=step, samples=samples, names=tuple(terms), values=values))

    def read(self) -> list[Reading]:
        """Wait for the device, check the steps since the last call, and return them in order.

        With several processes all must call this after the same steps.

        Raises:
            UserError: loss or gradient of a step is not finite, or its loss explodes.
            SystemExit: the loss of another process is not finite: that process names its samples.
        """
        unread, self._unread = self._unread, []
        if not unread:
            return []
        values = torch.cat([step.values for step in unread])
        own = iter(values.tolist())  # one transfer for all steps
        processes = self._accelerator.num_processes
        means = None if processes == 1 else iter((total(self._accelerator, values) / processes).tolist())
        readings = []
        for step in unread:
            *terms, gradient = itertools.islice(own, len(step.values))
            reported = dict(zip(step.names, terms, strict=True))
            shared = reported
            if means is not None:
                *terms, _ = itertools.islice(means, len(step.values))
                shared = dict(zip(step.names, terms, strict=True))
            if math.isfinite(reported["loss"]) and not math.isfinite(shared["loss"]):
                raise SystemExit(1)
            self._watch.check(
                reported, step=step.step, names=step.samples, gradient=gradient,
                scaled=self._accelerator.scaler is not None,
            )  # fmt: skip
            readings.append(Reading(step=step.step, terms=shared))
        return readings
