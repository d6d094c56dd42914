"""params.yaml, typed: every value of a run. The file is checked as a whole, and all problems are reported at once.

``plugin_options.py`` checks the sections of plugins (``losses.kd``, ``datasets.camvid``, ``teacher.model``, ...)
against the signatures of their classes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from pipeline import plugins
from pipeline.errors import Problems, UserError, closest
from pipeline.settings import plugin_options, yaml_file
from pipeline.settings.param_types import (
    STRICT,
    Loss,
    Name,
    Options,
    Positive,
    Section,
    Seed,
    Seeds,
    Share,
    Size,
)
from pipeline.settings.training_params import Distill, Model, QuantizationAware, Teacher

#: Reserved names of students -> the path that is in use already.
TAKEN = {"comparison": "results/comparison.json", "teacher": "artifacts/curves/teacher"}


class Student(Section):
    """A network and the loss by which it learns from the teacher."""

    model: Model  # the network, see model
    loss: Loss  # what the student learns from the teacher; none: nothing
    qat: bool = False  # fine-tune with 8 bits simulated, before export
    #: weights of its training that are exported: the best ones on val, or those after the last step
    export: Literal["best", "last"] = "best"


class Compare(Section):
    """What ``make compare`` runs: every loss with every seed, on one student."""

    student: str  # a name of students, whose network is trained
    seeds: Seeds  # each loss runs once per seed
    split: str = "val"  # split on which the networks are measured
    #: weights that gain per minute and INT8 are computed from; mIoU and gains are reported for both
    weights: Literal["best", "last"] = "best"
    #: all losses train for the same steps or minutes; minutes: each loss is timed first, its steps follow from that
    budget: Literal["steps", "minutes"] = "steps"
    #: of training per run without validations, if budget is minutes; null: the time of none for the steps of distill
    minutes: Annotated[float, Field(gt=0)] | None = None
    int8: bool | None = None  # quantise and check every run as well; null: unless the data are rendered (streets)
    losses: Annotated[dict[Name, Loss], Field(min_length=1)]  # name of the row -> its loss


class Export(Section):
    """ONNX files."""

    label_stride: Literal[1, 2, 4]  # input size / size of the label map
    confidence: bool = False  # a second output: the probability of each label


class Calibrate(Section):
    """Frames on which activations are counted."""

    images: Positive  # train frames to calibrate on; they show every class
    allow_missing_classes: bool  # true: continue if no train frame shows a class


class QuantizeBudget(Section):
    """Points that INT8 may lose against float on train frames; null switches one off."""

    miou_drop: Share | None  # points of mIoU
    class_drop: Share | None  # points of IoU of any one class


class Quantize(Section):
    """INT8 files, see quantisation.md."""

    method: Literal["minmax", "percentile", "entropy", "mse"]  # how ranges are chosen
    percentile: Annotated[float, Field(gt=50, le=100)]  # used by the method percentile
    float_head: bool  # keep the classifier in float
    float_layers: list[str]  # more layers to keep in float: names or patterns, such as decoder.*
    bias_correction: bool  # biases compensate the mean error of rounded weights
    trial_images: Annotated[int, Field(ge=0)]  # other train frames, to find sensitive layers; 0: no search
    budget: QuantizeBudget


class Convert(BaseModel):
    """The chosen runtime, and a section of options for each runtime that may be chosen."""

    model_config = {**STRICT, "extra": "allow"}
    runtime: str  # a file of pipeline/runtimes


class Check(Section):
    """How the engines are measured."""

    split: str  # split to measure on
    warmup: Annotated[int, Field(ge=0)]  # runs before the timing
    runs: Annotated[int, Field(ge=10)]  # fewest timed runs per engine
    seconds: Annotated[float, Field(ge=0)]  # shortest timing per engine, in seconds
    unstable_cov: Annotated[float, Field(gt=0)]  # standard deviation / mean above which a latency is unstable
    #: a latency is unstable if the last third of its runs is slower than the first third by more than this share
    unstable_drift: Annotated[float, Field(gt=0)]
    samples: Annotated[int, Field(ge=0)]  # frames kept for the report, with their predictions


class Budgets(Section):
    """Limits on the INT8 engine; null switches a budget off, except ``min_speedup``."""

    miou_drop: Share | None  # points of mIoU below the float student
    class_drop: Share | None  # points of IoU of any one class below the float student
    confidence: Annotated[float, Field(ge=0.5, le=0.99)] | None = 0.95  # level of both intervals; null: none
    latency_p99_ms: Share | None  # milliseconds per frame
    size_mb: Share | None  # size of the engine, MB
    min_speedup: Share | None = None  # times as fast as float32, at p50; null: below 1 is a warning


class Params(Section):
    seed: Seed  # seed of all random numbers of the run
    checkpoint_seconds: Share  # shortest time between two checkpoints of a training, in seconds
    dataset: str  # a file of pipeline/datasets
    input_size: Size  # size of the input of all networks, here and on the device
    datasets: dict[str, Options]
    teacher: Teacher
    distill: Distill
    losses: dict[str, Options]
    students: Annotated[dict[Name, Student], Field(min_length=1)]
    compare: Compare
    export: Export
    calibrate: Calibrate
    qat: QuantizationAware
    quantize: Quantize
    convert: Convert
    check: Check
    budgets: Budgets

    @property
    def runtime_options(self) -> Options:
        options: Options = (self.convert.model_extra or {}).get(self.convert.runtime, {})
        return options

    @property
    def distill_seed(self) -> int:
        return self.seed if self.distill.seed is None else self.distill.seed

    def student(self, name: str) -> Student:
        if name not in self.students:
            raise UserError(f"params.yaml: students has no '{name}'; {closest(name, self.students)}")
        return self.students[name]


def defaults(section: BaseModel) -> Options:
    """Keys that params.yaml leaves out of a section and of those inside it, with the values that this version gives."""
    values = section.model_dump(mode="json")
    left_out = {key: value for key, value in values.items() if key not in section.model_fields_set}
    inside = {key: defaults(value) for key, value in section if key in values and isinstance(value, BaseModel)}
    return left_out | {key: value for key, value in inside.items() if key not in left_out and value}


def load(path: Path, *, kinds: Collection[str] = plugins.KINDS) -> Params:
    """Read and check a params file.

    Args:
        kinds: plugin kinds whose options are checked too; this imports them, so a stage names only those it uses.

    Raises:
        UserError: unreadable YAML (with line and column); or, all at once, unknown keys and plugins (with the closest
            name), wrong types, values out of range and missing values.
    """
    raw = yaml_file.read(path, sections=Params.model_fields)
    problems = Problems(str(path))
    params: Params | None = None
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        for problem in error.errors():
            problems.add(yaml_file.explain(problem, Params))
    for message in (*_name_problems(raw), *plugin_options.problems(raw, kinds)):
        problems.add(message)
    problems.raise_if_any()
    assert params is not None
    return params


def _name_problems(raw: Mapping[Any, Any]) -> Iterator[str]:
    """Students with reserved names."""
    students = raw.get("students")
    if not isinstance(students, dict) or not students:
        return
    taken = TAKEN | {name: f"results/{name}.json" for name in students if str(name).startswith("comparison-")}
    for name, file in taken.items():
        if name in students:
            yield f"students.{name}: {file} is already the path of something else; choose another name"
