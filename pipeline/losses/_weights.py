"""The weight of a term as params.yaml writes it: a number, ``auto``, or one of both with a schedule.

``weight: 10.0``; ``weight: auto``; ``weight: {auto: 0.3}``; ``weight: {constant: 10.0, warmup: 0.1, until: 0.8}``.

Loss files take numbers only. The option ``weight`` of a loss multiplies the term with the name of the loss, and the
option ``<x>_weight`` multiplies the term ``<loss>_<x>``. So the weight of a term can change during training without a
line in its file: the loss is built with a number, and the task multiplies the term
(:mod:`pipeline.training.balance`).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from annotated_types import Ge
from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema

AUTO = "auto"
#: Share of the cross-entropy's gradient for ``weight: auto``.
SHARE = 0.5
FORMS = "a number, auto, or a section such as {auto: 0.5, warmup: 0.1} or {constant: 10.0, until: 0.8}"
#: Keys of a section: lowest value, whether it is allowed, highest value.
KEYS = {
    AUTO: (0.0, False, math.inf),
    "constant": (0.0, True, math.inf),
    "warmup": (0.0, True, 1.0),
    "decay": (0.0, True, 1.0),
    "until": (0.0, False, 1.0),
}


@dataclass(frozen=True)
class TermWeight:
    """The weight of one term.

    Attributes:
        base: the number with which the loss multiplies the term.
        share: None, or the share of the cross-entropy's gradient at which the term is held.
        warmup: part of the training, from its start, in which the weight rises linearly from 0.
        decay: part of the training, before ``until``, in which it falls linearly to 0.
        until: part of the training after which the weight is 0; 1: never.
    """

    base: float
    share: float | None = None
    warmup: float = 0.0
    decay: float = 0.0
    until: float = 1.0

    @property
    def changes(self) -> bool:
        """Whether the weight is not the same number in every step."""
        return self.share is not None or (self.warmup, self.decay, self.until) != (0.0, 0.0, 1.0)

    def factor(self, done: float) -> float:
        """Factor of the schedule after a part of the training, in 0..1.

        Example:
            >>> weight = TermWeight(1.0, warmup=0.2, decay=0.4, until=0.8)
            >>> [round(weight.factor(t / 10), 2) for t in range(10)]
            [0.0, 0.5, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
        """
        rising = min(1.0, done / self.warmup) if self.warmup else 1.0
        left = self.until - done
        if self.until < 1 and left <= 0:
            return 0.0
        return rising * (min(1.0, max(0.0, left) / self.decay) if self.decay else 1.0)


@dataclass(frozen=True)
class Forms:
    """Annotation of a number that may also be ``auto`` or a section."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def validate(value: Any, number: core_schema.ValidatorFunctionWrapHandler) -> Any:
            if not isinstance(value, str | dict):
                return number(value)
            if message := problem(value):
                raise ValueError(message)
            return value

        return core_schema.no_info_wrap_validator_function(validate, handler(source))


#: Type of every option that is the weight of a term. In Python it is a number.
Weight = Annotated[float, Ge(0), Forms()]


def problem(form: str | Mapping[str, Any]) -> str:
    """What is wrong with a text or a section as a weight; empty if it is valid.

    Example:
        >>> problem("auto"), problem({"auto": 0.3, "until": 2})
        ('', 'until: got 2; allowed: above 0, at most 1')
    """
    if isinstance(form, str):
        return "" if form == AUTO else f"allowed: {FORMS}"
    if unknown := [key for key in form if key not in KEYS]:
        return f"{unknown[0]}: unknown key; allowed: {', '.join(KEYS)}"
    if (AUTO in form) == ("constant" in form):
        return f"it needs either {AUTO} or constant; allowed: {FORMS}"
    for key, value in form.items():
        low, included, high = KEYS[key]
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or not (value >= low if included else value > low) or value > high:
            lowest = f"{low:g} or more" if included else f"above {low:g}"
            return f"{key}: got {value!r}; allowed: {lowest}" + ("" if high == math.inf else f", at most {high:g}")
    until = form.get("until", 1.0)
    late = [key for key in ("warmup", "decay") if form.get(key, 0.0) > until]  # the weight would never be whole
    return f"{late[0]}: got {form[late[0]]!r}; allowed: at most until, which is {until:g}" if late else ""


def term_of(loss: str, option: str) -> str:
    """The term that an option multiplies.

    Example:
        >>> term_of("kd", "weight"), term_of("cirkd", "pixel_weight")
        ('kd', 'cirkd_pixel')
    """
    return loss if option == "weight" else f"{loss}_{option.removesuffix('_weight')}"


def options_of(parameters: Mapping[str, inspect.Parameter]) -> dict[str, float]:
    """The options of a plugin that are weights, with their defaults."""
    return {key: float(p.default) for key, p in parameters.items() if p.annotation == Weight}


def numbers(
    loss: str, options: Mapping[str, Any], defaults: Mapping[str, float]
) -> tuple[dict[str, Any], dict[str, TermWeight]]:
    """Options in which every weight is a number, and the weights of the terms.

    A term with the weight ``auto`` is built with the option's default, or 1 where that is 0.

    Args:
        loss: name of the loss.
        options: of the loss, valid.
        defaults: of :func:`options_of`.
    """
    built, weights = dict(options), {}
    for key, default in defaults.items():
        form = options.get(key, default)
        section = {AUTO: SHARE} if form == AUTO else form if isinstance(form, Mapping) else {"constant": form}
        schedule = {name: float(value) for name, value in section.items() if name not in (AUTO, "constant")}
        share = section.get(AUTO)
        base = float(section["constant"] if share is None else default or 1.0)
        weights[term_of(loss, key)] = TermWeight(base, None if share is None else float(share), **schedule)
        if key in options:
            built[key] = base
    return built, weights


def merged(own: Mapping[str, TermWeight], asked: Mapping[str, TermWeight]) -> dict[str, TermWeight]:
    """Weights from params.yaml; one that has no schedule there has that of the loss, if any. Terms that no option
    multiplies keep theirs.

    Args:
        own: schedules that a loss sets itself.
        asked: of :func:`numbers`.
    """
    without = {term for term, weight in asked.items() if replace(weight, share=None).changes is False}
    return dict(own) | {
        term: replace(own[term], base=weight.base, share=weight.share) if term in own and term in without else weight
        for term, weight in asked.items()
    }
