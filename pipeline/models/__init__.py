"""Networks: one plugin file each. ``model: {name: smp, ...}`` in params.yaml holds the options of ``smp.py``."""

from __future__ import annotations

from typing import Any

from pipeline import plugins
from pipeline.models._base import NetworkFacts, SegNetwork, SegOutput

__all__ = ["NetworkFacts", "SegNetwork", "SegOutput", "available", "build"]


def available() -> list[str]:
    return plugins.available("models")


def build(name: str, options: dict[str, Any], *, num_classes: int) -> SegNetwork:
    network: SegNetwork = plugins.build("models", name, options, num_classes=num_classes)
    return network
