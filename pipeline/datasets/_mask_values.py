"""From options (ids, colours, ignored values) to a :class:`Coding` of the masks, and hints about wrong options."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from pipeline.datasets._masks import Coding
from pipeline.errors import Problems, UserError
from pipeline.labels import IGNORE_INDEX, LabelSpec, rgb

HIGHEST_ID = (1 << 16) - 1
LARGEST_BYTE = 255
OR_ELSE = "add it to a class in ids, or to ignore, or set rest: ignore to ignore all such pixels"
OR_IGNORE = "add it to ignore, or set rest: ignore to ignore all such pixels"

Palette = Sequence[str | Sequence[int]]
Ignore = Sequence[int | str | Sequence[int]] | None


def labels_of(classes: Sequence[str], palette: Palette, problems: Problems) -> LabelSpec | None:
    """Classes and their colours. None: they are invalid, and ``problems`` got the errors."""
    if not classes:
        problems.add("classes: empty; name the classes in train-id order")
    colours = []
    for index, colour in enumerate(palette):
        try:
            colours.append(rgb(colour))
        except UserError as error:
            name = f" ({classes[index]})" if index < len(classes) else ""
            problems.add(f"palette[{index}]{name}: {error}")
    repeated = sorted({colour for colour in colours if colours.count(colour) > 1})
    for colour in repeated:
        owners = [
            str(classes[i]) if i < len(classes) else f"entry {i}" for i, each in enumerate(colours) if each == colour
        ]
        problems.add(
            f"palette: the same colour {list(colour)} for {', '.join(owners)}; give each class a different colour"
        )
    if not classes or len(colours) < len(palette):
        return None
    try:
        return LabelSpec(names=tuple(classes), palette=tuple(colours))
    except UserError as error:
        problems.add(str(error))
        return None


def coding_of(
    labels: LabelSpec,
    *,
    masks_hold: str,
    ids: Mapping[str, Sequence[int]] | None,
    ignore: Ignore,
    rest: str,
    problems: Problems,
) -> Coding:
    """The coding of masks that the options describe.

    Args:
        ignore: ids or colours of ignored pixels; None: id 255, unless a class has that id.
        problems: gets an error for each invalid id or colour.
    """
    other = IGNORE_INDEX if rest == "ignore" else None
    if masks_hold == "ids":
        meaning = _meaning(labels, ids, problems)
        if ignore is None:
            meaning.setdefault(IGNORE_INDEX, IGNORE_INDEX)
        for value in ignore or ():
            if not isinstance(value, int) or not 0 <= value <= HIGHEST_ID:
                problems.add(f"ignore: got {value}; allowed: ids in 0..{HIGHEST_ID} that belong to no class")
            elif (train := meaning.setdefault(value, IGNORE_INDEX)) != IGNORE_INDEX:
                name = labels.names[train]
                problems.add(
                    f"ignore: got {value}, which is an id of class {name!r}; remove it from ignore or from that class"
                )
        return Coding(ids=meaning, rest=other, allowed=f"allowed: {listed(sorted(meaning))}; {OR_ELSE}")
    colours = {colour: train for train, colour in enumerate(labels.palette)}
    for value in ignore or ():
        try:
            colour = rgb("" if isinstance(value, int) else value)
        except UserError:
            problems.add(f'ignore: got {value}; allowed: RGB colours, [0, 0, 0] or "#000000", that belong to no class')
            continue
        if (train := colours.setdefault(colour, IGNORE_INDEX)) != IGNORE_INDEX:
            problems.add(
                f"ignore: got {value}, which is the colour of class {labels.names[train]!r}; allowed: RGB colours that "
                "belong to no class"
            )
    return Coding(colours=colours, rest=other, allowed=f"allowed: those of palette and ignore; {OR_IGNORE}")


def _meaning(labels: LabelSpec, ids: Mapping[str, Sequence[int]] | None, problems: Problems) -> dict[int, int]:
    """Train id of each id in the masks."""
    meaning: dict[int, int] = {}
    if ids is not None and not set(labels.names[1:]) <= set(ids) <= set(labels.names):
        problems.add(f"ids: got {sorted(ids)}; allowed: a list of ids for each of {sorted(labels.names)}")
        return meaning
    for train, name in enumerate(labels.names):
        for raw in [train] if ids is None or name not in ids else ids[name]:
            if raw in meaning or not 0 <= raw <= HIGHEST_ID:
                problems.add(f"ids.{name}: got {raw}; allowed: ids in 0..{HIGHEST_ID} that belong to no other class")
            else:
                meaning[raw] = train
    return meaning


def with_original(labels: LabelSpec, coding: Coding) -> LabelSpec:
    """The labels with original ids: the first id of each class in the masks. Unchanged if an id needs over 8 bits."""
    if coding.ids is None:
        return labels
    first: dict[int, int] = {}
    for raw, train in coding.ids.items():
        if raw <= LARGEST_BYTE:
            first.setdefault(train, raw)
    free = (value for value in (IGNORE_INDEX, *range(LARGEST_BYTE)) if value not in coding.ids)
    ignored = first.get(IGNORE_INDEX, next(free, None))
    if ignored is None or not set(range(labels.num_classes)) <= set(first):
        return labels
    ids = tuple(first[train] for train in range(labels.num_classes))
    return replace(labels, original_ids=ids, original_ignored=ignored)


def hint(
    labels: LabelSpec, coding: Coding, *, absent: Sequence[str], values: Iterable[int], ignore: Ignore
) -> str | None:
    """A likely reason why some classes have no pixel: the masks hold them as an id that is ignored. None: unlikely.

    Args:
        absent: names of classes without a pixel.
        values: ids in the masks.
        ignore: the option.
    """
    if coding.ids is None or not absent:
        return None
    ignored = sorted(value for value in values if coding.ids.get(value, coding.rest) == IGNORE_INDEX)
    if not ignored:
        return None
    ignored_ids = listed(ignored)
    names, verb = ", ".join(absent), "has" if len(absent) == 1 else "have"
    are = "is" if len(ignored) == 1 else "are"
    reason = f"{names} {verb} no pixel, but masks hold {ignored_ids}, which {are} ignored"
    if len(absent) > 1 or len(ignored) > 1:
        return f"{reason}; if one of these ids means a class, add it to that class in datasets.folder.ids"
    ids_of = {
        train: [raw for raw, other in coding.ids.items() if other == train] for train in range(labels.num_classes)
    }
    ids = {name: ignored if name in absent else ids_of[train] for train, name in enumerate(labels.names)}
    line = ", ".join(f"{_key(name)}: [{', '.join(map(str, raws))}]" for name, raws in ids.items())
    removal = f" and remove {ignored_ids} from datasets.folder.ignore" if ignored[0] in (ignore or ()) else ""
    return f"{reason}; if {ignored_ids} means {names}, set datasets.folder.ids: {{{line}}}{removal}"


def _key(name: str) -> str:
    """A class name as a YAML key, in quotes if it needs them."""
    plain = re.fullmatch(r"[A-Za-z][\w -]*", name) and name.lower() not in (
        "true",
        "false",
        "yes",
        "no",
        "on",
        "off",
        "null",
    )
    return name if plain else json.dumps(name, ensure_ascii=False)


def listed(ids: Sequence[int]) -> str:
    """Ids as text, with ranges: ``0..18, 255``."""
    ranges: list[list[int]] = []
    for index in ids:
        if ranges and index == ranges[-1][1] + 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    return ", ".join(str(low) if low == high else f"{low}..{high}" for low, high in ranges)
