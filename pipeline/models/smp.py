"""Any architecture and encoder of segmentation-models-pytorch (and, as ``tu-<name>``, of timm)."""

from __future__ import annotations

import inspect
import logging
import warnings
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline import artifact
from pipeline.errors import UserError, closest
from pipeline.models._base import NetworkFacts, SegNetwork, SegOutput
from pipeline.models._pooling import replace_adaptive_pooling

log = logging.getLogger(__name__)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Smp(SegNetwork):
    """An smp network behind :class:`SegOutput`.

    Args:
        num_classes: K, offered by the run.
        architecture: key of ``smp.create_model``: unet, deeplabv3, deeplabv3plus, fpn, pspnet, segformer, ...
        encoder: smp encoder name, or ``tu-<timm name>``.
        encoder_weights: null (random), ``imagenet`` (downloaded from the hub), or a .safetensors file with the
            encoder's tensors. Tensors that the file lacks stay random and are reported; unexpected ones are refused.
        allow_missing: prefixes of encoder tensors that the file may lack, e.g. ``[layer4]``.
        options: further keyword arguments of the smp architecture, e.g. ``{encoder_output_stride: 8}``.

    Raises:
        UserError: unknown architecture, encoder or option; weights that are missing or do not fit.
    """

    initial_weight_options = frozenset(["encoder_weights", "allow_missing"])
    mean = IMAGENET_MEAN
    std = IMAGENET_STD

    def __init__(
        self,
        *,
        num_classes: int,
        architecture: str,
        encoder: str,
        encoder_weights: str | None = None,
        allow_missing: list[str] | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
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
        if from_hub:
            self.initial_weights = {"source": "imagenet"}
        elif encoder_weights is not None:
            file = Path(encoder_weights)
            load_encoder(self.net.encoder, file, allow_missing or [])
            self.initial_weights = {"source": file.name, "sha256": artifact.sha256(file)}
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


def load_encoder(encoder: nn.Module, file: Path, allow_missing: list[str]) -> None:
    """Load encoder weights by name from a safetensors file (never a pickle).

    Raises:
        UserError: unreadable file, shapes that differ, unexpected names, or missing names outside ``allow_missing``.
    """
    try:
        tensors = load_file(file)
    except (FileNotFoundError, SafetensorError) as error:
        raise UserError(f"model.encoder_weights: {file} is not a readable safetensors file ({error})") from error
    wanted = {name for name, _ in encoder.named_parameters()} | {name for name, _ in encoder.named_buffers()}
    wanted = {name for name in wanted if not name.endswith("num_batches_tracked")}
    given = {name for name in tensors if not name.endswith("num_batches_tracked")}
    missing = sorted(name for name in wanted - given if not name.startswith(tuple(allow_missing)))
    unexpected = sorted(given - wanted)
    if missing or unexpected:
        raise UserError(
            f"model.encoder_weights: {file} does not fit the encoder: {len(missing)} tensors missing "
            f"({', '.join(missing[:3])} ...), {len(unexpected)} unexpected ({', '.join(unexpected[:3])} ...); "
            "choose the encoder it was made for, or name the missing prefixes in model.allow_missing"
        )
    try:
        encoder.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise UserError(f"model.encoder_weights: {file}: {error}") from error
    if random := sorted(wanted - given):
        log.info("%s: %d tensors are not in it and stay random: %s ...", file.name, len(random), ", ".join(random[:3]))
