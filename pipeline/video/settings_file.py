"""Small files of settings that people write: JSON, or YAML where PyYAML is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.errors import UserError


def read_settings(path: Path, *, example: str) -> Any:
    """What a file of JSON holds, or of YAML by the end of its name.

    Args:
        example: a short valid file, for the message.

    Raises:
        UserError: no such file, or neither JSON nor YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        fault = error
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise UserError(
            f"{path}:{fault.lineno}:{fault.colno}: not valid JSON: {fault.msg}; needed: {example}"
        ) from fault
    try:
        import yaml  # noqa: PLC0415 - only for YAML: a device may not have it
    except ImportError:
        raise UserError(f"{path}: YAML needs PyYAML (pip install pyyaml); or write it as JSON") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error


def is_number(value: Any) -> bool:
    """Whether a value of such a file is a number of a size that makes sense; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e6
