"""The file of rules of events, in JSON or YAML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import closest
from pipeline.labels import LabelSpec
from pipeline.video.rules import Rule, Span
from pipeline.video.settings_file import is_number, read_entries
from pipeline.video.zone_file import Zone

KEYS = ("name", "class", "zone", "above", "below", "until", "seconds", "pause", "clip", "url")
CLIP_KEYS = ("before", "after", "longest")
_EXAMPLE = '{"events": [{"name": "obstacle", "class": "car", "zone": "lane", "above": 0.05, "seconds": 1}]}'
_DEFAULT = Rule(name="", classes=(), ids=(), zone=None, share=0, above=True, until=0)
#: Smallest and largest seconds. Frames before an event are kept in memory, so their limit is low.
_SECONDS = {"seconds": (0, 3600), "pause": (0, 3600)}
_CLIP_SECONDS = {"before": (0, 60), "after": (0, 600), "longest": (1, 86_400)}


def read_rules(path: Path, *, labels: LabelSpec, zones: Sequence[Zone] = ()) -> list[Rule]:
    """The rules of a JSON file, or of a YAML file where PyYAML is installed.

    Args:
        labels: the classes that rules may name.
        zones: the zones that rules may name.

    Raises:
        UserError: no such file, not JSON or YAML, or invalid; one error has all problems.
    """
    problems, entries = read_entries(path, "events", example=_EXAMPLE)
    rules = list[Rule]()
    for index, entry in enumerate(entries):
        wrong = _wrong(entry, labels, zones)
        for message in wrong:
            problems.add(f"events[{index}]{message}")
        if wrong:
            continue
        rule = _rule(entry, labels)
        if rule.name in {other.name for other in rules}:
            problems.add(f"events[{index}].name: '{rule.name}' names two events; give each its own name")
        rules.append(rule)
    problems.raise_if_any()
    return rules


def _rule(entry: Mapping[str, Any], labels: LabelSpec) -> Rule:
    """A rule from an entry that has no problems."""
    classes = tuple(_texts(entry["class"]))
    share = float(entry["above"] if "above" in entry else entry["below"])
    clip = entry.get("clip", True)
    return Rule(
        name=entry["name"],
        classes=classes,
        ids=tuple(labels.names.index(name) for name in classes),
        zone=entry.get("zone"),
        share=share,
        above="above" in entry,
        until=float(entry.get("until", share)),
        seconds=float(entry.get("seconds", _DEFAULT.seconds)),
        pause=float(entry.get("pause", _DEFAULT.pause)),
        clip=Span(**{key: float(value) for key, value in _clip_times(clip).items()}) if clip is not False else None,
        url=entry.get("url"),
    )


def _wrong(entry: Any, labels: LabelSpec, zones: Sequence[Zone]) -> list[str]:
    """The problems of an entry; each begins with its place."""
    if not isinstance(entry, dict):
        return [f": got {entry!r}; needed: name, class, and above or below"]
    wrong = [f".{key}: unknown key; {closest(str(key), KEYS)}" for key in entry if key not in KEYS]
    name = entry.get("name")
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        wrong.append(f".name: got {name!r}; needed: text, in one line")
    wrong += _wrong_classes(entry.get("class"), labels)
    wrong += _wrong_zone(entry.get("zone"), zones)
    wrong += _wrong_shares(entry)
    wrong += _wrong_seconds("", entry, _SECONDS)
    wrong += _wrong_clip(entry.get("clip", True))
    if entry.get("url") is not None:
        wrong += [f".url: {message}" for message in _wrong_url(entry["url"])]
    return wrong


def _wrong_classes(given: Any, labels: LabelSpec) -> list[str]:
    names = _texts(given)
    if not names:
        return [f".class: got {given!r}; needed: the name of a class, or a list of names"]
    wrong = [f".class: '{name}' is no class of this engine; {closest(name, labels.names)}" for name in names
             if name not in labels.names]  # fmt: skip
    return wrong or ([f".class: got {given!r}; name each class once"] if len(set(names)) < len(names) else [])


def _wrong_zone(given: Any, zones: Sequence[Zone]) -> list[str]:
    if given is None:
        return []
    if not isinstance(given, str):
        return [f".zone: got {given!r}; needed: the name of a zone; for the whole frame leave zone out"]
    counted = [zone.name for zone in zones if not zone.ignored]
    if given in counted:
        return []
    if not zones:
        return [f".zone: '{given}': there are no zones; name their file: --zones FILE"]
    if given in {zone.name for zone in zones}:
        return [f".zone: '{given}' is an ignored zone, in which nothing is counted; allowed: {_listed(counted)}"]
    return [f".zone: '{given}' is no zone; {closest(given, counted)}"]


def _wrong_shares(entry: Mapping[str, Any]) -> list[str]:
    given = [key for key in ("above", "below") if key in entry]
    if len(given) != 1:
        return [f": got {' and '.join(given) or 'neither above nor below'}; needed: one of above and below"]
    wrong = [
        f".{key}: got {entry[key]!r}; allowed: a share, 0 to 1"
        for key in (*given, "until")
        if key in entry and not (is_number(entry[key]) and 0 <= entry[key] <= 1)
    ]
    if wrong:
        return wrong
    key, share = given[0], entry[given[0]]
    if share == (1 if key == "above" else 0):
        return [f".{key}: got {share!r}, and no share is {key} that; allowed: {'less than 1' if share else 'above 0'}"]
    until = entry.get("until", share)
    if (until > share) if key == "above" else (until < share):
        side = "at most" if key == "above" else "at least"
        return [f".until: got {until!r}; allowed: {side} {share!r}, which is {key}: the event ends at that share"]
    return []


def _wrong_clip(given: Any) -> list[str]:
    if isinstance(given, bool):
        return []
    if not isinstance(given, dict):
        return [f".clip: got {given!r}; allowed: true, false, or before, after and longest in seconds"]
    wrong = [f".clip.{key}: unknown key; {closest(str(key), CLIP_KEYS)}" for key in given if key not in CLIP_KEYS]
    return wrong + _wrong_seconds(".clip", given, _CLIP_SECONDS)


def _wrong_seconds(place: str, given: Mapping[str, Any], limits: Mapping[str, tuple[float, float]]) -> list[str]:
    return [
        f"{place}.{key}: got {given[key]!r}; allowed: seconds, {least:g} to {most:g}"
        for key, (least, most) in limits.items()
        if key in given and not (is_number(given[key]) and least <= given[key] <= most)
    ]


def _wrong_url(given: Any) -> list[str]:
    needed = "needed: an address such as http://host:8080/path or https://host/path"
    if not isinstance(given, str) or not given.isascii() or any(char <= " " or char == "\x7f" for char in given):
        return [f"got {given!r}; {needed}; write other characters as %XX"]
    try:
        parts = urlsplit(given)
        port = parts.port
    except ValueError as error:
        return [f"not an address ({error}); {needed}"]
    if parts.scheme not in ("http", "https"):
        return [f"got the scheme '{parts.scheme}'; allowed: http, https; {needed}"]
    labels = (parts.hostname or "").split(".")
    if not parts.hostname or port == 0 or any(len(label) > 63 for label in labels):
        return [f"no host that can be called; {needed}"]
    return []


def _texts(given: Any) -> list[str]:
    """A name or a list of names, as a list; empty if it is neither."""
    names = [given] if isinstance(given, str) else given
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []


def _clip_times(clip: Any) -> Mapping[str, Any]:
    return clip if isinstance(clip, dict) else {}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
