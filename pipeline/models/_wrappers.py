"""Names of tensors without what wrappers put before them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence

from torch import Tensor

from pipeline.models._checkpoint import Checkpoint

log = logging.getLogger(__name__)

#: What wrappers put before the names of a network's tensors: DataParallel, torch.compile, Lightning, segpress.
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.")
#: What stands before an encoder's names in the checkpoint of a whole network or classifier.
AROUND_ENCODERS = ("encoder.", "backbone.", "features.")
#: timm's own names, where smp puts one more module around them.
WITHIN = "model."


def unwrap(checkpoint: Checkpoint, wanted: Collection[str], *, extra: Sequence[str] = ()) -> dict[str, Tensor]:
    """The tensors of a checkpoint without what wrappers put before their names.

    Those prefixes are taken off (one after the other, where a name has them) with which most names fit.

    Args:
        wanted: names of the network's tensors.
        extra: further prefixes that may stand there.
    """
    known, tensors = set(wanted), checkpoint.tensors
    starts: list[tuple[str, ...]] = [()]
    for start in starts:  # it grows: wrappers in wrappers
        if len(start) < 3:
            longer = ((*start, each) for each in (*WRAPPERS, *extra))
            starts += [each for each in longer if any(name.startswith("".join(each)) for name in tensors)]
    ways = [(start, within) for start in starts for within in ("", WITHIN)]
    counts = {way: len(known & _renamed(tensors, *way).keys()) for way in ways}
    start, within = max(ways, key=lambda way: counts[way])  # the first, shortest of equals
    if start or within:
        log.info(
            "%s: names of tensors are read without '%s'%s", checkpoint.source, "".join(start), within and " + " + within
        )
    return _renamed(tensors, start, within)


def _renamed(tensors: Mapping[str, Tensor], start: Sequence[str], within: str) -> dict[str, Tensor]:
    """Names without the prefixes, and with another one where they had all; of two that would be one, none is lost."""
    found: dict[str, Tensor] = {}
    whole = "".join(start)
    for name in sorted(tensors, key=lambda name: not name.startswith(whole)):  # those that fit come first
        short = within + name.removeprefix(whole) if name.startswith(whole) else name
        for prefix in start if short is name else ():
            short = short.removeprefix(prefix)
        while short in found:
            short += " (again)"  # a name that no network has, so that it is reported as unexpected
        found[short] = tensors[name]
    return found
