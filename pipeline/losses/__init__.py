"""Distillation losses: one plugin file each. ``losses.kd`` in params.yaml holds the options of ``kd.py``."""

from __future__ import annotations

from typing import Any

from pipeline import plugins
from pipeline.losses._base import DistillationLoss

__all__ = ["DistillationLoss", "available", "build"]


def available() -> list[str]:
    return plugins.available("losses")


def build(name: str, options: dict[str, Any], **offered: Any) -> DistillationLoss:
    loss: DistillationLoss = plugins.build("losses", name, options, **offered)
    return loss
