"""Weights that torchvision publishes: downloaded if the user names them, recognised if the user has the file."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from pipeline.errors import UserError
from pipeline.models.weights.checkpoint import Checkpoint, read


def fetch(weights: Any, *, where: str) -> Checkpoint:
    """Read published weights from torch's cache; if they are missing, download them and check their sha256.

    Args:
        weights: an entry of one of torchvision's enumerations, such as ``DeepLabV3_ResNet50_Weights.DEFAULT``.
        where: the option that named it, for messages.

    Raises:
        UserError: the download failed.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / _name(weights)
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(weights.url, str(file), hash_prefix=_digest(weights), progress=False)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"{where}: {weights.url} could not be downloaded ({error}); download it elsewhere and give its path"
            ) from error
    return recognised(read(file, where=where), weights)


def recognised(checkpoint: Checkpoint, weights: Any) -> Checkpoint:
    """The checkpoint with the class names of published weights, if it is that file and names no classes itself."""
    if checkpoint.classes is None and checkpoint.sha256.startswith(_digest(weights)):
        return replace(checkpoint, classes=tuple(weights.meta["categories"]))
    return checkpoint


def _name(weights: Any) -> str:
    return Path(urlsplit(weights.url).path).name


def _digest(weights: Any) -> str:
    """The first digits of the file's sha256, from the end of its name."""
    match = re.search(r"-([0-9a-f]{8,})\.", _name(weights))
    assert match is not None, "names of torchvision's files have them"
    return match[1]
