"""Any architecture and encoder of segmentation-models-pytorch (and, as ``tu-<name>``, of timm)."""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import segmentation_models_pytorch as smp
from torch import Tensor, nn

from pipeline.errors import Faults, UserError, closest
from pipeline.models._base import NetworkFacts, SegNetwork, SegOutput
from pipeline.models._initial import WEIGHT_OPTIONS, Allowed, NewClasses, load_encoder, load_network, open_checkpoint
from pipeline.models._normalisation import IMAGENET_MEAN, IMAGENET_STD
from pipeline.models._pooling import replace_adaptive_pooling
from pipeline.models._wrappers import unwrap

CLASSIFIER = "segmentation_head.0"
#: Entries of an smp config.json that change nothing here: the classifier's rows are chosen by name, weights are given.
FREE = ("classes", "encoder_weights", "encoder_name", "activation")


class Smp(SegNetwork):
    """An smp network behind :class:`SegOutput`.

    Args:
        num_classes: K, offered by the run.
        classes: their names, offered by the run.
        architecture: key of ``smp.create_model``: unet, deeplabv3, deeplabv3plus, fpn, pspnet, segformer, ...
        encoder: smp encoder name, or ``tu-<timm name>``.
        mean, std: of RGB in 0..1, three numbers each, that the weights were trained with; null: ImageNet's.
        encoder_weights: null (random), ``imagenet`` (downloaded from the hub), or a checkpoint with the encoder's
            tensors: as in ``weights``.
        weights: null, or the whole network: a checkpoint file, a folder as ``save_pretrained`` or segpress writes it,
            or ``hf://owner/name[@revision]``, which is downloaded. Instead of ``encoder_weights``.
        weights_key: key of the tensors in a torch file that holds several sets, such as ``model_ema``; null: the usual
            ones, and averages only where there are no others. Of ``encoder_weights`` too.
        weights_classes: the classes of ``weights`` in the order of its classifier, where it does not say them.
        class_map: data set class -> class of ``weights``, where their names differ.
        new_classes: ``none``: every class must be among those of ``weights``; ``some``: those that it lacks start
            random; ``all``: the classifier starts random.
        allow_missing: prefixes of tensors that the checkpoint may lack, e.g. ``[layer4]``; they start random.
        allow_unexpected: prefixes of tensors that only the checkpoint has, e.g. ``[decoder]``; they are not used. The
            classifier behind an encoder (``fc``, ``head``, ...) needs no mention in ``encoder_weights``.
        options: further keyword arguments of the smp architecture, e.g. ``{encoder_output_stride: 8}``.

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
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.normalise_with(IMAGENET_MEAN if mean is None else mean, IMAGENET_STD if std is None else std)
        architectures = smp.MODEL_ARCHITECTURES_MAPPING
        if architecture not in architectures:
            raise UserError(f"model.architecture: no '{architecture}' in smp; {closest(architecture, architectures)}")
        if not encoder.startswith("tu-") and encoder not in smp.encoders.get_encoder_names():
            raise UserError(f"model.encoder: no '{encoder}'; {closest(encoder, smp.encoders.get_encoder_names())}")
        if not encoder.startswith("tu-"):  # timm encoders take options of their own
            allowed = set(inspect.signature(architectures[architecture]).parameters) - {"kwargs"}
            for key in options or {}:
                if key not in allowed:
                    raise UserError(
                        f"model.options.{key}: {architecture} takes no such option; {closest(key, allowed)}"
                    )
        from_hub = encoder_weights == "imagenet"
        if weights is not None and encoder_weights is not None:
            raise UserError("model.weights holds the encoder too: leave model.encoder_weights out")
        checkpoint = open_checkpoint(weights, where="model.weights", key=weights_key) if weights is not None else None
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
        except (KeyError, ValueError, TypeError, RuntimeError, OSError) as error:
            hint = "; the hub was not reached: give a local .safetensors file instead" if from_hub else ""
            raise UserError(f"model: smp {architecture} with encoder {encoder}: {error}{hint}") from error
        around = [name for name, part in self.net.named_children() if name != "encoder" and list(part.parameters())]
        allow = Allowed(allow_missing, allow_unexpected)
        if checkpoint is not None:
            self.compare_normalisation(checkpoint.source, checkpoint.normalisation)
            self.initial_weights = load_network(
                self.net,
                unwrap(checkpoint, self.net.state_dict().keys()),
                classifiers=[CLASSIFIER],
                classes=classes,
                weights_classes=weights_classes,
                class_map=class_map,
                new_classes=new_classes,
                allow=allow,
            )
        elif from_hub:
            self.initial_weights = {"source": "imagenet", "random": around}
        elif encoder_weights is not None:
            given = open_checkpoint(encoder_weights, where="model.encoder_weights", key=weights_key)
            found = load_encoder(self.net.encoder, given, allow=allow)
            self.initial_weights = {**found, "random": [*found["random"], *around]}
        replace_adaptive_pooling(self.net)
        self.facts = _facts(self.net)

    @property
    def encoder(self) -> nn.Module:
        encoder: nn.Module = self.net.encoder
        return encoder

    def forward(self, x: Tensor) -> SegOutput:
        stages = self.net.encoder(x)
        embedding = self.net.decoder(stages)
        logits = self.net.segmentation_head[0](embedding)
        return SegOutput(logits=logits, embedding=embedding, stages=tuple(s for s in stages[1:] if s.shape[1]))


def _facts(net: Any) -> NetworkFacts:
    classifier, upsampling = net.segmentation_head[0], net.segmentation_head[1]
    encoder = net.encoder
    return NetworkFacts(
        channels=int(classifier.in_channels),
        stage_channels=tuple(int(c) for c in encoder.out_channels[1:] if c),  # MiT has a placeholder stage of none
        output_stride=int(getattr(upsampling, "scale_factor", 1)),
        divisor=int(encoder.output_stride) if getattr(net, "requires_divisible_input_shape", True) else 1,
    )


def _check_config(config: Mapping[str, Any], *, architecture: str, encoder: str, options: Mapping[str, Any]) -> None:
    """Refuse a network in params.yaml that is another one than config.json describes."""
    network = smp.MODEL_ARCHITECTURES_MAPPING[architecture]
    faults = Faults("model.weights: its config.json describes another network")
    made = config.get("_model_class")
    if made is None:
        raise UserError("model.weights: its config.json is not one that smp wrote: it has no _model_class")
    if made != network.__name__:
        keys = [key for key, each in smp.MODEL_ARCHITECTURES_MAPPING.items() if each.__name__ == made]
        faults.add(f"model.architecture: got '{architecture}'; the weights are of {keys[0] if keys else made}")
        faults.raise_if_any()
    if config.get("encoder_name") != encoder:
        faults.add(f"model.encoder: got '{encoder}'; the weights are of {config.get('encoder_name')}")
    given = {"in_channels": 3, **options}
    for key, parameter in inspect.signature(network).parameters.items():
        if key in FREE or key not in config:
            continue
        ours = json.loads(json.dumps(given.get(key, parameter.default)))  # a tuple is a list there
        if ours != config[key]:
            faults.add(f"model.options.{key}: got {ours}; the weights are of {config[key]}")
    faults.raise_if_any()
