"""What networks return and declare; losses and tasks rely on nothing else."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor, nn

from pipeline.errors import UserError

log = logging.getLogger(__name__)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
NEAR = 0.005  # distance of two means that are the same but for rounding
BYTE = 255  # the highest value of a pixel


@dataclass(frozen=True)
class SegOutput:
    """Outputs of a segmentation network for a batch of N crops.

    Attributes:
        logits: (N, K, h, w), before upsampling.
        embedding: (N, C, h, w), the tensor that enters the classifier.
        stages: encoder feature maps (N, C_i, h_i, w_i), shallow to deep.
        aux: (N, K, h', w') auxiliary logits, training only.
    """

    logits: Tensor
    embedding: Tensor
    stages: tuple[Tensor, ...] = ()
    aux: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> SegOutput:
        """Every tensor through a function."""
        return SegOutput(
            logits=function(self.logits),
            embedding=function(self.embedding),
            stages=tuple(function(stage) for stage in self.stages),
            aux=None if self.aux is None else function(self.aux),
        )

    def detach(self) -> SegOutput:
        """The same values without gradient."""
        return self.map(Tensor.detach)


@dataclass(frozen=True)
class NetworkFacts:
    """Declared shapes: what a loss may build its adapters from, without a dummy forward.

    Attributes:
        channels: C of the embedding.
        stage_channels: C_i of each encoder stage, shallow to deep.
        output_stride: input size / logits size.
        divisor: height and width of the input must be multiples of it.
    """

    channels: int
    stage_channels: tuple[int, ...]
    output_stride: int
    divisor: int

    def offered(self, role: str) -> dict[str, Any]:
        """These facts under the names by which losses ask for them, e.g. ``student_channels``."""
        return {f"{role}_{field.name}": getattr(self, field.name) for field in fields(self)}


class SegNetwork(nn.Module, ABC):
    """A network as a plugin: RGB floats (normalised) in, :class:`SegOutput` out.

    Attributes:
        facts: declared channels and strides.
        mean, std: per-channel normalisation of RGB in 0..1 that the encoder expects.
    """

    #: Options that only choose the initial weights: dropped when a trained network is built again.
    initial_weight_options: ClassVar[frozenset[str]] = frozenset()

    #: Where the initial weights came from; empty when all were random: ``source``, ``sha256`` of the file, ``classes``
    #: (data set class -> class of the file), and in ``random`` what started random all the same.
    initial_weights: Mapping[str, Any] = MappingProxyType({})

    facts: NetworkFacts
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def normalise_with(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Set ``mean`` and ``std``, of RGB in 0..1.

        Raises:
            UserError: see :func:`normalisation_fault`.
        """
        if fault := normalisation_fault(mean, std):
            raise UserError(f"model.{fault}")
        if math.dist(mean[::-1], IMAGENET_MEAN) < NEAR:
            log.warning(
                "model.mean: got %s, ImageNet's in the order blue, green, red; red comes first here", list(mean)
            )
        self.mean, self.std = (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])

    @classmethod
    def option_faults(cls, options: Mapping[str, Any]) -> Sequence[str]:
        """Faults of options whose types are right, each as ``key: got ...``: found when params.yaml is read."""
        fault = normalisation_fault(options.get("mean"), options.get("std"))
        return [fault] if fault else []

    @property
    def encoder(self) -> nn.Module | None:
        """The part that is pretrained and whose parameters may learn at a rate of their own; None: no such part."""
        return None

    @abstractmethod
    def forward(self, x: Tensor) -> SegOutput:
        """(N, 3, H, W) normalised RGB -> SegOutput."""


def normalisation_fault(mean: Sequence[float] | None, std: Sequence[float] | None) -> str | None:
    """What is wrong with a mean and a standard deviation of RGB in 0..1; None: nothing, or they are not given.

    Numbers of pixels in 0..255 are refused with the numbers to use instead.

    Example:
        >>> normalisation_fault(None, [51.0, 102.0, 255.0])
        'std: got [51.0, 102.0, 255.0]; allowed: 0..1, and these are of pixels in 0..255; use std: [0.2, 0.4, 1.0]'
    """
    given = {key: list(map(float, values)) for key, values in (("mean", mean), ("std", std)) if values is not None}
    got = ", ".join(f"{key}: got {values}" for key, values in given.items())
    numbers = [value for values in given.values() for value in values]
    if any(len(values) != 3 for values in given.values()) or not all(map(math.isfinite, numbers)):
        return f"{got}; allowed: three numbers each, for red, green and blue in 0..1"
    if min(given.get("mean", [0.0])) < 0 or min(given.get("std", [1.0])) <= 0:
        return f"{got}; allowed: 0..1, std above 0"
    if max(numbers, default=0.0) <= 1:
        return None
    if max(numbers) > BYTE:
        return f"{got}; allowed: 0..1"
    large = max(given.get("mean", [0.0])) > 1
    for key, values in given.items():
        if max(values) > 1 or (
            large and values == [1.0] * 3
        ):  # a deviation of 1 beside a mean of bytes is one of bytes
            given[key] = [round(value / BYTE, 6) for value in values]
    order = ""
    if "mean" in given and math.dist(given["mean"][::-1], IMAGENET_MEAN) < NEAR:
        given = {key: values[::-1] for key, values in given.items()}
        order = " in the order blue, green, red"
    use = ", ".join(f"{key}: {values}" for key, values in given.items())
    return f"{got}; allowed: 0..1, and these are of pixels in 0..255{order}; use {use}"


PLUGIN = SegNetwork
