"""A network measured on every labelled split: after a training run, or with weights from elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from accelerate import Accelerator

from pipeline.errors import UserError
from pipeline.evaluation.confusion import ConfusionMatrix
from pipeline.export.torch_engine import TorchEngine
from pipeline.labels import LabelSpec
from pipeline.models import SegNetwork
from pipeline.prepared import Prepared, Split
from pipeline.training import processes
from pipeline.training.counting import confusion, on_gpu

#: Most threads that decode frames for a network on a GPU; beside a network on a CPU it is one.
READERS = 8


def measure(
    network: SegNetwork,
    prepared: Prepared,
    *,
    input_size: tuple[int, int],
    accelerator: Accelerator,
    batch: int = 1,
    known: Mapping[str, dict[str, Any]] = MappingProxyType({}),
) -> dict[str, dict[str, Any]]:
    """Metrics of every labelled split but train, at original label size, in fp32.

    Args:
        network: on the device that runs it; its mode and weights do not change.
        input_size: (height, width) of the deployed network.
        accelerator: of the run; all its processes must call this.
        batch: see :func:`frames_at_once`.
        known: metrics of this network by split; these splits are not measured again.

    Returns:
        by split: ``ConfusionMatrix.summary()``, IoU in percent.

    Raises:
        UserError: the network cannot take that size, or val has no labelled pixel.
    """
    prepared.require_classes()
    check_size("input_size", input_size, network)
    measured = partial(
        metrics_of, network, labels=prepared.labels, input_size=input_size, accelerator=accelerator, batch=batch
    )
    names = [name for name in prepared.splits if name != "train"]
    return {name: known[name] if name in known else measured(prepared.split(name)) for name in names}


def metrics_of(
    network: SegNetwork,
    split: Split,
    *,
    labels: LabelSpec,
    input_size: tuple[int, int],
    accelerator: Accelerator,
    batch: int = 1,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> dict[str, Any]:
    """:func:`measure` on one split. Every process takes a part of the frames; the counts of all are added.

    Args:
        batch: see :func:`frames_at_once`.
        autocast: see :class:`TorchEngine`.
    """
    part = range(accelerator.process_index, len(split), accelerator.num_processes)
    engine = TorchEngine(network, input_size=input_size, autocast=autocast)
    readers = max(1, min(READERS, (os.cpu_count() or 1) // accelerator.num_processes)) if on_gpu(engine.device) else 1
    matrix = confusion(engine, split, labels=labels, indices=part, batch=batch, threads=readers)
    counts = processes.total(accelerator, torch.from_numpy(matrix.counts).to(accelerator.device)).cpu().numpy()
    summary = ConfusionMatrix.of(counts, ignore_index=labels.ignore_index).summary()
    if summary["miou"] is None and split.name == "val":
        raise UserError(f"{split.root}: {labels.shortage('val', [0] * labels.num_classes)}; correct its labels")
    return summary


def frames_at_once(images: int, *, crop: tuple[int, int], input_size: tuple[int, int], device: torch.device) -> int:
    """Frames per batch of a validation.

    On a GPU a batch has at most as many pixels as one of the training: its memory holds these with their gradients.
    Elsewhere it is one frame: a batch is not faster there, and its labels may differ where classes are nearly equal.

    Args:
        images: crops per process and part of a batch.
        crop, input_size: (height, width) of training crops and of the deployed network.
        device: of the network.
    """
    pixels = images * crop[0] * crop[1]
    return max(1, pixels // (input_size[0] * input_size[1])) if on_gpu(device) else 1


def check_size(name: str, size: tuple[int, int], network: SegNetwork) -> None:
    """Refuse a (height, width) that is no multiple of the network's divisor; ``name`` is the option that set it.

    Raises:
        UserError: names the option, the size and the divisor.
    """
    divisor = network.facts.divisor
    if any(side % divisor for side in size):
        raise UserError(f"{name}: got {list(size)}; this network needs multiples of {divisor}")


def measure_complete(network: SegNetwork, prepared: Prepared, *, input_size: tuple[int, int]) -> dict[str, Any]:
    """Metrics of a network that is used without training, as facts for meta.json: see :func:`measure`.

    Raises:
        UserError: some of its weights are random, see :func:`check_complete`.
    """
    check_complete(network)
    accelerator = processes.accelerator(precision="fp32")
    metrics = measure(network.to(accelerator.device), prepared, input_size=input_size, accelerator=accelerator)
    return {"trained": False, "metrics": metrics}


def check_complete(network: SegNetwork) -> None:
    """Refuse a network that is to be used without training although some of its weights are random.

    Raises:
        UserError: names the random weights.
    """
    initial = network.initial_weights
    random = list(initial.get("random", ())) if initial else ["the whole network"]
    if random:
        shown = ", ".join(random[:10]) + (f" and {len(random) - 10} more" if len(random) > 10 else "")
        raise UserError(
            f"teacher.train is false, but these weights are random: {shown}; give a checkpoint of the whole network "
            "with every class in teacher.model.weights (teacher.model.class_map says which class is which), or train "
            "it: make teacher.train a section again"
        )
