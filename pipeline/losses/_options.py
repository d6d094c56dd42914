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


def at_least(where: str, value: int, least: int) -> int:
    """The value, when it is not below a limit.

    Raises:
        UserError: naming the key of params.yaml.
    """
    if value < least:
        raise UserError(f"losses.{where}: got {value}; it must be at least {least}")
    return value
