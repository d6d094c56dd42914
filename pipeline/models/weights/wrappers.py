"""Names of tensors without the prefixes that wrappers add."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace

from pipeline.models.weights.checkpoint import Checkpoint

log = logging.getLogger(__name__)

#: Prefixes of wrappers: DataParallel, torch.compile, Lightning, segpress.
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.")
#: Prefixes of an encoder in the checkpoint of a whole network or classifier.
AROUND_ENCODERS = ("encoder.", "backbone.", "features.")
#: Prefix that smp's module around a timm network adds to timm's names.
WITHIN = "model."


def unwrap(checkpoint: Checkpoint, wanted: Collection[str], *, extra: Sequence[str] = ()) -> Checkpoint:
    """The checkpoint without the prefixes of wrappers in the names of its tensors.

    Of all sequences of prefixes, the one is removed with which most names are names of the network.

    Args:
        wanted: names of the network's tensors.
        extra: further prefixes.
    """
    known = set(wanted)
    starts: list[tuple[str, ...]] = [()]
    for start in starts:  # the list grows: wrappers in wrappers
        if len(start) < 3:
            longer = ((*start, prefix) for prefix in (*WRAPPERS, *extra))
            starts += [
                prefixes
                for prefixes in longer
                if any(name.startswith("".join(prefixes)) for name in checkpoint.tensors)
            ]
    ways = [(start, within) for start in starts for within in ("", WITHIN)]
    counts = {way: len(known & _renamed(checkpoint.tensors, known, *way).keys()) for way in ways}
    start, within = max(ways, key=lambda way: counts[way])  # of equals the first, which is the shortest
    if start or within:
        log.info(
            "%s: names of tensors are read without '%s'%s", checkpoint.source, "".join(start), within and " + " + within
        )
    names = _renamed(checkpoint.tensors, known, start, within)
    tensors = {name: checkpoint.tensors[in_file] for name, in_file in names.items()}
    return replace(checkpoint, tensors=tensors, names=names)


def _renamed(tensors: Collection[str], known: Collection[str], start: Sequence[str], within: str) -> dict[str, str]:
    """Names without the prefixes -> names in the file. Names that had all prefixes get ``within`` instead; names that
    become equal stay distinct."""
    names: dict[str, str] = {}
    whole = "".join(start)
    for name in sorted(tensors, key=lambda name: not name.startswith(whole)):  # names with all prefixes first
        short = name.removeprefix(whole) if name.startswith(whole) else name
        for prefix in start if short is name else ():
            short = short.removeprefix(prefix)
        short = within + short if name.startswith(whole) else short
        flat = within + short.removeprefix(within).replace(".", "_", 1)  # stages.0 in timm, stages_0 as features
        short = flat if short not in known and flat in known else short
        while short in names:
            short += " (again)"  # no network has this name, so it is reported as unexpected
        names[short] = name
    return names
