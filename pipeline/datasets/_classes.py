"""From labels of annotation tools to classes, by the options that the plugins of these tools share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.datasets._palettes import Colour
from pipeline.datasets._patterns import nfc
from pipeline.datasets._voc import colour_map
from pipeline.errors import Problems, UserError, closest
from pipeline.labels import IGNORE_INDEX, LabelSpec, rgb

Classes = dict[str, list[str]] | list[str]
Palette = list[str | tuple[int, int, int]]
Rest = Literal["error", "ignore", "skip"]


@dataclass(frozen=True)
class ClassCoding:
    """The class of each label.

    Args:
        plugin: name of the plugin, for messages about its options.
        labels: the classes.
        meaning: label in composed Unicode -> train id, or the ignored id.
        unlabelled: train id of the pixels outside all shapes.
        rest: how shapes with other labels are treated.
        warnings: one for each label that the options name and no shape has.
    """

    plugin: str
    labels: LabelSpec
    meaning: Mapping[str, int]
    unlabelled: int
    rest: Rest
    warnings: tuple[str, ...] = ()

    def painted(self, label: str) -> bool:
        """Whether shapes with this label are painted."""
        return nfc(label) in self.meaning or self.rest == "ignore"

    def train_id(self, label: str | None) -> int:
        """Train id of a label, or the ignored id; None means no label."""
        if label is None or not self.painted(label):
            return self.unlabelled
        return self.meaning.get(nfc(label), IGNORE_INDEX)

    def class_name(self, train: int) -> str:
        """Name of the class of a train id, or ``ignored``."""
        return "ignored" if train == IGNORE_INDEX else self.labels.names[train]

    def unknown(self, places: Mapping[str, str]) -> list[str]:
        """An error for each label without a class. ``places``: label -> where the files use it."""
        return [
            f"label {label!r} belongs to no class ({place}); add it to datasets.{self.plugin}.classes or ignore, or "
            "set rest: skip (its shapes are not drawn) or rest: ignore"
            for label, place in places.items()
            if self.rest == "error" and nfc(label) not in self.meaning
        ]


def named_classes(
    plugin: str,
    classes: Classes | None,
    *,
    palette: Palette | None,
    ignore: list[str] | None,
    background: str | None,
    rest: Rest,
    file_labels: Iterable[str],
    declared: bool,
    colours: Mapping[str, Colour] | None = None,
    unlabelled: str | None = None,
) -> ClassCoding:
    """The classes that the options describe.

    Args:
        classes: class -> labels, or a list of labels, each a class; None: every declared label is a class.
        palette: a colour for each class; None: the colours of ``colours``, or else of VOC's colour map.
        ignore: labels whose pixels are ignored.
        background: class of the pixels outside all shapes; a new class gets train id 0. None: they are ignored.
        rest: how shapes with other labels are treated.
        file_labels: the labels that the files declare; if they declare none, the labels that they use.
        declared: whether the files declare their labels.
        colours: label -> colour.
        unlabelled: label that means the same as no shape, unless ``classes`` or ``ignore`` name it.

    Raises:
        UserError: the options contradict each other or the labels of the files.
    """
    problems = Problems(f"datasets.{plugin}")
    known, ignore = list(dict.fromkeys(map(nfc, file_labels))), [nfc(label) for label in ignore or ()]
    background = None if background is None else nfc(background)
    if isinstance(classes, dict):
        classes = {nfc(name): [nfc(label) for label in labels] for name, labels in classes.items()}
    elif classes is not None:
        classes = [nfc(label) for label in classes]
    if classes is None and not declared:
        problems.add(f"classes: not set; labels in the files: {known}; list the labels to use")
    listed = [label for label in known if label not in (*ignore, background)] if classes is None else classes
    labels_of = dict(listed) if isinstance(listed, dict) else {label: [label] for label in listed}
    if background is not None and background not in labels_of:
        labels_of = {background: [background], **labels_of}
    meaning = _meaning(labels_of, ignore, problems, declared=known if declared else [], background=background)
    unused = [(name, label) for name, labels in labels_of.items() for label in labels if label not in known]
    warnings = [
        f"datasets.{plugin}.classes.{name}: no shape has the label {label!r}; {closest(label, known)}"
        for name, label in unused
        if known and not declared and name != background
    ]
    if not labels_of:
        problems.add("classes: empty; name the classes in train-id order")
    problems.raise_if_any(advice=f"Correct these values under datasets.{plugin} in params.yaml.")
    voc = dict(zip(labels_of, colour_map(len(labels_of) + 1)[1:], strict=True))
    label_colours = {nfc(label): colour for label, colour in (colours or voc).items()}
    try:
        class_colours = [rgb(colour) for colour in palette or ()] or [
            label_colours.get(name, voc[name]) for name in labels_of
        ]
        spec = LabelSpec(names=tuple(labels_of), palette=tuple(class_colours))
    except UserError as error:
        raise UserError(f"datasets.{plugin}: {error}") from error
    no_shape = IGNORE_INDEX if background is None else list(labels_of).index(background)
    if unlabelled is not None:
        meaning.setdefault(nfc(unlabelled), no_shape)
    return ClassCoding(plugin, spec, meaning, no_shape, rest, tuple(warnings))


def _meaning(
    labels_of: Mapping[str, list[str]],
    ignore: list[str],
    problems: Problems,
    *,
    declared: list[str],
    background: str | None,
) -> dict[str, int]:
    """Train id of each label. ``declared``: all labels that the files declare; empty: they declare none."""
    meaning: dict[str, int] = {}
    for train, (name, labels) in enumerate(labels_of.items()):
        for label in labels:
            if label in meaning:
                problems.add(f"classes.{name}: {label!r} also belongs to another class; list it once")
            elif declared and label not in declared and name != background:
                problems.add(f"classes.{name}: label {label!r} is not declared; {closest(label, declared)}")
            meaning[label] = train
    for label in ignore:
        if label in meaning:
            problems.add(f"ignore: {label!r} also belongs to a class; list it in one of the two places")
        meaning[label] = IGNORE_INDEX
    return meaning
