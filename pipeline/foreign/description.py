"""The description of a foreign network: a small YAML file that says what its ONNX file does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from pipeline import yaml_file
from pipeline.errors import Faults, UserError, closest
from pipeline.labels import IGNORE_INDEX, LabelSpec, rgb
from pipeline.param_types import Positive, Section

#: Values of `rest` beside the names of classes.
IGNORED = "ignore"
#: Of a value in a label map.
LARGEST_ID = 65535


def _triple(value: Any) -> Any:
    """A list as the tuple that it stands for; one number for all three channels."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (value, value, value)
    return tuple(value) if isinstance(value, list) else value


def _colour(value: Any) -> Any:
    """A colour in any form that :func:`pipeline.labels.rgb` reads; other types are left to pydantic."""
    if not isinstance(value, str) and not (isinstance(value, list) and all(type(each) is int for each in value)):
        return value
    try:
        return rgb(value)
    except UserError as error:
        raise ValueError(str(error).partition("; ")[2]) from error  # what was given is said already


def _unit(values: tuple[float, float, float]) -> tuple[float, float, float]:
    if not all(0 <= value <= 1 for value in values):
        raise ValueError("pixels count from 0 to 1 here; divide values in 0..255 by 255, those of std too")
    return values


def _positive(values: tuple[float, float, float]) -> tuple[float, float, float]:
    if not all(value > 0 for value in values):
        raise ValueError("it divides; every value must be above 0 (1/255 = 0.00392157 for a network that takes 0..255)")
    return values


def _several(values: list[str]) -> list[str]:
    if len(values) <= 1:
        raise ValueError("two or more; where the network tells one thing from all others, name these first: background")
    return values


Triple = Annotated[tuple[float, float, float], BeforeValidator(_triple)]
Colour = Annotated[tuple[int, int, int], BeforeValidator(_colour)]
Layout = Literal["NCHW", "NHWC"]


class File(Section):
    """The YAML file.

    Attributes:
        model: the ONNX file, relative to the YAML file.
        head: name of the output to use; needed when there are several.
        output: ``logits`` (or probabilities), one channel a class or one channel for two classes, or ``labels``, a map
            of class ids.
        threshold: of one channel for two classes: the second class is where the value is above it; null: 0.5 for
            probabilities, 0 for other scores.
        ids: which values of a label map stand for a class, as in ``{road: [255]}``; other classes have their place in
            ``classes``.
        layout: of the image.
        output_layout: of logits; null: what goes with the number of classes.
        channel_order: of the image that the network takes.
        mean, std: the network sees (pixel / 255 - mean) / std; three values in the order of its channels, or one. A
            network that takes integers sees pixels as they are when both are left out.
        input_size: height, width; for a file that leaves them open.
        confidence: add a second output to the deploy graphs, the probability of each label.
        classes, palette: names in the order of their ids, and a colour for each: ``[128, 0, 255]`` or ``"#8000ff"``.
        ignore_index: id that counts nowhere.
        original_ids, original_ignored: ids of the classes, and of ignored pixels, in the masks of the data set that the
            network was trained on; for label maps that a test server takes.
        merge: which classes of a data set stand for each class of the network; null: they have the same names.
        rest: what the other classes of the data set are: ``ignore``, or a class of the network.
    """

    model: str
    head: str | None = None
    output: Literal["logits", "labels"]
    threshold: Annotated[float, Field(allow_inf_nan=False)] | None = None
    ids: dict[str, list[Annotated[int, Field(ge=0, le=LARGEST_ID)]]] | None = None
    layout: Layout = "NCHW"
    output_layout: Layout | None = None
    channel_order: Literal["RGB", "BGR"]
    mean: Annotated[Triple, AfterValidator(_unit)] = (0.0, 0.0, 0.0)
    std: Annotated[Triple, AfterValidator(_positive)] = (1.0, 1.0, 1.0)
    input_size: Annotated[tuple[Positive, Positive], BeforeValidator(_triple)] | None = None
    confidence: bool = False
    classes: Annotated[list[str], Field(max_length=255), AfterValidator(_several)]
    palette: list[Colour]
    ignore_index: int = IGNORE_INDEX
    original_ids: list[int] | None = None
    original_ignored: int | None = None
    merge: dict[str, list[str]] | None = None
    rest: str = IGNORED


