"""The description of an imported network: a small YAML file with what the ONNX file does not say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from pipeline.errors import Problems, UserError, closest
from pipeline.labels import IGNORE_INDEX, LabelSpec, rgb
from pipeline.settings import yaml_file
from pipeline.settings.param_types import Positive, Section

#: Value of `rest` that is not the name of a class.
IGNORED = "ignore"
#: Largest value in a label map.
LARGEST_ID = 65535


def _triple(value: Any) -> Any:
    """A list as a tuple; one number is repeated for the three channels."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (value, value, value)
    return tuple(value) if isinstance(value, list) else value


def _colour(value: Any) -> Any:
    """A colour in any form that :func:`pipeline.labels.rgb` reads; pydantic checks other types."""
    if not isinstance(value, str) and not (isinstance(value, list) and all(type(each) is int for each in value)):
        return value
    try:
        return rgb(value)
    except UserError as error:
        raise ValueError(str(error).partition("; ")[2]) from error  # pydantic's message already names the value


def _unit(values: tuple[float, float, float]) -> tuple[float, float, float]:
    if not all(0 <= value <= 1 for value in values):
        raise ValueError("pixels are 0 to 1 here; divide values in 0..255 by 255, also those of std")
    return values


def _positive(values: tuple[float, float, float]) -> tuple[float, float, float]:
    if not all(value > 0 for value in values):
        raise ValueError(
            "pixels are divided by it; every value must be above 0 (1/255 = 0.00392157 for a network that reads 0..255)"
        )
    return values


def _several(values: list[str]) -> list[str]:
    if len(values) <= 1:
        raise ValueError(
            "two or more; if the network separates one class from all others, name the others first: background"
        )
    return values


Triple = Annotated[tuple[float, float, float], BeforeValidator(_triple)]
Colour = Annotated[tuple[int, int, int], BeforeValidator(_colour)]
Layout = Literal["NCHW", "NHWC"]


class File(Section):
    """The keys of the YAML file.

    Attributes:
        model: path of the ONNX file, relative to the YAML file.
        head: name of the output to use; required if the network has several.
        output: ``logits`` (or probabilities) with one channel per class, or one channel for two classes; or ``labels``,
            a map of class ids.
        threshold: only for one channel: pixels with a larger value get the second class. null: 0.5 for probabilities, 0
            for other scores.
        ids: values of a label map that mean a class, as in ``{road: [255]}``; the value of a class that is not listed
            is its position in ``classes``.
        layout: of the image.
        output_layout: of logits; null: the layout in which the number of channels fits the number of classes.
        channel_order: of the image that the network reads.
        mean, std: the network reads (pixel / 255 - mean) / std; three values in the order of its channels, or one
            value. Without both keys, a network with an integer image reads the pixels themselves.
        input_size: height, width; for a file without a fixed size.
        confidence: add a second output to the deploy graphs: the probability of each label.
        classes, palette: names in the order of their ids, and one colour each: ``[128, 0, 255]`` or ``"#8000ff"``.
        ignore_index: id of pixels that no metric counts.
        original_ids, original_ignored: ids of the classes, and of ignored pixels, in the masks of the data set on which
            the network was trained; for label maps that a test server reads.
        merge: for each class of the network: the classes of a data set that it contains. null: the classes of the same
            name.
        rest: target of all other classes of the data set: ``ignore``, or a class of the network.
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
    """A checked description; see :class:`File` for the fields."""

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
        """From each value of a label map that means a class to the index of that class."""
        names = self.labels.names
        return {value: index for index, name in enumerate(names) for value in (self.ids or {}).get(name, [index])}


def load(path: Path) -> Description:
    """Read and check a description.

    Raises:
        UserError: the file is not YAML; or unknown keys, wrong types, missing values and contradictions, all at once.
    """
    fields = File.model_fields
    advice = "name the description of your network; docs/own-network.md shows one"
    raw = yaml_file.read(path, sections=fields, absent=advice)
    problems = Problems(str(path))
    content: File | None = None
    labels: LabelSpec | None = None
    try:
        content = File.model_validate(raw)
    except ValidationError as error:
        for problem in error.errors():
            problems.add(yaml_file.explain(problem, File))
    if content is not None:
        try:
            labels = LabelSpec(
                names=tuple(content.classes),
                palette=tuple(content.palette),
                ignore_index=content.ignore_index,
                original_ids=None if content.original_ids is None else tuple(content.original_ids),
                original_ignored=content.original_ignored,
            )
        except UserError as error:
            problems.add(str(error))
        for message in (*_output_problems(content), *_merge_problems(content)):
            problems.add(message)
    problems.raise_if_any()
    assert content is not None
    assert labels is not None
    excluded = {"model", "classes", "palette", "ignore_index", "original_ids", "original_ignored"}
    values = content.model_dump(exclude=excluded)
    return Description(
        file=path,
        model=path.parent / content.model,
        labels=labels,
        **values,
    )


def _output_problems(content: File) -> list[str]:
    problems = []
    if content.threshold is not None and content.output == "labels":
        problems.append(
            "threshold: only for `output: logits` with one channel; leave it out, or write `output: logits`"
        )
    if content.confidence and content.output == "labels":
        problems.append(
            "confidence: a map of class ids has no probabilities; export the network with logits as its output and "
            "write `output: logits`, or leave `confidence` out"
        )
    if content.ids is None:
        return problems
    if content.output == "logits":
        problems.append(
            "ids: only for `output: labels`; leave them out, and list `classes` in the order of the channels"
        )
    problems += [
        f"ids.{name}: not in `classes`; {closest(name, content.classes)}"
        for name in content.ids
        if name not in content.classes
    ]
    owners: dict[int, str] = {}
    for index, name in enumerate(content.classes):
        for value in content.ids.get(name, [index]):
            if value in owners:
                advice = f"list the ids of {owners[value] if name in content.ids else name} too"
                problems.append(f"ids: {value} means {owners[value]} and {name}; {advice}")
            owners[value] = name
    return problems


def _merge_problems(content: File) -> list[str]:
    problems = []
    merge = content.merge or {}
    targets: dict[str, str] = {}  # class of the data set -> class of the network
    for name, sources in merge.items():
        if name not in content.classes:
            problems.append(f"merge.{name}: no class of the network; {closest(name, content.classes)}")
        for source in sources:
            if source in targets:
                problems.append(
                    f"merge.{name}: '{source}' is already listed for {targets[source]}; list it for one class only"
                )
            targets[source] = name
    if content.rest not in (IGNORED, *content.classes):
        problems.append(f"rest: got '{content.rest}'; {closest(content.rest, [IGNORED, *content.classes])}")
    return problems
