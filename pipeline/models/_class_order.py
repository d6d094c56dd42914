"""Which class of a checkpoint each class of the data set is: by name, never by position."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from unicodedata import normalize

from pipeline.errors import Faults, closest

SHOWN = 30  # names of a long list in a message


def plain(name: str) -> str:
    """A class name as names are compared: without case, spaces, underscores, hyphens and forms of Unicode.

    Example:
        >>> plain("Traffic_Light") == plain("traffic light")
        True
    """
    return re.sub(r"[\s_-]+", "", normalize("NFC", name)).casefold()


def rows(
    ours: Sequence[str],
    theirs: Sequence[str],
    *,
    class_map: Mapping[str, str],
    allow_new: bool,
    subject: str,
) -> list[int | None]:
    """For every class of the data set, the id that the checkpoint has for it; None for a class that is new to it.

    Args:
        ours: classes of the data set in train-id order, in composed Unicode.
        theirs: classes of the checkpoint in the order of its classifier.
        class_map: data set class -> checkpoint class, where their names differ.
        allow_new: let the checkpoint lack classes.
        subject: what messages begin with.

    Raises:
        UserError: classes that the checkpoint lacks, with those that are closest; names in ``class_map`` that are on
            neither side; one class of the checkpoint for two of the data set; names that fit several.

    Example:
        >>> rows(["road", "car"], ["Car", "sky", "Road"], class_map={}, allow_new=False, subject="x.pth")
        [2, 0]
    """
    faults = Faults(subject)
    chosen: dict[str, str] = {}
    class_map = {normalize("NFC", name): other for name, other in class_map.items()}
    for ours_name, theirs_name in class_map.items():
        if ours_name not in ours:
            faults.add(f"class_map.{ours_name}: the data set has no such class; {closest(ours_name, ours)}")
        elif not _places(theirs_name, theirs):
            faults.add(
                f"class_map.{ours_name}: the checkpoint has no class '{theirs_name}'; {near(theirs_name, theirs)}"
            )
        else:
            chosen[ours_name] = theirs_name
    found: list[int | None] = []
    for name in ours:
        places = _places(chosen.get(name, name), theirs)
        found.append(places[0] if places else None)
        if len(places) > 1:
            faults.add(f"'{name}' is {len(places)} classes of the checkpoint: {[theirs[place] for place in places]}")
        if not places and not allow_new and name not in class_map:
            faults.add(f"the checkpoint has no class '{name}'; {near(name, theirs)}")
    for place in sorted({place for place in found if place is not None and found.count(place) > 1}):
        twice = [name for name, row in zip(ours, found, strict=True) if row == place]
        faults.add(f"{' and '.join(twice)} are both '{theirs[place]}' of the checkpoint; it can stand for one class")
    faults.raise_if_any(
        advice="name the checkpoint's class in model.class_map: {data set class: checkpoint class}, or let classes "
        "that it lacks start random (and train them) with model.new_classes: some"
    )
    return found


def _places(name: str, names: Sequence[str]) -> list[int]:
    """Where a name stands: exactly, else as :func:`plain` has it."""
    exact = [i for i, each in enumerate(names) if each == name]
    return exact or [i for i, each in enumerate(names) if plain(each) == plain(name)]


def near(name: str, names: Sequence[str]) -> str:
    """The closest names, up to three; where none is close, what there is."""
    by_plain = {plain(each): each for each in names}
    close = difflib.get_close_matches(plain(name), by_plain, n=3, cutoff=0.5)
    if close:
        return f"the closest: {', '.join(by_plain[each] for each in close)}"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"it has {', '.join(names[:SHOWN])}{more}"
