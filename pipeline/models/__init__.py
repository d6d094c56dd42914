"""Networks: one plugin file each. ``model: {name: smp, ...}`` in params.yaml holds the options of ``smp.py``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline import option_values, plugins
from pipeline.errors import UserError
from pipeline.models._base import NetworkFacts, SegNetwork, SegOutput

__all__ = ["NetworkFacts", "SegNetwork", "SegOutput", "available", "build"]


def available() -> list[str]:
    """Names of the networks, sorted."""
    return plugins.available("models")


def build(name: str, options: dict[str, Any], *, num_classes: int, classes: Sequence[str] = ()) -> SegNetwork:
    """One network.

    Args:
        name: of the plugin.
        options: of the plugin, as in params.yaml.
        num_classes: K.
        classes: their names in train-id order; needed only if ``options`` name weights of a whole network.

    Raises:
        UserError: unknown network; unknown, missing or invalid options; weights that cannot be read or do not fit.
    """
    option_values.check("models", name, options)
    if problems := plugins.load("models", name).option_problems(options):
        raise UserError("\n".join(f"model.{problem}" for problem in problems))
    network: SegNetwork = plugins.build("models", name, options, num_classes=num_classes, classes=tuple(classes))
    return network
