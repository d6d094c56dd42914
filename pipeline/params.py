"""params.yaml, typed: every value of a run, checked as a whole, with all problems reported at once.

A section of a plugin (``losses.kd``, ``datasets.camvid``, ``teacher.model``, ...) is checked against the signature of its class.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from pipeline import plugins
from pipeline.errors import Faults, UserError, closest

Options = dict[str, Any]
Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0)]
#: YAML has lists only: [height, width].
Size = Annotated[tuple[Positive, Positive], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)]
Range = Annotated[tuple[float, float], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)]


class Section(BaseModel):
    """Strict: no unknown keys, no coercion of strings to numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Model(BaseModel):
    """A network: plugin name, and the options of that plugin beside it."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def options(self) -> Options:
        return dict(self.model_extra or {})


class Recipe(Section):
    """A training run."""

    steps: Positive
    batch_size: Annotated[int, Field(ge=2)]
    optimizer: Literal["sgd", "adamw"]
    lr: Annotated[float, Field(gt=0)]
    weight_decay: Share
    power: Share  # of the poly schedule
    warmup: Annotated[int, Field(ge=0)]  # steps of linear warm-up
    validate_every: Positive
    precision: Literal["fp32", "fp16", "bf16"]
    workers: Annotated[int, Field(ge=0)]
    scale: Range  # lowest and highest random scale, relative to input_size
    crop: Size | None = None  # height, width; null: input_size
    class_balance: Share = 0.0  # cross-entropy weight of a class ~ frequency ** -class_balance

    def loop(self) -> dict[str, Any]:
        """The keyword arguments of ``training.run.train``."""
        return self.model_dump(exclude={"class_balance"})


class Teacher(Section):
    model: Model
    train: Recipe


class Student(Section):
    model: Model
    loss: str


class Export(Section):
    label_stride: Literal[1, 2, 4]  # input size / label-map size of the deploy graph


class Quantize(Section):
    images: Positive
    method: Literal["minmax", "percentile", "mse"]
    percentile: Annotated[float, Field(gt=50, le=100)]
    float_head: bool  # keep the classifier in float


class Convert(Section):
    runtime: str
    onnxruntime: Options
    tensorrt: Options
    tensorrt_rtx: Options


class Check(Section):
    split: str
    warmup: Annotated[int, Field(ge=0)]
    runs: Annotated[int, Field(ge=10)]
    unstable_cov: Annotated[float, Field(gt=0)]
    samples: Annotated[int, Field(ge=0)]  # predictions kept for the report


class Budgets(Section):
    """Limits on the INT8 engine; null switches one off."""

    miou_drop: Share | None  # points of mIoU below the float student
    class_drop: Share | None  # points of IoU that any one class may lose
    latency_p99_ms: Share | None
    size_mb: Share | None


class Params(Section):
    seed: int
    dataset: str
    input_size: Size
    datasets: dict[str, Options]
    teacher: Teacher
    distill: Recipe
    losses: dict[str, Options]
    students: Annotated[dict[str, Student], Field(min_length=1)]
    export: Export
    quantize: Quantize
    convert: Convert
    check: Check
    budgets: Budgets

    def plugin_sections(self) -> Iterator[tuple[str, str, str, Options]]:
        """(where in the file, plugin kind, plugin name, options) of everything this run uses."""
        yield f"datasets.{self.dataset}", "datasets", self.dataset, self.datasets.get(self.dataset, {})
        yield "teacher.model", "models", self.teacher.model.name, self.teacher.model.options
        for name, student in self.students.items():
            yield f"students.{name}.model", "models", student.model.name, student.model.options
        for loss in dict.fromkeys(student.loss for student in self.students.values()):
            yield f"losses.{loss}", "losses", loss, self.losses.get(loss, {})
        runtime = self.convert.runtime
        yield f"convert.{runtime}", "runtimes", runtime, self.runtime_options

    @property
    def runtime_options(self) -> Options:
        options: Options = getattr(self.convert, self.convert.runtime, {})
        return options

    def student(self, name: str) -> Student:
        if name not in self.students:
            raise UserError(f"params.yaml: students has no '{name}'; {closest(name, self.students)}")
        return self.students[name]


def load(path: Path, *, kinds: Collection[str] = plugins.KINDS) -> Params:
    """Read and check a params file.

    Args:
        kinds: plugin kinds whose sections are checked too; that imports them, so a stage names those it uses.

    Raises:
        UserError: unreadable YAML (with line and column), or every unknown key, wrong type, missing value, unknown plugin and
            wrong plugin option at once, misspelt ones with the closest name.
    """
    try:
        raw = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run from the project's root") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise UserError(f"{path}{where}: not valid YAML: {error.problem}") from error
    faults = Faults(str(path))
    params: Params | None = None
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        for problem in error.errors():
            faults.add(_explain(problem))
    for where, kind, name, options in _plugins_of(params, raw):
        if kind not in kinds:
            continue
        for message in _option_faults(where, kind, name, options):
            faults.add(message)
    if params is not None:
        _check_sizes(params, faults)
    faults.raise_if_any()
    assert params is not None
    return params


def _plugins_of(params: Params | None, raw: Any) -> list[tuple[str, str, str, Options]]:
    """The plugin sections, also of a file with other faults: as far as they can be read."""
    if params is not None:
        return list(params.plugin_sections())
    known = {key: value for key, value in raw.items() if key in Params.model_fields} if isinstance(raw, dict) else {}
    try:
        lenient = Params.model_construct(
            **{
                **known,
                "teacher": Teacher.model_construct(model=Model.model_validate(known["teacher"]["model"])),
                "students": {
                    name: Student.model_construct(model=Model.model_validate(entry["model"]), loss=str(entry["loss"]))
                    for name, entry in known["students"].items()
                },
                "convert": Convert.model_construct(**known["convert"]),
            }
        )
        return list(lenient.plugin_sections())
    except (KeyError, TypeError, AttributeError, ValidationError):
        return []


def _explain(problem: Mapping[str, Any]) -> str:
    """One pydantic error as: where: what, got, allowed."""
    location = [str(part) for part in problem["loc"]]
    where = ".".join(location)
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown key; {closest(location[-1], _keys_at(location[:-1]))}"
    if problem["type"] == "missing":
        return f"{where}: missing; it has no default"
    return f"{where}: got {problem['input']!r}; {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _keys_at(location: list[str]) -> list[str]:
    model: Any = Params
    for part in location:
        if not (inspect.isclass(model) and issubclass(model, BaseModel)):
            break
        field = model.model_fields.get(part)
        if field is None:
            return []
        model = Student if part == "students" else field.annotation
    return sorted(model.model_fields) if inspect.isclass(model) and issubclass(model, BaseModel) else []


#: Facts that stages offer to plugins: not options.
OFFERED = frozenset(
    ["num_classes", "ignore_index"]
    + [f"{role}_{fact}" for role in ("student", "teacher") for fact in ("channels", "stage_channels", "output_stride")]
)


def _option_faults(where: str, kind: str, name: str, options: Options) -> Iterator[str]:
    """Faults of one plugin section against the signature of its class."""
    try:
        plugin = plugins.load(kind, name)
    except UserError as error:
        yield f"{where}: {error}"
        return
    allowed = {key: p for key, p in plugins.signature(plugin).items() if key not in OFFERED}
    hints = get_type_hints(plugin.__init__)  # type: ignore[misc]
    for key, value in options.items():
        if key not in allowed:
            yield f"{where}.{key}: unknown key; {closest(key, allowed)}"
            continue
        try:
            TypeAdapter(hints[key]).validate_python(value)
        except ValidationError as error:
            yield f"{where}.{key}: got {value!r}; {error.errors()[0]['msg'].lower()}"
    for key, parameter in allowed.items():
        if key not in options and parameter.default is inspect.Parameter.empty:
            yield f"{where}.{key}: missing; it has no default"


def _check_sizes(params: Params, faults: Faults) -> None:
    stride = params.export.label_stride
    if any(side % 32 for side in params.input_size):
        padded = [-(-side // 32) * 32 for side in params.input_size]
        faults.add(f"input_size: got {list(params.input_size)}; height and width must be multiples of 32; use {padded}")
    elif any(side % stride for side in params.input_size):
        faults.add(f"export.label_stride: {stride} does not divide input_size {list(params.input_size)}")
    for where, recipe in (("teacher.train", params.teacher.train), ("distill", params.distill)):
        low, high = recipe.scale
        if not 0 < low <= high:
            faults.add(f"{where}.scale: got {list(recipe.scale)}; it must be [low, high] with 0 < low <= high")
        if recipe.crop is not None and any(side % 32 for side in recipe.crop):
            faults.add(f"{where}.crop: got {list(recipe.crop)}; height and width must be multiples of 32")
