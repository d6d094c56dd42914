"""Trainable layers, parts of a loss, that bring the student's features to the teacher's number of channels."""

from __future__ import annotations

from typing import Literal

from torch import nn

#: ``plain``: a convolution; ``norm``: batch norm before it, so that the scale of the student's features is gone.
Adapter = Literal["plain", "norm"]


def match_channels(student: int, teacher: int, adapter: Adapter = "plain") -> nn.Module:
    """A 1x1 convolution without bias; ``plain`` is the identity when the numbers of channels agree."""
    if adapter == "plain" and student == teacher:
        return nn.Identity()
    return convolution(student, teacher, adapter)


def convolution(student: int, teacher: int, adapter: Adapter) -> nn.Module:
    """A 1x1 convolution without bias; for ``norm`` after batch norm without scale and offset."""
    layer = nn.Conv2d(student, teacher, kernel_size=1, bias=False)
    return layer if adapter == "plain" else nn.Sequential(nn.BatchNorm2d(student, affine=False), layer)
