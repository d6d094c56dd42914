"""What networks return and declare; losses and tasks rely on nothing else."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.models._normalisation import differ, fault, in_opencv_order

log = logging.getLogger(__name__)


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
            UserError: :func:`pipeline.models._normalisation.fault`.
        """
        if wrong := fault(mean, std):
            raise UserError(f"model.{wrong}")
        if in_opencv_order(mean):
            log.warning(
                "model.mean: got %s, ImageNet's in the order blue, green, red; red comes first here", list(mean)
            )
        self.mean, self.std = (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])

    @classmethod
    def option_faults(cls, options: Mapping[str, Any]) -> Sequence[str]:
        """Faults of options whose types are right, each as ``key: got ...``: found when params.yaml is read."""
        wrong = fault(options.get("mean"), options.get("std"))
        return [wrong] if wrong else []

    def compare_normalisation(self, source: str, stated: Mapping[str, Sequence[float]]) -> None:
        """Warn when a checkpoint says that it was trained with another ``mean`` or ``std``.

        Args:
            stated: what it says: ``mean`` and ``std``, empty where it says nothing.
        """
        own = {"mean": self.mean, "std": self.std}
        if stated and differ(own, stated):
            log.warning(
                "%s was trained with another normalisation than %s; use %s",
                source,
                ", ".join(f"model.{key}: {list(values)}" for key, values in own.items()),
                ", ".join(f"model.{key}: {list(values)}" for key, values in stated.items()),
            )

    @property
    def encoder(self) -> nn.Module | None:
        """The part that is pretrained and whose parameters may learn at a rate of their own; None: no such part."""
        return None

    @abstractmethod
    def forward(self, x: Tensor) -> SegOutput:
        """(N, 3, H, W) normalised RGB -> SegOutput."""


PLUGIN = SegNetwork
