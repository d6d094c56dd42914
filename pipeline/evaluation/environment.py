"""The conditions of a measurement: clocks, temperatures, power and load, as far as this machine reports them.

This module only reads, changes no setting, and leaves out values that cannot be read. Sources: /sys and /proc for the
CPU, :mod:`pipeline.evaluation.jetson` for a Jetson, and NVML for NVIDIA cards if its Python package is installed.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.evaluation import jetson


def conditions(root: Path = Path("/")) -> dict[str, Any]:
    """The current conditions.

    Args:
        root: folder that contains /sys and /proc.

    Returns:
        any of ``cpu_mhz`` (median over the cores), ``governor``, ``temperatures_c`` (by zone), ``gpu_mhz`` (of a
        Jetson), ``load`` (mean number of runnable processes over a minute), ``gpus`` (see :func:`cards`), ``jetson``
        (see :func:`pipeline.evaluation.jetson.read`).
    """
    clocks = sorted(_numbers(root, "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq", 1e3).values())
    governors = {jetson.text(file) for file in root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor")}
    facts: dict[str, Any] = {
        "cpu_mhz": clocks[len(clocks) // 2] if clocks else None,
        "governor": ", ".join(sorted(filter(None, governors))),
        "temperatures_c": {
            jetson.text(root / path / "type") or Path(path).name: value
            for path, value in _numbers(root, "sys/class/thermal/thermal_zone*/temp", 1e3).items()
        },
        "gpu_mhz": jetson.gpu_clock(root, "cur_freq"),
        "load": _load(root),
        "gpus": cards(),
        "jetson": jetson.read(root),
    }
    return {key: value for key, value in facts.items() if value not in (None, "", {}, [])}


def cards() -> list[dict[str, Any]]:
    """Name, clocks in MHz, temperature in Celsius, power and its limit in mW of every NVIDIA card."""
    try:
        pynvml = importlib.import_module("pynvml")  # not on every device
        pynvml.nvmlInit()
    except Exception:  # no package, no driver, no card: each raises its own type
        return []
    entries = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        card = pynvml.nvmlDeviceGetHandleByIndex(index)
        queries: dict[str, Callable[[], Any]] = {
            "name": partial(pynvml.nvmlDeviceGetName, card),
            "sm_mhz": partial(pynvml.nvmlDeviceGetClockInfo, card, pynvml.NVML_CLOCK_SM),
            "memory_mhz": partial(pynvml.nvmlDeviceGetClockInfo, card, pynvml.NVML_CLOCK_MEM),
            "temperature_c": partial(pynvml.nvmlDeviceGetTemperature, card, pynvml.NVML_TEMPERATURE_GPU),
            "power_mw": partial(pynvml.nvmlDeviceGetPowerUsage, card),
            "power_limit_mw": partial(pynvml.nvmlDeviceGetEnforcedPowerLimit, card),
        }
        facts: dict[str, Any] = {}
        for key, query in queries.items():
            try:
                facts[key] = query()
            except pynvml.NVMLError:  # this card does not report it
                continue
        entries.append(facts)
    pynvml.nvmlShutdown()
    return entries


def _numbers(root: Path, pattern: str, divisor: float) -> dict[str, float]:
    """Numbers in the files that match, by their folder; files without a number are left out."""
    numbers = {}
    for file in sorted(root.glob(pattern)):
        try:
            numbers[str(file.parent.relative_to(root))] = round(float(jetson.text(file)) / divisor, 1)
        except ValueError:
            continue
    return numbers


def _load(root: Path) -> float | None:
    try:
        return float(jetson.text(root / "proc/loadavg").split()[0]) if os.name == "posix" else None
    except (IndexError, ValueError):
        return None
