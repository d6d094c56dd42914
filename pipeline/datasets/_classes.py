"""Labels of annotation tools -> classes, by the options that the plugins of these tools share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.datasets._palettes import Colour
from pipeline.datasets._patterns import nfc
from pipeline.datasets._voc import colour_map
from pipeline.errors import Faults, UserError, closest
from pipeline.labels import IGNORE_INDEX, LabelSpec, rgb

Classes = dict[str, list[str]] | list[str]
Palette = list[str | tuple[int, int, int]]
Rest = Literal["fault", "ignore", "skip"]


@dataclass(frozen=True)
class ClassCoding:
    """What each label means.

    Args:
        plugin: whose options the messages name.
        labels: the classes.
        meaning: label in composed Unicode -> train id, or the ignored id.
        unlabelled: train id of the pixels that no shape has.
        rest: what becomes of shapes with other labels.
        warnings: labels of the options that no shape has.
    """

    plugin: str
    labels: LabelSpec
    meaning: Mapping[str, int]
    unlabelled: int
    rest: Rest
    warnings: tuple[str, ...] = ()

    def painted(self, label: str) -> bool:
        """Whether shapes of a label are painted."""
        return nfc(label) in self.meaning or self.rest == "ignore"

    def train_id(self, label: str | None) -> int:
        """Train id of a label, or the ignored id; None is no label."""
        if label is None or not self.painted(label):
            return self.unlabelled
        return self.meaning.get(nfc(label), IGNORE_INDEX)

    def says(self, train: int) -> str:
        """Name of a class, or ``ignored``."""
        return "ignored" if train == IGNORE_INDEX else self.labels.names[train]

    def unknown(self, places: Mapping[str, str]) -> list[str]:
        """A fault for each label of no class. ``places``: label -> where it stands."""
        return [
            f"label {label!r} belongs to no class ({place}); add it to datasets.{self.plugin}.classes or ignore, or "
            "set rest: skip (its shapes are not drawn) or rest: ignore"
            for label, place in places.items()
            if self.rest == "fault" and nfc(label) not in self.meaning
        ]


def named_classes(
    plugin: str,
    classes: Classes | None,
    *,
    palette: Palette | None,
    ignore: list[str] | None,
    background: str | None,
    rest: Rest,
    there: Iterable[str],
    declared: bool,
    colours: Mapping[str, Colour] | None = None,
    unlabelled: str | None = None,
) -> ClassCoding:
    """The classes, as the options say them.

    Args:
        classes: class -> labels, or labels that are classes; None: every label that is declared.
        palette: a colour for each class; None: those of ``colours``, else VOC's map.
        ignore: labels that count nowhere.
        background: class of the pixels that no shape has; a new one comes first. None: they are ignored.
        rest: what becomes of shapes with other labels.
        there: labels that the files declare, or else use.
        declared: whether the files declare their labels.
        colours: of labels.
        unlabelled: label that means the same as no shape at all, unless ``classes`` or ``ignore`` name it.

    Raises:
        UserError: the options contradict each other or the labels.
    """
    faults = Faults(f"datasets.{plugin}")
    known, ignore = list(dict.fromkeys(map(nfc, there))), [nfc(label) for label in ignore or ()]
    background = None if background is None else nfc(background)
    if isinstance(classes, dict):
        classes = {nfc(name): [nfc(label) for label in labels] for name, labels in classes.items()}
    elif classes is not None:
        classes = [nfc(label) for label in classes]
    if classes is None and not declared:
        faults.add(f"classes: not set; labels in the files: {known}; list those to use")
    given = [label for label in known if label not in (*ignore, background)] if classes is None else classes
    wanted = dict(given) if isinstance(given, dict) else {label: [label] for label in given}
    if background is not None and background not in wanted:
        wanted = {background: [background], **wanted}
    meaning = _meaning(wanted, ignore, faults, declared=known if declared else [], background=background)
    missed = [(name, label) for name, labels in wanted.items() for label in labels if label not in known]
    warnings = [
        f"datasets.{plugin}.classes.{name}: no shape has the label {label!r}; {closest(label, known)}"
        for name, label in missed
        if known and not declared and name != background
    ]
    if not wanted:
        faults.add("classes: empty; name them in train-id order")
    faults.raise_if_any(advice=f"Correct these values under datasets.{plugin} in params.yaml.")
    voc = dict(zip(wanted, colour_map(len(wanted) + 1)[1:], strict=True))
    shown = {nfc(label): colour for label, colour in (colours or voc).items()}
    try:
        chosen = [rgb(colour) for colour in palette or ()] or [shown.get(name, voc[name]) for name in wanted]
        spec = LabelSpec(names=tuple(wanted), palette=tuple(chosen))
    except UserError as error:
        raise UserError(f"datasets.{plugin}: {error}") from error
    uncovered = IGNORE_INDEX if background is None else list(wanted).index(background)
    if unlabelled is not None:
        meaning.setdefault(nfc(unlabelled), uncovered)
    return ClassCoding(plugin, spec, meaning, uncovered, rest, tuple(warnings))


def _meaning(
    wanted: Mapping[str, list[str]], ignore: list[str], faults: Faults, *, declared: list[str], background: str | None
) -> dict[str, int]:
    """Train id of each label. ``declared``: all labels that there can be; empty: not known."""
    meaning: dict[str, int] = {}
    for train, (name, labels) in enumerate(wanted.items()):
        for label in labels:
            if label in meaning:
                faults.add(f"classes.{name}: {label!r} belongs to another class too; list it once")
            elif declared and label not in declared and name != background:
                faults.add(f"classes.{name}: label {label!r} is not declared; {closest(label, declared)}")
            meaning[label] = train
    for label in ignore:
        if label in meaning:
            faults.add(f"ignore: {label!r} belongs to a class too; list it in one place")
        meaning[label] = IGNORE_INDEX
    return meaning
