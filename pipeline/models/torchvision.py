"""Segmentation networks of torchvision: DeepLabV3, FCN and LRASPP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
import torchvision.models as library
from torch import Tensor, nn

from pipeline.errors import UserError, closest
from pipeline.models._base import NetworkFacts, SegNetwork, SegOutput
from pipeline.models._pooling import replace_adaptive_pooling
from pipeline.models.weights import published
from pipeline.models.weights.initial import RANDOM, WEIGHT_OPTIONS, InitialWeights, load_encoder, load_network
from pipeline.models.weights.wrappers import unwrap

#: Architecture -> encoders that torchvision offers for it.
NETWORKS = {
    "deeplabv3": ("mobilenet_v3_large", "resnet101", "resnet50"),
    "fcn": ("resnet101", "resnet50"),
    "lraspp": ("mobilenet_v3_large",),
}
#: Children of the encoder whose outputs are the stages, their channels, and input size / size of the last one: the
#: stem and the four blocks of a ResNet with dilation from layer3 on; C0 to C5 of MobileNetV3 with dilation in C5.
STAGES = {
    "resnet": (("relu", "layer1", "layer2", "layer3", "layer4"), (64, 256, 512, 1024, 2048), 8),
    "mobilenet": (("0", "2", "4", "7", "13", "16"), (16, 24, 40, 80, 160, 960), 16),
}
LRASPP_STRIDE = 8  # input size / size of the finer of the classifier's two inputs
AUX = "aux_classifier"
#: Layers with one output per class: of deeplabv3 and fcn, with the auxiliary one second; and of lraspp.
CLASSIFIERS = ("classifier.4", f"{AUX}.4")
_JOINED = "classifier.classifier"


class TorchVision(SegNetwork):
    """A torchvision network that returns a :class:`SegOutput`.

    LRASPP adds the outputs of two classifiers; here they are one classifier on the concatenation of both inputs.

    Args:
        num_classes: K, offered by the run.
        classes: their names, offered by the run.
        architecture: deeplabv3, fcn or lraspp.
        encoder: resnet50 or resnet101 (deeplabv3, fcn), mobilenet_v3_large (deeplabv3, lraspp).
        aux_loss: train an auxiliary classifier on the encoder, too (deeplabv3, fcn).
        mean, std: of the RGB values in 0..1 of the weights' training, three numbers each; null: those that a checkpoint
            states, else ImageNet's, as in all weights of torchvision.
        initial: initial weights: the options of :class:`pipeline.models.weights.initial.InitialWeights`. The encoder's
            ``imagenet`` weights come from torchvision; ``weights: default`` are torchvision's own, trained on COCO with
            the classes of Pascal VOC, and are downloaded.

    Raises:
        UserError: unknown architecture, encoder or option; weights that are missing or do not fit.
    """

    initial_weight_options = WEIGHT_OPTIONS

    def __init__(
        self,
        *,
        num_classes: int,
        classes: Sequence[str] = (),
        architecture: str,
        encoder: str,
        aux_loss: bool = False,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        initial: InitialWeights = RANDOM,
    ) -> None:
        super().__init__()
        if architecture not in NETWORKS:
            raise UserError(
                f"model.architecture: no '{architecture}' in torchvision; {closest(architecture, NETWORKS)}"
            )
        if encoder not in NETWORKS[architecture]:
            allowed = ", ".join(NETWORKS[architecture])
            raise UserError(f"model.encoder: torchvision has no {architecture} with '{encoder}'; allowed: {allowed}")
        if aux_loss and architecture == "lraspp":
            raise UserError("model.aux_loss: lraspp has no auxiliary classifier; leave it out")
        name = f"{architecture}_{encoder}"
        auxiliary = {} if architecture == "lraspp" else {"aux_loss": aux_loss}
        self.net = library.get_model(name, weights=None, weights_backbone=None, num_classes=num_classes, **auxiliary)
        if architecture == "lraspp":
            self.net.classifier = _JoinedHead(self.net.classifier)
        entry = library.get_model_weights(name).DEFAULT
        stages, channels, stride = STAGES["resnet" if encoder.startswith("resnet") else "mobilenet"]
        self._stages = stages
        self.facts = NetworkFacts(
            channels=self._classifier().in_channels,
            stage_channels=channels,
            output_stride=LRASPP_STRIDE if architecture == "lraspp" else stride,
            divisor=stride,
        )
        normalisation: Mapping[str, Sequence[float]] = {}
        checkpoint = (
            published.fetch(entry, where="model.weights") if initial.weights == "default" else initial.open_network()
        )
        if checkpoint is not None:
            checkpoint = published.recognised(checkpoint, entry)
            normalisation = checkpoint.normalisation
            checkpoint = unwrap(checkpoint, {*self.net.state_dict(), *_parts()})
            self.initial_weights = load_network(
                self.net,
                replace(checkpoint, tensors=_joined(checkpoint.tensors)),
                initial,
                classifiers=[_JOINED] if architecture == "lraspp" else CLASSIFIERS[: 1 + aux_loss],
                classes=classes,
                unused=[] if aux_loss else [AUX],
            )
        elif initial.encoder_weights is not None:
            encoder_checkpoint = (
                published.fetch(library.get_model_weights(encoder).IMAGENET1K_V1, where="model.encoder_weights")
                if initial.encoder_weights == "imagenet"
                else initial.open_encoder()
            )
            assert encoder_checkpoint is not None
            normalisation = encoder_checkpoint.normalisation
            facts = load_encoder(self.net.backbone, encoder_checkpoint, initial)
            around = [part for part, _ in self.net.named_children() if part != "backbone"]
            self.initial_weights = {**facts, "random": [*facts["random"], *around]}
        self.choose_normalisation(mean, std, weights=normalisation)
        replace_adaptive_pooling(self.net)

    @property
    def encoder(self) -> nn.Module:
        encoder: nn.Module = self.net.backbone
        return encoder

    @property
    def auxiliary(self) -> nn.Module | None:
        head: nn.Module | None = getattr(self.net, AUX, None)
        return head

    def _classifier(self) -> Any:
        """The layer with one output per class."""
        head = self.net.classifier
        return head.classifier if isinstance(head, _JoinedHead) else head[-1]

    def forward(self, x: Tensor) -> SegOutput:
        stages, maps = [], {}
        for name, layer in self.net.backbone.items():
            x = layer(x)
            if name in self._stages:
                stages.append(x)
            if name in self.net.backbone.return_layers:
                maps[self.net.backbone.return_layers[name]] = x
        head = self.net.classifier
        if isinstance(head, _JoinedHead):
            embedding = head.embedding(maps["low"], maps["high"])
        else:
            embedding = maps["out"]
            for layer in list(head)[:-1]:
                embedding = layer(embedding)
        return SegOutput(
            logits=self._classifier()(embedding),
            embedding=embedding,
            stages=tuple(stages),
            aux=None if self.auxiliary is None else self.auxiliary_logits(maps["aux"]),
        )


class _JoinedHead(nn.Module):
    """LRASPP's head with its two 1x1 classifiers as one, which gives the same sum from concatenated inputs."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.cbr, self.scale = head.cbr, head.scale
        low, high = head.low_classifier, head.high_classifier
        self.classifier = nn.Conv2d(low.in_channels + high.in_channels, low.out_channels, 1)
        state = {f"classifier.{name}": tensor for name, tensor in head.state_dict().items()}
        joined = {name.removeprefix("classifier."): tensor for name, tensor in _joined(state).items()}
        self.load_state_dict(joined)

    def embedding(self, low: Tensor, high: Tensor) -> Tensor:
        """(N, 40, H/8, W/8) and (N, 960, H/16, W/16) -> (N, 168, H/8, W/8)."""
        x = self.cbr(high) * self.scale(high)
        x = F.interpolate(x, size=low.shape[-2:], mode="bilinear", align_corners=False)
        return torch.cat([low, x], dim=1)


def _parts() -> list[str]:
    """The tensors of LRASPP's two classifiers, as torchvision names them."""
    return [f"classifier.{side}_classifier.{kind}" for kind in ("weight", "bias") for side in ("low", "high")]


def _joined(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Tensors with the two classifiers of torchvision's LRASPP joined; tensors of other networks stay unchanged."""
    low, high, low_bias, high_bias = (tensors.get(name) for name in _parts())
    if low is None or high is None or low_bias is None or high_bias is None:
        return tensors
    if low.ndim != 4 or high.ndim != 4 or low.shape[:1] + low.shape[2:] != high.shape[:1] + high.shape[2:]:
        return tensors
    if low_bias.shape != low.shape[:1] or high_bias.shape != low.shape[:1]:
        return tensors
    others = {name: tensor for name, tensor in tensors.items() if name not in _parts()}
    return {**others, f"{_JOINED}.weight": torch.cat([low, high], dim=1), f"{_JOINED}.bias": low_bias + high_bias}
