"""Distillation losses: one plugin file each. ``losses.kd`` in params.yaml holds the options of ``kd.py``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline import option_values, plugins
from pipeline.errors import UserError
from pipeline.losses._base import DistillationLoss
from pipeline.losses._composition import Composition
from pipeline.losses._weights import merged, numbers, options_of

__all__ = ["Composition", "DistillationLoss", "available", "build", "build_all"]


def available() -> list[str]:
    """Names of the losses, sorted."""
    return plugins.available("losses")


def build(name: str, options: dict[str, Any], **offered: Any) -> DistillationLoss:
    """One loss, and the weights of its terms (``term_weights``), of which some may change during training.

    Args:
        name: of the plugin.
        options: by key, as in params.yaml.
        offered: facts of the run, see :func:`pipeline.plugins.build`.

    Raises:
        UserError: unknown loss; unknown, missing or invalid options.
    """
    option_values.check("losses", name, options)
    defaults = options_of(plugins.keys(plugins.load("losses", name)))
    built, weights = numbers(name, options, defaults)
    loss: DistillationLoss = plugins.build("losses", name, built, **offered)
    loss.term_weights = merged(loss.term_weights, weights)
    return loss


def build_all(mixture: Mapping[str, Mapping[str, Any]], **offered: Any) -> DistillationLoss:
    """The loss of a run: one loss, or several as a :class:`Composition`.

    They are built in the order of their names, so that random weights do not depend on the order in params.yaml.

    Args:
        mixture: loss names with their options.
        offered: facts of the run, see :func:`pipeline.plugins.build`.

    Raises:
        UserError: no loss, ``none`` together with others; see :func:`build`.
    """
    if not mixture:
        raise UserError("a student needs a loss; 'none' is the student alone")
    if "none" in mixture and len(mixture) > 1:
        raise UserError(
            f"losses {'+'.join(mixture)}: 'none' is the student alone and cannot be combined with others; leave it out"
        )
    parts = {name: build(name, dict(mixture[name]), **offered) for name in sorted(mixture)}
    return next(iter(parts.values())) if len(parts) == 1 else Composition(parts)
