"""Weights of a checkpoint into a network: names and shapes compared as a whole, classes brought into our order."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipeline.errors import Faults, UserError, closest
from pipeline.models import _hub
from pipeline.models._checkpoint import Checkpoint, read
from pipeline.models._class_order import rows
from pipeline.models._wrappers import AROUND_ENCODERS, WITHIN, unwrap

log = logging.getLogger(__name__)

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # whose values mean what they are
COUNTER = "num_batches_tracked"  # of batch norm; older files lack it, inference does not use it
AVERAGED = "n_averaged"  # counter of torch's AveragedModel
#: What classifiers have after the features of an encoder, in timm and torchvision: never used.
AFTER_ENCODERS = (
    "fc", "classifier", "head", "head_dist", "last_linear", "conv_head", "norm_head", "bn2", "norm", "pre_logits",
    "final_conv", "final_layer", "downsamp_modules",
)  # fmt: skip
SHOWN = 3  # names of each group in a message

NewClasses = Literal["none", "some", "all"]
#: Options of plugins that only choose the initial weights.
WEIGHT_OPTIONS = frozenset(
    [
        "encoder_weights",
        "weights",
        "weights_key",
        "weights_classes",
        "class_map",
        "new_classes",
        "allow_missing",
        "allow_unexpected",
    ]
)


def open_checkpoint(weights: str, *, where: str, key: str | None = None) -> Checkpoint:
    """The checkpoint that an option names: a file, a folder, or ``hf://owner/name[@revision]``; ``key``: of `read`."""
    if not weights.startswith(_hub.SCHEME):
        return read(Path(weights), where=where, key=key)
    return replace(read(_hub.fetch(weights, where=where), where=where, key=key), source=weights)


def load_encoder(encoder: nn.Module, checkpoint: Checkpoint, *, allow: Allowed) -> dict[str, Any]:
    """Load an encoder alone, from its own checkpoint or out of that of a whole network or classifier.

    Returns:
        ``initial_weights`` for meta.json, without what is random around the encoder.

    Raises:
        UserError: see :func:`assign`.
    """
    found = unwrap(checkpoint, encoder.state_dict().keys(), extra=AROUND_ENCODERS)
    allow = Allowed(allow.missing, [*allow.unexpected, *AFTER_ENCODERS])
    absent = assign(encoder, found, where="model.encoder_weights", allow=allow)
    return {"source": checkpoint.source, "sha256": checkpoint.sha256, "random": absent}


def load_network(
    network: nn.Module,
    checkpoint: Checkpoint,
    *,
    classifiers: Sequence[str],
    classes: Sequence[str],
    weights_classes: Sequence[str] | None,
    class_map: Mapping[str, str] | None,
    new_classes: NewClasses,
    allow: Allowed,
) -> dict[str, Any]:
    """Load a whole network, its classifiers' rows in the order of the data set's classes.

    Args:
        checkpoint: with the network's names (see :func:`pipeline.models._wrappers.unwrap`).
        classifiers: names of the layers with one output a class.
        classes: of the data set, in train-id order.
        weights_classes: of the checkpoint, in the order of its classifier; None: as the checkpoint says itself.
        class_map: data set class -> checkpoint class, where names differ.
        new_classes: ``none``: the checkpoint has every class; ``some``: those it lacks start random; ``all``: its
            classifier is not used.

    Returns:
        ``initial_weights`` for meta.json: ``source``, ``sha256``, ``classes`` (data set class -> checkpoint class),
        ``random`` (names of what started random; empty when nothing did).

    Raises:
        UserError: the checkpoint's classes are unknown or lack some of ours; and see :func:`assign`.
    """
    assert len(classes) == network.state_dict()[f"{classifiers[0]}.weight"].shape[0], "the caller offers class names"
    where, source = "model.weights", checkpoint.source
    tensors, wanted = dict(checkpoint.tensors), network.state_dict()
    names = [f"{layer}.{kind}" for layer in classifiers for kind in ("weight", "bias") if f"{layer}.{kind}" in wanted]
    given = [name for name in names if name in tensors]
    mapped: dict[str, str] = {}
    absent = []
    if new_classes == "all":
        absent = list(classifiers)
        tensors.update({name: wanted[name].clone() for name in names})
        log.info("%s: its classifier is not used; all classes start random", source)
    elif given:
        count = tensors[given[0]].shape[0] if tensors[given[0]].ndim else 0
        theirs = weights_classes or checkpoint.classes
        if theirs is None:
            raise UserError(
                f"{where}: {source} does not say what its {count} classes are; list them in model.weights_classes in "
                f"the order of its classifier (for the data set's own order: [{', '.join(classes)}]), or set "
                "model.new_classes: all to start a new classifier"
            )
        if any(tensors[name].shape[:1] != (count,) for name in given):
            raise UserError(f"{where}: {source}: its classifiers differ in their numbers of classes: {grouped(given)}")
        if len(theirs) != count:
            told = "model.weights_classes" if weights_classes else source
            raise UserError(f"{where}: {told} names {len(theirs)} classes; the classifier of {source} has {count}")
        subject = f"{where}: classes of {source}"
        order = rows(classes, theirs, class_map=class_map or {}, allow_new=new_classes == "some", subject=subject)
        mapped = {name: theirs[row] for name, row in zip(classes, order, strict=True) if row is not None}
        absent = [f"class {name}" for name in classes if name not in mapped]
        for name in given:
            tensors[name] = _selected(tensors[name], wanted[name], order)
        unused = [name for name in theirs if name not in mapped.values()]
        log.info("%s: %d of its %d classes are used; not: %s", source, len(mapped), count, ", ".join(unused) or "none")
    absent += assign(network, replace(checkpoint, tensors=tensors), where=where, allow=allow)
    return {"source": source, "sha256": checkpoint.sha256, "classes": mapped, "random": absent}


