"""Licences: what a network was made from, and whether these sources allow commercial use.

A *source* is an entry of ``licences`` in the meta.json of a network and in its results: ``role`` (``data``, ``initial
weights``, ``frames without labels``, ``calibration data``, each also with ``teacher's`` before it), ``of`` (which one),
and the fields of :class:`Licence`. ``name`` is null if its licence was not stated. These are records of what owners and
users state, not legal advice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Source = dict[str, Any]
#: Licences whose terms on commercial use are known, by their SPDX identifier in lower case.
COMMERCIAL = {
    **dict.fromkeys(
        ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0"), True
    ),
    **dict.fromkeys(("cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0"), False),
}


@dataclass(frozen=True, kw_only=True)
class Licence:
    """The licence of a data set or of weights.

    Args:
        name: as its owner writes it, such as ``CC BY-NC 4.0``.
        url: page with its text; empty: none is known.
        commercial: whether it allows commercial use; None: not known.
        note: its terms in one sentence; empty: nothing to add.
    """

    name: str
    url: str = ""
    commercial: bool | None = None
    note: str = ""


#: Facts of a licence that nobody stated.
NOT_STATED: Mapping[str, Any] = {"name": None, "url": "", "commercial": None, "note": ""}


def identifier(name: str) -> str:
    """A name in the form of SPDX, in lower case.

    Example:
        >>> identifier("CC BY-NC 4.0")
        'cc-by-nc-4.0'
    """
    return re.sub(r"[\s_-]+", "-", name.strip().lower())


def named(name: str) -> dict[str, Any]:
    """Facts of a licence of which only the name is known, for example from a checkpoint.

    Example:
        >>> named("Apache-2.0")["commercial"], named("other")["commercial"]
        (True, None)
    """
    return asdict(Licence(name=name, commercial=COMMERCIAL.get(identifier(name))))


def source(role: str, of: str, licence: Mapping[str, Any] | None) -> Source:
    """One source, from the facts of its licence; None: they were not stated."""
    return {"role": role, "of": of, **{key: (licence or {}).get(key, NOT_STATED[key]) for key in NOT_STATED}}


def data(meta: Mapping[str, Any], *, role: str = "data") -> Source:
    """The source of a prepared data set, from its meta.json; older versions wrote none: it is not stated."""
    return source(role, str(meta.get("dataset", "data set")), meta.get("licence"))


def weights(initial: Mapping[str, Any], *, role: str = "initial weights") -> list[Source]:
    """The source of ``initial_weights`` of a network; no source if all weights started random."""
    return [source(role, str(initial.get("source", "weights")), initial.get("licence"))] if initial else []


def recorded(meta: Mapping[str, Any]) -> list[Source]:
    """The sources in the meta.json of a network; an older version wrote none: one source that is not stated."""
    return list(meta.get("licences", [source("data", "this network", None)]))


def of_teacher(meta: Mapping[str, Any]) -> list[Source]:
    """The sources of a teacher, as those of its student."""
    return [{**each, "role": f"teacher's {each['role']}"} for each in recorded(meta)]


def distinct(sources: Iterable[Source]) -> list[Source]:
    """Sources without those that another one, earlier in the list, has already: a teacher trained on the same data."""
    found: dict[tuple[Any, ...], Source] = {}
    for each in sources:
        found.setdefault((each["role"].removeprefix("teacher's "), *(each[key] for key in ("of", *NOT_STATED))), each)
    return list(found.values())


def commercial(sources: Sequence[Mapping[str, Any]]) -> bool | None:
    """Whether the licences allow commercial use: False if one forbids it, True if all allow it, else None.

    Example:
        >>> commercial([{"commercial": True}, {"commercial": None}]), commercial([{"commercial": None}] * 2)
        (None, None)
        >>> commercial([{"commercial": None}, {"commercial": False}])
        False
    """
    terms = [each["commercial"] for each in sources]
    return False if False in terms else None if None in terms or not terms else True


def combined(sources: Sequence[Source]) -> dict[str, Any]:
    """Facts of one licence that stand for those of several sources, such as all sources of a network."""
    names = list(dict.fromkeys(str(each["name"] or "not stated") for each in sources))
    return asdict(
        Licence(name=", ".join(names), commercial=commercial(sources), note="licences of a network's sources")
    )


def of_checkpoint(facts: Any) -> dict[str, Any]:
    """Facts of the licence that a header or the top of a torch file states: ``license``, or ``licences`` as our own
    networks have them; empty: none.

    Example:
        >>> of_checkpoint({"license": "MIT"})["commercial"], of_checkpoint({})
        (True, {})
    """
    if not isinstance(facts, dict):
        return {}
    sources = facts.get("licences")
    if isinstance(sources, list) and sources and all(isinstance(each, dict) for each in sources):
        return combined([source("", "", each) for each in sources])
    name = facts.get("license")
    return named(name) if isinstance(name, str) and name.strip() else {}
