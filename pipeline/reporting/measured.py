"""What was measured on one student, as frozen values; None, empty or missing means not measured.

All mIoU and IoU are percent (0..100), latencies milliseconds, sizes bytes; a drop is positive when something was lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

SIZES = ("small", "medium", "large")
VARIANTS = ("torch", "fp32", "fp16", "int8")
Verdict = Literal["pass", "fail", "not measured"]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Latency:
    """Percentiles in ms over ``n`` samples; ``cov`` is standard deviation / mean."""

    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    n: int | None = None
    cov: float | None = None


@dataclass(frozen=True)
class Variant:
    """One measured file; ``per_class_iou`` is empty when not measured, None where the ground truth lacks a class."""

    name: str
    miou: float | None = None
    per_class_iou: tuple[float | None, ...] = ()
    size_bytes: int | None = None
    latency: Latency = Latency()
    sha256: str = ""
    runtime: str = ""


@dataclass(frozen=True)
class Teacher:
    miou: float | None = None
    per_class_iou: tuple[float | None, ...] = ()
    parameters: int | None = None
    model: str = ""


@dataclass(frozen=True)
class Violation:
    """A budget that was not kept; ``what`` says it in words, ``class_name`` of which class, if of one."""

    budget: str
    variant: str
    limit: float | None
    got: float | None
    what: str
    class_name: str = ""


@dataclass(frozen=True)
class Note:
    """What is no broken budget and must be seen: a warning, or a class that the frames could not judge.

    ``what`` says it in words; ``class_name`` is empty where it is about the whole network.
    """

    budget: str
    what: str
    class_name: str = ""


@dataclass(frozen=True)
class Drop:
    """What INT8 costs, in mIoU or IoU points, as `check` recorded it.

    ``confidence`` is that of the intervals, 0..1; lists are in the order of the classes, and empty where an earlier
    version measured.
    """

    versus_float: float | None = None
    versus_teacher: float | None = None
    worst_class: str = ""
    worst_class_drop: float | None = None
    confidence: float | None = None
    classes: tuple[float | None, ...] = ()
    class_intervals: tuple[Interval | None, ...] = ()
    class_frames: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Objects:
    """How many objects the labels hold, and the percentage of them that was found; by class small, medium, large."""

    counts: tuple[tuple[float | None, ...], ...] = ()
    recall_float: tuple[tuple[float | None, ...], ...] = ()
    recall_int8: tuple[tuple[float | None, ...], ...] = ()


@dataclass(frozen=True)
class Layer:
    """A layer of the network: what quantising it alone did, and whether it was left in float.

    ``disagreement`` is the share of pixels in percent whose label changed, ``worst_class`` the class that lost most.
    """

    name: str
    disagreement: float | None = None
    worst_class: str = ""
    in_float: bool = False


@dataclass(frozen=True)
class Result:
    """Everything one results file says about one student on one device; ``label`` names it in tables and figures."""

    student: str
    label: str
    loss: str = ""
    dataset: str = ""
    dataset_sha256: str = ""
    split: str = ""
    images: int | None = None
    classes: tuple[str, ...] = ()
    absent_classes: tuple[str, ...] = ()
    model: str = ""
    parameters: int | None = None
    input_size: tuple[int, ...] = ()
    device: Mapping[str, str] = field(default_factory=dict)
    teacher: Teacher = Teacher()
    variants: Mapping[str, Variant] = field(default_factory=dict)
    drop: Drop = Drop()
    speedup: float | None = None
    unstable: tuple[str, ...] = ()
    layers: tuple[Layer, ...] = ()  # the most sensitive first
    aware: bool = False  # fine-tuned with 8 bits simulated
    passed: bool | None = None
    violations: tuple[Violation, ...] = ()
    undecided: tuple[Note, ...] = ()
    warnings: tuple[Note, ...] = ()
    objects: Objects = Objects()

    def variant(self, name: str) -> Variant:
        """The variant, or one in which nothing is measured."""
        return self.variants.get(name, Variant(name=name))

    @property
    def taught(self) -> str:
        """By which loss, and whether with 8 bits simulated; empty where it is not told."""
        return f"{self.loss}, QAT" if self.aware else self.loss

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
        """Size of the fp32 file over size of the INT8 file."""
        before, after = self.fp32.size_bytes, self.int8.size_bytes
        return before / after if before and after else None

    @property
    def verdict(self) -> Verdict:
        """``pass`` only where INT8 was measured and no budget is broken."""
        if self.passed is False or self.violations:
            return "fail"
        return "pass" if self.passed and self.int8.miou is not None else "not measured"

    def speed_is_unstable(self) -> bool:
        """Whether a latency that the speed-up rests on spread too much."""
        return "int8" in self.unstable or "fp32" in self.unstable
