"""params.yaml, typed: every value of a run. The file is checked as a whole, and all problems are reported at once.

``plugin_options.py`` checks the sections of plugins (``losses.kd``, ``datasets.camvid``, ``teacher.model``, ...)
against the signatures of their classes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, ValidationError, ValidationInfo, field_validator

from pipeline import plugin_options, plugins, yaml_file
from pipeline.errors import Faults, UserError, closest
from pipeline.param_types import (
    STRICT,
    Loss,
    Name,
    Options,
    OrFalse,
    Positive,
    Range,
    Section,
    Seed,
    Share,
    Size,
)

#: Names that no student may have, because something else has the path that it would write.
TAKEN = {"comparison": "results/comparison.json", "teacher": "artifacts/curves/teacher"}


def _distinct(seeds: list[int]) -> list[int]:
    if len(set(seeds)) < len(seeds):
        raise ValueError("a seed is named twice; name each once")
    return seeds


class Model(BaseModel):
    """A network: plugin name, and the options of that plugin beside it."""

    model_config = {**STRICT, "extra": "allow"}
    name: str

    @property
    def options(self) -> Options:
        return dict(self.model_extra or {})


class LearningRateFactors(Section):
    """Learning rate of a part of the task / ``lr``; 0 freezes it."""

    encoder: Share
    head: Share
    loss: Share  # the adapters of the losses


class Recipe(Section):
    """A training run."""

    steps: Positive | None  # updates; null where epochs are given
    epochs: Annotated[float, Field(gt=0)] | None  # passes over the train split; null where steps are given
    batch_size: Positive  # images of one update, over all processes and accumulated parts
    accumulate: Positive = 1  # parts of a batch that go through the network one after another
    optimizer: Literal["sgd", "adamw"]
    lr: Annotated[float, Field(gt=0)]
    lr_factors: LearningRateFactors
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # of sgd
    weight_decay: Share
    decay_norms: bool = True  # norm layers and biases decay too
    clip_norm: Annotated[float, Field(gt=0)] | None = None  # highest norm of the gradient
    schedule: Literal["poly", "cosine", "constant"] = "poly"
    power: Share  # of the poly schedule
    warmup: Annotated[int, Field(ge=0)]  # steps of linear warm-up
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None  # decay of an average of the weights
    validate_every: Positive
    precision: Literal["fp32", "fp16", "bf16"]
    sync_batch_norm: bool = False  # statistics over all processes, on GPUs
    channels_last: bool = False
    compile: bool = False  # torch.compile
    workers: Annotated[int, Field(ge=0)]
    store: Literal["none", "decoded", "auto"] = "auto"  # frames decoded once, in a file that is mapped into memory
    scale: Range  # lowest and highest random scale, relative to input_size
    crop: Size | None = None  # height, width; null: input_size
    colour_jitter: Annotated[float, Field(ge=0, le=1)] = 0.5  # probability of changed colours
    class_balance: Share = 0.0  # cross-entropy weight of a class ~ frequency ** -class_balance

    @field_validator("epochs")
    @classmethod
    def _one_length(cls, epochs: float | None, others: ValidationInfo) -> float | None:
        if "steps" in others.data and (others.data["steps"] is None) == (epochs is None):
            raise ValueError("the length of training is either steps or epochs, and the other is null")
        return epochs

    def updates(self, images: int) -> int:
        """Steps of the run on so many training images; a part of an epoch's last batch counts as one."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return math.ceil(self.epochs * images / self.batch_size)


class Distill(Recipe):
    """The training run of every student."""

    seed: Seed | None = None  # null: the run's seed


class Teacher(Section):
    model: Model
    train: Annotated[Recipe | Literal[False], OrFalse()]  # false: the network is only evaluated


class QuantizationAware(Section):
    """Fine-tuning with 8 bits simulated; what is not here is as in ``distill``."""

    target: Literal["cpu", "tensorrt"]  # whose roundings
    steps: Positive
    lr: Annotated[float, Field(gt=0)]
    warmup: Annotated[int, Field(ge=0)]
    validate_every: Positive


class Student(Section):
    model: Model
    loss: Loss
    qat: bool = False  # fine-tune with 8 bits simulated


class Compare(Section):
    """What ``make compare`` runs: every loss with every seed, on one student."""

    student: str
    seeds: Annotated[list[Seed], Field(min_length=1), AfterValidator(_distinct)]
    losses: Annotated[dict[Name, Loss], Field(min_length=1)]


class Export(Section):
    label_stride: Literal[1, 2, 4]  # input size / label-map size of the deploy graph
    confidence: bool = False  # a second output: the probability of each label


class Calibrate(Section):
    images: Positive
    allow_missing_classes: bool  # go on when no train frame shows a class


class QuantizeBudget(Section):
    """Points that INT8 may lose against float on train frames; null switches one off."""

    miou_drop: Share | None
    class_drop: Share | None


class Quantize(Section):
    method: Literal["minmax", "percentile", "entropy", "mse"]
    percentile: Annotated[float, Field(gt=50, le=100)]
    float_head: bool  # keep the classifier in float
    float_layers: list[str]
    bias_correction: bool
    trial_images: Annotated[int, Field(ge=0)]  # labelled train frames to find sensitive layers on; 0: none
    budget: QuantizeBudget


class Convert(BaseModel):
    """The chosen runtime plugin, and beside it one section of options for each that may be chosen."""

    model_config = {**STRICT, "extra": "allow"}
    runtime: str


class Check(Section):
    split: str
    warmup: Annotated[int, Field(ge=0)]
    runs: Annotated[int, Field(ge=10)]
    seconds: Annotated[float, Field(ge=0)]  # of timing for each engine, at least
    unstable_cov: Annotated[float, Field(gt=0)]
    unstable_drift: Annotated[float, Field(gt=0)]
    samples: Annotated[int, Field(ge=0)]  # predictions kept for the report


class Budgets(Section):
    """Limits on the INT8 engine; null switches a budget off, except ``min_speedup``."""

    miou_drop: Share | None  # points of mIoU below the float student
    class_drop: Share | None  # points of IoU that any one class may lose
    confidence: Annotated[float, Field(ge=0.5, le=0.99)] | None = 0.95  # of the intervals that decide both
    latency_p99_ms: Share | None
    size_mb: Share | None
    min_speedup: Share | None = None  # over float32 at p50; null: below 1 is a warning


class Params(Section):
    seed: Seed
    checkpoint_seconds: Share  # between two checkpoints of a training, at least
    dataset: str
    input_size: Size
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


def load(path: Path, *, kinds: Collection[str] = plugins.KINDS) -> Params:
    """Read and check a params file.

    Args:
        kinds: plugin kinds whose options are checked too; this imports them, so a stage names only those it uses.

    Raises:
        UserError: unreadable YAML (with line and column); or, all at once, unknown keys and plugins (with the closest
            name), wrong types, values out of range and missing values.
    """
    raw = yaml_file.read(path, sections=Params.model_fields)
    faults = Faults(str(path))
    params: Params | None = None
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        for problem in error.errors():
            faults.add(yaml_file.explain(problem, Params))
    for message in (*_name_faults(raw), *plugin_options.faults(raw, kinds)):
        faults.add(message)
    faults.raise_if_any()
    assert params is not None
    return params


def _name_faults(raw: Mapping[Any, Any]) -> Iterator[str]:
    """Names of students that are not free."""
    students = raw.get("students")
    if not isinstance(students, dict) or not students:
        return
    for name, file in TAKEN.items():
        if name in students:
            yield f"students.{name}: {file} is already the path of something else; choose another name"
