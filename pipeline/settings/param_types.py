"""Types of values in params.yaml, and of the sections that hold them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import core_schema

from pipeline.settings import loss_mixture

STRICT = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
#: Every network of segpress needs height and width that are multiples of 8; most need 32, which training checks.
DIVISOR = 8


def _from_list(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value  # YAML has lists only


def _divisible(size: tuple[int, int]) -> tuple[int, int]:
    if any(side % DIVISOR for side in size):
        use = [-(-side // DIVISOR) * DIVISOR for side in size]
        raise ValueError(f"height and width must be multiples of {DIVISOR}; use {use}")
    return size


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if not 0 < bounds[0] <= bounds[1]:
        raise ValueError("it must be [low, high] with 0 < low <= high")
    return bounds


def _distinct(what: str, *, needed: Any = None) -> Callable[[list[Any]], list[Any]]:
    """A check that a list names nothing twice, no empty text, and contains what is needed."""

    def check(values: list[Any]) -> list[Any]:
        if len(set(values)) < len(values):
            raise ValueError(f"a {what} is named twice; name each once")
        if "" in values:
            raise ValueError(f"a {what} is empty; leave it out")
        if needed is not None and needed not in values:
            raise ValueError(f"the {what} {needed} is missing; add it")
        return values

    return check


def _formed(loss: Any) -> Any:
    if problem := loss_mixture.form_problem(loss):
        raise ValueError(problem)
    return loss


Options = dict[str, Any]
Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["poly", "cosine", "constant"]
Precision = Literal["fp32", "fp16", "bf16"]
ValidationPrecision = Literal["fp32", "training"]
StoreMode = Literal["none", "decoded", "auto"]
Determinism = Literal["auto", "strict", "off"]
#: What frames without labels teach: the terms of the loss, labels of confident pixels, or both.
FrameLabels = Literal["soft", "hard", "both"]
Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0)]
Size = Annotated[tuple[Positive, Positive], BeforeValidator(_from_list), AfterValidator(_divisible)]  # height, width
Range = Annotated[tuple[float, float], BeforeValidator(_from_list), AfterValidator(_ordered)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # the range of NumPy's seeds
Seeds = Annotated[list[Seed], Field(min_length=1), AfterValidator(_distinct("seed"))]
Folders = Annotated[list[str], AfterValidator(_distinct("folder"))]
Sources = Annotated[list[str], AfterValidator(_distinct("source"))]
Scales = Annotated[list[Annotated[float, Field(ge=0.25, le=4)]], AfterValidator(_distinct("scale", needed=1.0))]
#: A loss, several losses, or losses with options: see :mod:`pipeline.settings.loss_mixture`.
Loss = Annotated[Any, AfterValidator(_formed)]
#: Part of paths and commands in dvc.yaml.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class Section(BaseModel):
    """Strict: no unknown keys, no coercion of strings to numbers."""

    model_config = STRICT


class OrFalse:
    """A section, or ``false``; messages about a section do not mention ``false``."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def validate(value: Any, section: core_schema.ValidatorFunctionWrapHandler) -> Any:
            if value is False:
                return False
            if not isinstance(value, dict):
                raise ValueError("allowed: a section, or false: the network is evaluated as it is")
            return section(value)

        return core_schema.no_info_wrap_validator_function(validate, handler.generate_schema(get_args(source)[0]))