@dataclass(frozen=True)
class Description:
    """What is known of a foreign network before its file is opened; see :class:`File` for the fields."""

    file: Path
    model: Path
    labels: LabelSpec
    head: str | None
    output: str
    threshold: float | None
    ids: Mapping[str, list[int]] | None
    layout: str
    output_layout: str | None
    channel_order: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    input_size: tuple[int, int] | None
    confidence: bool
    merge: Mapping[str, list[str]] | None
    rest: str

    @property
    def classes_of(self) -> dict[int, int]:
        """Class of each value of a label map that stands for one."""
        names = self.labels.names
        return {value: index for index, name in enumerate(names) for value in (self.ids or {}).get(name, [index])}


def load(path: Path) -> Description:
    """Read and check a description.

    Raises:
        UserError: not YAML, or every unknown key, wrong type, missing value, and contradiction at once.
    """
    fields = File.model_fields
    advice = "name the description of your network; docs/own-network.md shows one"
    raw = yaml_file.read(path, sections=fields, absent=advice)
    faults = Faults(str(path))
    found: File | None = None
    labels: LabelSpec | None = None
    try:
        found = File.model_validate(raw)
    except ValidationError as error:
        for problem in error.errors():
            faults.add(yaml_file.explain(problem, File))
    if found is not None:
        try:
            labels = LabelSpec(
                names=tuple(found.classes),
                palette=tuple(found.palette),
                ignore_index=found.ignore_index,
                original_ids=None if found.original_ids is None else tuple(found.original_ids),
                original_ignored=found.original_ignored,
            )
        except UserError as error:
            faults.add(str(error))
        for message in (*_output_faults(found), *_merge_faults(found)):
            faults.add(message)
    faults.raise_if_any()
    assert found is not None
    assert labels is not None
    elsewhere = {"model", "classes", "palette", "ignore_index", "original_ids", "original_ignored"}
    values = found.model_dump(exclude=elsewhere)
    return Description(
        file=path,
        model=path.parent / found.model,
        labels=labels,
        **values,
    )


def _output_faults(found: File) -> list[str]:
    faults = []
    if found.threshold is not None and found.output == "labels":
        faults.append("threshold: it is for `output: logits` of one channel; leave it out, or say `output: logits`")
    if found.confidence and found.output == "labels":
        faults.append(
            "confidence: a map of class ids holds no probabilities; export the network with logits as its output and "
            "write `output: logits`, or leave `confidence` out"
        )
    if found.ids is None:
        return faults
    if found.output == "logits":
        faults.append("ids: they are for `output: labels`; the order of `classes` is that of the channels")
    faults += [
        f"ids.{name}: no class; {closest(name, found.classes)}" for name in found.ids if name not in found.classes
    ]
    owners: dict[int, str] = {}
    for index, name in enumerate(found.classes):
        for value in found.ids.get(name, [index]):
            if value in owners:
                advice = f"name the ids of {owners[value] if name in found.ids else name} too"
                faults.append(f"ids: {value} stands for {owners[value]} and for {name}; {advice}")
            owners[value] = name
    return faults


def _merge_faults(found: File) -> list[str]:
    faults = []
    merge = found.merge or {}
    taken: dict[str, str] = {}
    for name, sources in merge.items():
        if name not in found.classes:
            faults.append(f"merge.{name}: no class of the network; {closest(name, found.classes)}")
        for source in sources:
            if source in taken:
                faults.append(
                    f"merge.{name}: '{source}' stands under {taken[source]} already; it can be one class only"
                )
            taken[source] = name
    if found.rest not in (IGNORED, *found.classes):
        faults.append(f"rest: got '{found.rest}'; {closest(found.rest, [IGNORED, *found.classes])}")
    return faults
