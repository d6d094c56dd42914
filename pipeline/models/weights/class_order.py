"""Match the classes of a data set with those of a checkpoint: by name, never by position."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from unicodedata import normalize

from pipeline.errors import Problems, closest

SHOWN = 30  # names of a long list in a message


def plain(name: str) -> str:
    """The form of a class name for comparisons: lower case, composed Unicode, without spaces, underscores and hyphens.

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
        allow_new: the checkpoint may lack classes.
        subject: start of the message.

    Raises:
        UserError: classes that the checkpoint lacks, with the closest names; unknown names in ``class_map``; one class
            of the checkpoint for two of the data set; names that fit several classes. All at once.

    Example:
        >>> rows(["road", "car"], ["Car", "sky", "Road"], class_map={}, allow_new=False, subject="x.pth")
        [2, 0]
    """
    problems = Problems(subject)
    chosen: dict[str, str] = {}
    class_map = {normalize("NFC", name): other for name, other in class_map.items()}
    for ours_name, theirs_name in class_map.items():
        if ours_name not in ours:
            problems.add(f"class_map.{ours_name}: the data set has no such class; {closest(ours_name, ours)}")
        elif not _places(theirs_name, theirs):
            problems.add(
                f"class_map.{ours_name}: the checkpoint has no class '{theirs_name}'; {near(theirs_name, theirs)}"
            )
        else:
            chosen[ours_name] = theirs_name
    order: list[int | None] = []
    for name in ours:
        places = _places(chosen.get(name, name), theirs)
        order.append(places[0] if places else None)
        if len(places) > 1:
            problems.add(f"'{name}' is {len(places)} classes of the checkpoint: {[theirs[place] for place in places]}")
        if not places and not allow_new and name not in class_map:
            problems.add(f"the checkpoint has no class '{name}'; {near(name, theirs)}")
    for place in sorted({place for place in order if place is not None and order.count(place) > 1}):
        names = [name for name, row in zip(ours, order, strict=True) if row == place]
        problems.add(f"{' and '.join(names)} are both '{theirs[place]}' of the checkpoint; it can be only one class")
    problems.raise_if_any(
        advice="name the checkpoint's class in model.class_map: {data set class: checkpoint class}, or let classes "
        "that it lacks start random (and train them): model.new_classes: some"
    )
    return order


def _places(name: str, names: Sequence[str]) -> list[int]:
    """Positions of a name: of exact matches; if there are none, of matches in their :func:`plain` form."""
    exact = [i for i, candidate in enumerate(names) if candidate == name]
    return exact or [i for i, candidate in enumerate(names) if plain(candidate) == plain(name)]


def near(name: str, names: Sequence[str]) -> str:
    """The closest names, up to three; if none is close, all names."""
    by_plain = {plain(candidate): candidate for candidate in names}
    close = difflib.get_close_matches(plain(name), by_plain, n=3, cutoff=0.5)
    if close:
        return f"the closest: {', '.join(by_plain[form] for form in close)}"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"it has {', '.join(names[:SHOWN])}{more}"