def _selected(given: Tensor, own: Tensor, order: Sequence[int | None]) -> Tensor:
    """Rows of a classifier in our order, rows of new classes as they are; unchanged where the shape differs."""
    if given.shape[1:] != own.shape[1:] or given.dtype not in FLOATS:
        return given
    found = own.detach().clone()
    for index, row in enumerate(order):
        if row is not None:
            found[index] = given[row]
    return found


class Allowed:
    """Which tensors may be missing or left over, as prefixes of their names: ours, those in the file, or timm's.

    Args:
        missing: of tensors of the network that the checkpoint may lack: they start random.
        unexpected: of tensors of the checkpoint that the network may lack: they are not used.
    """

    def __init__(self, missing: Sequence[str] | None, unexpected: Sequence[str] | None) -> None:
        self.missing = tuple(missing or ())
        self.unexpected = tuple(unexpected or ())


def _under(name: str, prefixes: Iterable[str], *, in_file: str = "") -> bool:
    forms = {name, name.removeprefix(WITHIN), in_file}
    return any(form == prefix or form.startswith(f"{prefix.rstrip('.')}.") for prefix in prefixes for form in forms)


def _shown(name: str, in_file: str | None) -> str:
    """A name as messages show it: as in the file where only smp's module around a timm network is added."""
    return in_file if in_file is not None and name == WITHIN + in_file else name


def assign(module: nn.Module, checkpoint: Checkpoint, *, where: str, allow: Allowed) -> list[str]:
    """Copy the tensors of a checkpoint into a module by name, all or none.

    Returns:
        the prefixes in ``allow.missing`` for which tensors started random.

    Raises:
        UserError: tensors that are missing or left over and not allowed, shapes and kinds of number that differ,
            values that are not finite: all at once, grouped by prefix.
    """
    tensors, source, in_file = checkpoint.tensors, checkpoint.source, checkpoint.names
    own = {name: tensor for name, tensor in module.state_dict().items() if isinstance(tensor, Tensor)}
    faults = Faults(f"{where}: {source} does not fit the network")
    for prefix in allow.missing:
        if not any(_under(name, [prefix]) for name in own):
            children = [name for name, _ in module.named_children()]
            faults.add(
                f"model.allow_missing: no tensor of the network is under '{prefix}'; {closest(prefix, children)}"
            )
    missing = [name for name in own if name not in tensors and not name.endswith(COUNTER)]
    unexpected = {
        _shown(name, in_file.get(name)): _under(name, allow.unexpected, in_file=in_file.get(name, ""))
        for name in tensors
        if name not in own and not name.endswith((COUNTER, AVERAGED))
    }
    shapes, kinds, infinite = [], [], []
    for name in own.keys() & tensors.keys():
        ours, given = own[name], tensors[name]
        if ours.shape != given.shape:
            shapes.append(f"{name} {tuple(given.shape)} for {tuple(ours.shape)}")
        elif ours.dtype.is_floating_point != (given.dtype in FLOATS) and not name.endswith(COUNTER):
            kinds.append(f"{name} {given.dtype} for {ours.dtype}")
        elif given.dtype in FLOATS and not bool(torch.isfinite(given).all()):
            infinite.append(name)
    for what, names in (
        ("missing in the file", [name for name in missing if not _under(name, allow.missing)]),
        ("unexpected in the file", [name for name, allowed in unexpected.items() if not allowed]),
        ("of another shape (file for network)", shapes),
        ("of another kind of number (file for network)", kinds),
        ("not finite", infinite),
    ):
        if names:
            faults.add(f"{len(names)} tensors {what}: {grouped(names)}")
    faults.raise_if_any(
        advice="choose the architecture, encoder and options that it was made with; tensors that may start random or "
        "stay unused are named by prefix in model.allow_missing and model.allow_unexpected"
    )
    with torch.no_grad():
        for name in own.keys() & tensors.keys():
            own[name].copy_(Tensor.detach(tensors[name]))
    if missing:
        log.info("%s: %d tensors are not in it and start random: %s", source, len(missing), grouped(missing))
    if unexpected:
        log.info("%s: %d tensors of it are not used: %s", source, len(unexpected), grouped(list(unexpected)))
    return [prefix for prefix in allow.missing if any(_under(name, [prefix]) for name in missing)]


def grouped(names: Sequence[str]) -> str:
    """Names by their first part, counted, with the first few of each.

    Example:
        >>> grouped(["a.x", "b.1.w", "b.1.b", "b.2.w", "b.2.b"])
        'a (1: a.x), b (4: b.1.b, b.1.w, b.2.b, ...)'
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(name.split(".")[0], []).append(name)
    return ", ".join(
        f"{prefix} ({len(each)}: {', '.join(each[:SHOWN])}{', ...' if len(each) > SHOWN else ''})"
        for prefix, each in groups.items()
    )
