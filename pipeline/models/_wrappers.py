"""Names of tensors without what wrappers put before them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace

from pipeline.models._checkpoint import Checkpoint

log = logging.getLogger(__name__)

#: What wrappers put before the names of a network's tensors: DataParallel, torch.compile, Lightning, segpress.
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.")
#: What stands before an encoder's names in the checkpoint of a whole network or classifier.
AROUND_ENCODERS = ("encoder.", "backbone.", "features.")
#: timm's own names, where smp puts one more module around them.
WITHIN = "model."


def unwrap(checkpoint: Checkpoint, wanted: Collection[str], *, extra: Sequence[str] = ()) -> Checkpoint:
    """The checkpoint without what wrappers put before the names of its tensors.

    Those prefixes are taken off (one after the other, where a name has them) with which most names fit.

    Args:
        wanted: names of the network's tensors.
        extra: further prefixes that may stand there.
    """
    known = set(wanted)
    starts: list[tuple[str, ...]] = [()]
    for start in starts:  # it grows: wrappers in wrappers
        if len(start) < 3:
            longer = ((*start, each) for each in (*WRAPPERS, *extra))
            starts += [each for each in longer if any(name.startswith("".join(each)) for name in checkpoint.tensors)]
    ways = [(start, within) for start in starts for within in ("", WITHIN)]
    counts = {way: len(known & _renamed(checkpoint.tensors, known, *way).keys()) for way in ways}
    start, within = max(ways, key=lambda way: counts[way])  # the first, shortest of equals
    if start or within:
        log.info(
            "%s: names of tensors are read without '%s'%s", checkpoint.source, "".join(start), within and " + " + within
        )
    names = _renamed(checkpoint.tensors, known, start, within)
    tensors = {name: checkpoint.tensors[in_file] for name, in_file in names.items()}
    return replace(checkpoint, tensors=tensors, names=names)


def _renamed(tensors: Collection[str], known: Collection[str], start: Sequence[str], within: str) -> dict[str, str]:
    """Names without the prefixes, and with another one where they had all -> names in the file; of two that would be
    one, none is lost."""
    found: dict[str, str] = {}
    whole = "".join(start)
    for name in sorted(tensors, key=lambda name: not name.startswith(whole)):  # those that fit come first
        short = name.removeprefix(whole) if name.startswith(whole) else name
        for prefix in start if short is name else ():
            short = short.removeprefix(prefix)
        short = within + short if name.startswith(whole) else short
        flat = within + short.removeprefix(within).replace(".", "_", 1)  # stages.0 in timm, stages_0 as features
        short = flat if short not in known and flat in known else short
        while short in found:
            short += " (again)"  # a name that no network has, so that it is reported as unexpected
        found[short] = name
    return found
