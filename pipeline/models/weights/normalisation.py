"""Mean and standard deviation of RGB in 0..1: checks, and their values in checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
NEAR = 0.005  # highest distance of two values that differ only by rounding
BYTE = 255  # the highest value of a pixel


def problem(mean: Sequence[float] | None, std: Sequence[float] | None) -> str | None:
    """What is wrong with a mean and a standard deviation of RGB in 0..1; None: nothing, or both are None.

    For values of pixels in 0..255 the message has the values to use.

    Example:
        >>> problem(None, [51.0, 102.0, 255.0])
        'std: got [51.0, 102.0, 255.0]; allowed: 0..1, and these are of pixels in 0..255; use std: [0.2, 0.4, 1.0]'
    """
    given = {key: list(map(float, values)) for key, values in (("mean", mean), ("std", std)) if values is not None}
    got = ", ".join(f"{key}: got {values}" for key, values in given.items())
    numbers = [value for values in given.values() for value in values]
    if any(len(values) != 3 for values in given.values()) or not all(map(math.isfinite, numbers)):
        return f"{got}; allowed: three numbers each, for red, green and blue in 0..1"
    if min(given.get("mean", [0.0])) < 0 or min(given.get("std", [1.0])) <= 0:
        return f"{got}; allowed: 0..1, std above 0"
    if max(numbers, default=0.0) <= 1:
        return None
    if max(numbers) > BYTE:
        return f"{got}; allowed: 0..1"
    given = in_unit(given)
    order = ""
    if in_opencv_order(given.get("mean", [])):
        given = {key: values[::-1] for key, values in given.items()}
        order = " in the order blue, green, red"
    use = ", ".join(f"{key}: {values}" for key, values in given.items())
    return f"{got}; allowed: 0..1, and these are of pixels in 0..255{order}; use {use}"


def in_unit(given: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """``mean`` and ``std`` of pixels in 0..255 as those of pixels in 0..1; values of 0..1 stay unchanged."""
    mean_of_bytes = max(given.get("mean", [0.0])) > 1  # with such a mean, a deviation of 1 is of bytes too
    return {
        key: [round(value / BYTE, 6) for value in values]
        if max(values) > 1 or (mean_of_bytes and set(values) == {1.0})
        else list(values)
        for key, values in given.items()
    }


def in_opencv_order(mean: Sequence[float]) -> bool:
    """True for ImageNet's mean in the order blue, green, red."""
    return len(mean) == 3 and math.dist(mean[::-1], IMAGENET_MEAN) < NEAR


def differ(one: Mapping[str, Sequence[float]], other: Mapping[str, Sequence[float]]) -> bool:
    """Whether a ``mean`` or ``std`` that both have differs by more than rounding."""
    return any(math.dist(one[key], other[key]) >= NEAR for key in one.keys() & other.keys())


def stated(facts: Any) -> dict[str, list[float]]:
    """``mean`` and ``std`` in 0..1 from a configuration of segpress, transformers, timm or smp; empty: it has none.

    Example:
        >>> stated({"image_mean": [0.5, 0.5, 0.5], "image_std": [127.5, 127.5, 127.5], "size": 512})
        {'mean': [0.5, 0.5, 0.5], 'std': [0.5, 0.5, 0.5]}
    """
    normalisation: dict[str, list[float]] = {}
    if isinstance(facts, dict) and isinstance(facts.get("pretrained_cfg"), dict):  # timm's config.json
        facts = facts["pretrained_cfg"]
    for key in ("mean", "std"):
        values = facts.get(key, facts.get(f"image_{key}")) if isinstance(facts, dict) else None
        if not isinstance(values, (list, tuple)) or not all(isinstance(value, (int, float)) for value in values):
            return {}
        normalisation[key] = [float(value) for value in values]
    return in_unit(normalisation) if problem(**in_unit(normalisation)) is None else {}
