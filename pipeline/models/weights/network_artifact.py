"""Trained networks on disk: safetensors weights and every fact that is needed to build the network again.

A training leaves two sets of weights: the best ones on val, and those after its last step. The last ones have a file of
their own unless they are the best ones.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline import artifact, models
from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.models import SegNetwork

WEIGHTS, LAST = "weights.safetensors", "last.safetensors"
#: Which weights of a training: the best ones on val, or those after the last step.
Which = Literal["best", "last"]


def save(
    path: Path,
    network: SegNetwork,
    *,
    name: str,
    options: Mapping[str, Any],
    labels: LabelSpec,
    input_size: tuple[int, int],
    facts: Mapping[str, Any],
    last: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a network artifact.

    Args:
        name, options: the model plugin and its options; those that only choose initial weights are left out.
        labels: classes of the data set.
        input_size: (height, width) of the deployed network.
        facts: further facts for meta.json: metrics, parents, training options.
        last: weights after the last step of a training; None where they are those of ``network``, or were not kept.
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
        "parameters": network.deployed_parameters,
    }
    write(path, network, meta=meta, last=last)


def write(
    path: Path, network: SegNetwork, *, meta: Mapping[str, Any], last: Mapping[str, Tensor] | None = None
) -> None:
    """Write a network artifact with complete facts: ``meta`` has all keys that :func:`save` writes."""
    with artifact.create(path, kind="network", meta=meta) as folder:
        _save(folder / WEIGHTS, network.state_dict(), meta)
        if last is not None:
            _save(folder / LAST, last, facts_of(meta, "last"))


def _save(file: Path, state: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    save_file(tensors, file, metadata={"segpress": json.dumps(dict(meta), sort_keys=True)})


def copy(path: Path, out: Path, *, weights: Which) -> None:
    """Copy a network artifact with one of its two sets of weights, which is then the only one.

    Raises:
        UserError: see ``artifact.load`` and :func:`file_of`.
    """
    source = artifact.load(path, kind="network")
    file = file_of(source, weights)
    with artifact.create(out, kind="network", meta=facts_of(source.facts, weights)) as folder:
        shutil.copyfile(file, folder / WEIGHTS)


def file_of(stored: Artifact, weights: Which) -> Path:
    """The file with the best or the last weights of a network artifact.

    Raises:
        UserError: it has no last weights, because an older version wrote it or because it was not trained.
    """
    if weights == "best":
        return stored.file(WEIGHTS)
    if "last" not in stored.meta:
        raise UserError(
            f"{stored.path}: has no weights of its last step: it was not trained, or an older version wrote it; train "
            "again with: dvc repro -f distill, or choose export: best"
        )
    return stored.file(WEIGHTS if stored.meta["last"]["step"] == stored.meta["best_step"] else LAST)


def facts_of(facts: Mapping[str, Any], weights: Which) -> dict[str, Any]:
    """Facts of a network that holds only its best or its last weights; ``metrics`` are those of these weights."""
    metrics = {"metrics": facts["last"]["metrics"]} if weights == "last" else {}
    return {**facts, **metrics, "weights": weights}


def load(path: Path, *, weights: Which = "best") -> tuple[SegNetwork, Artifact]:
    """The network of an artifact, with its best or its last weights, in eval mode; and the artifact.

    Raises:
        UserError: see ``artifact.load`` and :func:`file_of`; also when the weights do not fit the model that
            this version builds.
    """
    stored = artifact.load(path, kind="network")
    model = stored.meta["model"]
    labels = stored.labels
    network = models.build(model["name"], dict(model["options"]), num_classes=labels.num_classes, classes=labels.names)
    try:
        network.load_state_dict(load_file(file_of(stored, weights)))
    except RuntimeError as error:
        raise UserError(f"{path}: weights do not fit {model['name']} as this version builds it: {error}") from error
    network.normalise_with(stored.meta["mean"], stored.meta["std"])  # of its training, also where no option set them
    return network.eval(), stored
