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
from pipeline.models import _published
from pipeline.models._base import NetworkFacts, SegNetwork, SegOutput
from pipeline.models._checkpoint import Checkpoint
from pipeline.models._initial import WEIGHT_OPTIONS, Allowed, NewClasses, load_encoder, load_network, open_checkpoint
from pipeline.models._pooling import replace_adaptive_pooling
from pipeline.models._wrappers import unwrap

#: Architecture -> encoders that torchvision has it with.
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
LRASPP_STRIDE = 8  # of the finer of its two inputs, at which it classifies
AUX = "aux_classifier"
#: Layers with one output a class: of deeplabv3 and fcn, the auxiliary one if there is one, and of lraspp.
CLASSIFIERS = ("classifier.4", f"{AUX}.4")
_JOINED = "classifier.classifier"


class TorchVision(SegNetwork):
    """A torchvision network behind :class:`SegOutput`.

    LRASPP adds up two classifiers; here they are one, on both their inputs side by side.

    Args:
        num_classes: K, offered by the run.
        classes: their names, offered by the run.
        architecture: deeplabv3, fcn or lraspp.
        encoder: resnet50 or resnet101 (deeplabv3, fcn), mobilenet_v3_large (deeplabv3, lraspp).
        aux_loss: train an auxiliary classifier on the encoder, too (deeplabv3, fcn).
        mean, std: of RGB in 0..1, three numbers each, that the weights were trained with; null: torchvision's.
        encoder_weights: null (random), ``imagenet`` (downloaded from torchvision), or a checkpoint with the encoder's
            tensors: as in ``weights``.
        weights: null; ``default``: torchvision's own, trained on COCO with the classes of Pascal VOC, which are
            downloaded; or the whole network as a checkpoint file, a network artifact of segpress, or
            ``hf://owner/name[@revision]``. Instead of ``encoder_weights``.
        weights_key: key of the tensors in a torch file that holds several sets, such as ``model_ema``; null: the usual
            ones, and averages only where there are no others. Of ``encoder_weights`` too.
        weights_classes: the classes of ``weights`` in the order of its classifier, where it does not say them.
        class_map: data set class -> class of ``weights``, where their names differ.
        new_classes: ``none``: every class must be among those of ``weights``; ``some``: those that it lacks start
            random; ``all``: the classifier starts random.
        allow_missing: prefixes of tensors that the checkpoint may lack; they start random.
        allow_unexpected: prefixes of tensors that only the checkpoint has, e.g. ``[decoder]``; they are not used. The
            classifier behind an encoder (``fc``, ``head``, ...) needs no mention in ``encoder_weights``.

    Raises:
        UserError: a network that torchvision lacks; weights that are missing or do not fit.
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
        encoder_weights: str | None = None,
        weights: str | None = None,
        weights_key: str | None = None,
        weights_classes: list[str] | None = None,
        class_map: dict[str, str] | None = None,
        new_classes: NewClasses = "none",
        allow_missing: list[str] | None = None,
        allow_unexpected: list[str] | None = None,
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
        if weights is not None and encoder_weights is not None:
            raise UserError("model.weights holds the encoder too: leave model.encoder_weights out")
        name = f"{architecture}_{encoder}"
        auxiliary = {} if architecture == "lraspp" else {"aux_loss": aux_loss}
        self.net = library.get_model(name, weights=None, weights_backbone=None, num_classes=num_classes, **auxiliary)
        if architecture == "lraspp":
            self.net.classifier = _JoinedHead(self.net.classifier)
        published = library.get_model_weights(name).DEFAULT
        usual = published.transforms()
        self.normalise_with(usual.mean if mean is None else mean, usual.std if std is None else std)
        names, channels, stride = STAGES["resnet" if encoder.startswith("resnet") else "mobilenet"]
        self._stages = names
        self.facts = NetworkFacts(
            channels=self._classifier().in_channels,
            stage_channels=channels,
            output_stride=LRASPP_STRIDE if architecture == "lraspp" else stride,
            divisor=stride,
        )
        if weights == "default":
            checkpoint: Checkpoint | None = _published.fetch(published, where="model.weights")
        elif weights is not None:
            checkpoint = _published.recognised(
                open_checkpoint(weights, where="model.weights", key=weights_key), published
            )
        else:
            checkpoint = None
        if checkpoint is not None:
            self.compare_normalisation(checkpoint.source, checkpoint.normalisation)
            unused = [] if aux_loss else [AUX]
            checkpoint = unwrap(checkpoint, {*self.net.state_dict(), *_parts()})
            self.initial_weights = load_network(
                self.net,
                replace(checkpoint, tensors=_joined(checkpoint.tensors)),
                classifiers=[_JOINED] if architecture == "lraspp" else CLASSIFIERS[: 1 + aux_loss],
                classes=classes,
                weights_classes=weights_classes,
                class_map=class_map,
                new_classes=new_classes,
                allow=Allowed(allow_missing, [*(allow_unexpected or []), *unused]),
            )
        elif encoder_weights is not None:
            where = "model.encoder_weights"
            if encoder_weights == "imagenet":
                checkpoint = _published.fetch(library.get_model_weights(encoder).IMAGENET1K_V1, where=where)
            else:
                checkpoint = open_checkpoint(encoder_weights, where=where, key=weights_key)
            found = load_encoder(self.net.backbone, checkpoint, allow=Allowed(allow_missing, allow_unexpected))
            around = [part for part, _ in self.net.named_children() if part != "backbone"]
            self.initial_weights = {**found, "random": [*found["random"], *around]}
        replace_adaptive_pooling(self.net)

    @property
    def encoder(self) -> nn.Module:
        encoder: nn.Module = self.net.backbone
        return encoder

    def _classifier(self) -> Any:
        """The layer with one output a class."""
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
        auxiliary = getattr(self.net, AUX, None) if self.training else None
        return SegOutput(
            logits=self._classifier()(embedding),
            embedding=embedding,
            stages=tuple(stages),
            aux=None if auxiliary is None else auxiliary(maps["aux"]),
        )


class _JoinedHead(nn.Module):
    """LRASPP's head with its two 1x1 classifiers as one: a sum of products is the product of what lies side by side."""

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
    """Tensors of a network as torchvision has it -> as it is here; others as they are."""
    low, high, low_bias, high_bias = (tensors.get(name) for name in _parts())
    if low is None or high is None or low_bias is None or high_bias is None:
        return tensors
    if low.ndim != 4 or high.ndim != 4 or low.shape[:1] + low.shape[2:] != high.shape[:1] + high.shape[2:]:
        return tensors
    if low_bias.shape != low.shape[:1] or high_bias.shape != low.shape[:1]:
        return tensors
    found = {name: tensor for name, tensor in tensors.items() if name not in _parts()}
    return {**found, f"{_JOINED}.weight": torch.cat([low, high], dim=1), f"{_JOINED}.bias": low_bias + high_bias}
