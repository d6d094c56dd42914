"""The content of a results file about one student, as frozen models; None or empty means not measured.

mIoU and IoU are percent (0..100), latencies milliseconds, sizes bytes; a drop is positive when something was lost.
Other keys of results files are ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from pipeline.evaluation.assembly import TEACHER
from pipeline.reporting.json_file import Count, Flag, JsonObject, NotNegative, Number, Percent, require_lengths

SIZES = ("small", "medium", "large")
VARIANTS = ("torch", "fp32", "fp16", "int8")
Verdict = Literal["pass", "fail", "not measured"]
Interval = tuple[Number, Number]


def _in_order(variants: Any) -> Any:
    """Variants with content: the known ones in the order of the pipeline, then the others by name."""
    if not isinstance(variants, dict):
        return variants
    ordered = {name: variants.get(name) for name in VARIANTS} | dict(sorted(variants.items()))
    return {name: variant for name, variant in ordered.items() if variant}


def _as_text(device: Any) -> Any:
    if not isinstance(device, dict):
        return device
    return {key: str(value) for key, value in device.items() if value is not None}


def _by_size(values: Any) -> Any:
    return (None,) * len(SIZES) if values is None else values


class Latency(JsonObject):
    """Percentiles in ms over ``n`` samples; ``cov`` is standard deviation / mean."""

    p50: NotNegative | None = None
    p90: NotNegative | None = None
    p99: NotNegative | None = None
    n: Count | None = None
    cov: NotNegative | None = None


class Variant(JsonObject):
    """One measured file; ``per_class_iou`` is empty when not measured, None where the ground truth lacks a class."""

    miou: Percent | None = None
    per_class_iou: tuple[Percent | None, ...] = ()
    size_bytes: Count | None = None
    latency: Latency = Field(default=Latency(), validation_alias="latency_ms")
    sha256: str = ""
    runtime: str = ""


class Teacher(JsonObject):
    miou: Percent | None = None
    per_class_iou: tuple[Percent | None, ...] = ()
    parameters: Count | None = None
    model: str = ""
    sha256: str = ""


class Reached(JsonObject):
    """What some weights of a training reach: the number of steps before them, and mIoU of the float network."""

    step: Count | None = None
    miou: Percent | None = None


class Weights(JsonObject):
    """The best weights of a training on val and the last ones; ``exported`` is ``best`` or ``last``."""

    exported: str = ""
    best: Reached = Reached()
    last: Reached = Reached()


class Note(JsonObject):
    """A warning, or a class with too few frames for a verdict; no budget is broken.

    ``what`` is the sentence to show; ``class_name`` is empty where it is about the whole network.
    """

    what: str
    budget: str = ""
    class_name: str = Field(default="", validation_alias="class")


class Violation(Note):
    """A broken budget: the limit, and the value that was measured, in the unit of the budget."""

    limit: Number | None = None
    got: Number | None = None


class Source(JsonObject):
    """A data set or weights from which a network was made, and their licence; ``name`` is empty if it was not stated.

    ``commercial`` is None if it is not known whether commercial use is allowed.
    """

    role: str = ""
    of: str = ""
    name: str = ""
    url: str = ""
    commercial: Flag | None = None
    note: str = ""


class Budget(JsonObject):
    """A budget and its limit; None: switched off."""

    budget: str
    limit: Number | None = None


class Reason(JsonObject):
    """Why a variant is not the fastest that keeps every budget."""

    variant: str = ""
    what: str = ""


class Fastest(JsonObject):
    """The fastest variant that keeps every budget.

    ``what`` is the sentence to show, empty in files of versions that did not choose; ``variant`` and ``runtime`` are
    empty where every variant breaks a budget.
    """

    variant: str = ""
    runtime: str = ""
    what: str = ""
    undecided: tuple[str, ...] = ()  # its budgets that the frames do not decide
    others: tuple[Reason, ...] = ()


class Drop(JsonObject):
    """Points of mIoU or IoU that INT8 loses.

    ``confidence`` is that of the intervals, 0..1; lists are in the order of the classes, and empty in files of versions
    that did not measure them.
    """

    versus_float: Number | None = Field(default=None, validation_alias="miou_int8_vs_float")
    versus_teacher: Number | None = Field(default=None, validation_alias="miou_int8_vs_teacher")
    worst_class: str = ""
    worst_class_drop: Number | None = None
    confidence: Annotated[Number, Field(ge=0, le=1)] | None = None
    classes: tuple[Number | None, ...] = ()
    miou_interval: Interval | None = None  # of versus_float
    class_intervals: tuple[Interval | None, ...] = ()
    class_frames: tuple[Count | None, ...] = ()


#: Values for small, medium and large objects of one class; null means three nulls.
Counts = Annotated[tuple[Count | None, Count | None, Count | None], BeforeValidator(_by_size)]
Recalls = Annotated[tuple[Percent | None, Percent | None, Percent | None], BeforeValidator(_by_size)]


class Objects(JsonObject):
    """Per class and size: how many objects the labels hold, and the percentage of them that float and INT8 find."""

    counts: tuple[Counts, ...] = ()
    recall_float: tuple[Recalls, ...] = ()
    recall_int8: tuple[Recalls, ...] = ()


class Layer(JsonObject):
    """The effect of quantising one layer alone: ``disagreement`` is the percentage of pixels whose label changes."""

    layer: str = ""
    disagreement: Percent | None = None


class Quantization(JsonObject):
    """How the INT8 file was produced."""

    in_float: tuple[str, ...] = ()  # names of layers
    sensitivity: tuple[Layer, ...] = ()  # the most sensitive first
    quantization_aware: dict[str, Any] = Field(default_factory=dict)  # empty: not fine-tuned with 8 bits simulated


class Result(JsonObject):
    """Everything that the report reads from one results file, which is about one student on one device."""

    student: Annotated[str, Field(min_length=1)]
    label: str = ""  # names the student in tables and figures; results.load sets it
    loss: str = ""
    dataset: str = ""
    dataset_sha256: str = ""
    split: str = ""
    images: Count | None = None
    classes: tuple[str, ...] = ()
    absent_classes: tuple[str, ...] = ()
    model: str = ""
    parameters: Count | None = None
    weights: Weights = Weights()
    input_size: tuple[Count, ...] = ()  # height, width
    device: Annotated[dict[str, str], BeforeValidator(_as_text)] = Field(default_factory=dict)
    teacher: Teacher = Teacher()
    variants: Annotated[dict[str, Variant], BeforeValidator(_in_order)] = Field(default_factory=dict)
    drop: Drop = Drop()
    speedup: Number | None = Field(default=None, validation_alias="speedup_int8_vs_fp32")
    unstable: tuple[str, ...] = ()  # variants whose latency varied too much
    quantization: Quantization = Quantization()
    fastest: Fastest = Fastest()
    licences: tuple[Source, ...] = ()
    commercial: Flag | None = None  # None: not known
    int8_exact_agreement: Percent | None = None
    budgets: tuple[Budget, ...] = ()
    passed: Flag | None = None
    violations: tuple[Violation, ...] = ()
    undecided: tuple[Note, ...] = ()
    warnings: tuple[Note, ...] = ()
    objects: Objects = Objects()

    @model_validator(mode="after")
    def _one_entry_per_class(self) -> Result:
        lists = {
            "teacher.per_class_iou": self.teacher.per_class_iou,
            **{f"variants.{name}.per_class_iou": variant.per_class_iou for name, variant in self.variants.items()},
            **{f"drop.{key}": getattr(self.drop, key) for key in ("classes", "class_intervals", "class_frames")},
            **{f"objects.{key}": getattr(self.objects, key) for key in Objects.model_fields},
        }
        require_lengths(lists, len(self.classes), key="classes")
        return self

    @property
    def is_teacher(self) -> bool:
        """Whether this is a check of the teacher itself."""
        return self.loss == TEACHER

    def variant(self, name: str) -> Variant:
        """The variant, or one in which nothing is measured."""
        return self.variants.get(name, Variant())

    @property
    def training(self) -> str:
        """The loss, followed by QAT where the student was fine-tuned with 8 bits simulated; empty when unknown."""
        return f"{self.loss}, QAT" if self.quantization.quantization_aware else self.loss

    @property
    def int8(self) -> Variant:
        return self.variant("int8")

    @property
    def fp32(self) -> Variant:
        return self.variant("fp32")

    @property
    def reference(self) -> Variant:
        """The float version whose accuracy INT8 is compared with: torch, else the fp32 graph."""
        return self.variant("torch") if self.variant("torch").miou is not None else self.fp32

    @property
    def shrink(self) -> float | None:
        """Size of the fp32 file / size of the INT8 file."""
        before, after = self.fp32.size_bytes, self.int8.size_bytes
        return before / after if before and after else None

    @property
    def verdict(self) -> Verdict:
        """``pass`` only where INT8 was measured and no budget is broken."""
        if self.passed is False or self.violations:
            return "fail"
        return "pass" if self.passed and self.int8.miou is not None else "not measured"

    @property
    def speed_is_unstable(self) -> bool:
        """Whether a latency that the speed-up is computed from varied too much."""
        return "int8" in self.unstable or "fp32" in self.unstable
