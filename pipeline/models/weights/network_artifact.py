"""Trained networks on disk: safetensors weights and every fact that is needed to build the network again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from pipeline import artifact, models
from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.models import SegNetwork

WEIGHTS = "weights.safetensors"


def save(
    path: Path,
    network: SegNetwork,
    *,
    name: str,
    options: Mapping[str, Any],
    labels: LabelSpec,
    input_size: tuple[int, int],
    facts: Mapping[str, Any],
) -> None:
    """Write a network artifact.

    Args:
        name, options: the model plugin and its options; those that only choose initial weights are left out.
        labels: classes of the data set.
        input_size: (height, width) of the deployed network.
        facts: further facts for meta.json: metrics, parents, training options.
    """
    meta = {
        **labels.to_meta(),
        **facts,
        "model": {
            "name": name,
            "options": {k: v for k, v in options.items() if k not in network.initial_weight_options},
        },
        "input_size": list(input_size),
        "mean": list(network.mean),
        "std": list(network.std),
        "channel_order": "RGB",
        "initial_weights": dict(network.initial_weights),
        "parameters": sum(p.numel() for p in network.parameters()),
    }
    write(path, network, meta=meta)


def write(path: Path, network: SegNetwork, *, meta: Mapping[str, Any]) -> None:
    """Write a network artifact with complete facts: ``meta`` has all keys that :func:`save` writes."""
    with artifact.create(path, kind="network", meta=meta) as folder:
        state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
        save_file(state, folder / WEIGHTS, metadata={"segpress": json.dumps(dict(meta), sort_keys=True)})


def copy(path: Path, out: Path) -> None:
    """Copy a network artifact, unchanged, to another folder.

    Raises:
        UserError: see ``artifact.load``.
    """
    source = artifact.load(path, kind="network")
    with artifact.create(out, kind="network", meta=source.facts) as folder:
        for name in source.meta["files"]:
            shutil.copyfile(source.file(name), folder / name)


def load(path: Path) -> tuple[SegNetwork, Artifact]:
    """The network of an artifact, with its weights, in eval mode; and the artifact.

    Raises:
        UserError: see ``artifact.load``; also when the weights do not fit the model that this version builds.
    """
    stored = artifact.load(path, kind="network")
    model = stored.meta["model"]
    labels = stored.labels
    network = models.build(model["name"], dict(model["options"]), num_classes=labels.num_classes, classes=labels.names)
    try:
        network.load_state_dict(load_file(stored.file(WEIGHTS)))
    except RuntimeError as error:
        raise UserError(f"{path}: weights do not fit {model['name']} as this version builds it: {error}") from error
    network.normalise_with(stored.meta["mean"], stored.meta["std"])  # of its training, also where no option set them
    return network.eval(), stored
