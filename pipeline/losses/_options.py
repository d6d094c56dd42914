"""Checks of loss options that a type cannot express."""

from __future__ import annotations

from pipeline.errors import UserError


def positive(where: str, value: float) -> float:
    """The value, when it is above zero.

    Raises:
        UserError: naming the key of params.yaml.
    """
    if value <= 0:
        raise UserError(f"losses.{where}: got {value}; it must be positive")
    return value
