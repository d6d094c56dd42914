"""State of a Jetson: power mode, power rails, clocks of its GPU, and one line of tegrastats.

This module only reads, changes no setting, and leaves out missing values. Formats of JetPack 5 and 6.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

#: Time limit for NVIDIA's programs, in seconds.
PATIENCE = 2.0
#: The GPU's folder in /sys/class/devfreq: by its name (Thor, JetPack 6), or by its chip: Orin and Xavier (JetPack 5).
GPUS = ("*gpu*", "*ga10b*", "*gv11b*")
OFF_C = -256.0  # tegrastats shows this value for the sensor of a part that is off
NOT_CONNECTED = "NC"  # label of a monitor input that is not connected


def read(root: Path) -> dict[str, Any]:
    """The current state.

    Args:
        root: folder that contains /sys and /var.

    Returns:
        any of ``power_mode`` (``id``, ``name``), ``gpu_mhz_range`` (lowest and highest allowed clock: equal when they
        are locked), ``rails_mw`` (power by rail) and ``tegrastats`` (see :func:`parse_tegrastats`).
    """
    facts = {
        "power_mode": power_mode(root),
        "gpu_mhz_range": gpu_range(root),
        "rails_mw": rails(root),
        "tegrastats": parse_tegrastats(_first_line("tegrastats", "--interval", "100")),
    }
    return {key: value for key, value in facts.items() if value}


def power_mode(root: Path) -> dict[str, Any]:
    """Number and name of the power mode: from nvpmodel, else the number from its status file; empty without both."""
    answer = output("nvpmodel", "-q")
    name = re.search(r"NV Power Mode: *(\S+)", answer)
    number = re.search(r"^(\d+)\s*$", answer, flags=re.MULTILINE)
    if number is None:
        number = re.search(r"pmode:(\d+)", text(root / "var/lib/nvpmodel/status"))
    facts = {"id": int(number[1]) if number else None, "name": name[1] if name else None}
    return {key: value for key, value in facts.items() if value is not None}


def gpu_range(root: Path) -> list[float]:
    """Lowest and highest clock in MHz that the GPU may have; empty if unknown."""
    limits = [gpu_clock(root, "min_freq"), gpu_clock(root, "max_freq")]
    return [limit for limit in limits if limit is not None] if None not in limits else []


def gpu_clock(root: Path, name: str) -> float | None:
    """A clock of a Jetson's GPU in MHz: ``cur_freq``, ``min_freq`` or ``max_freq``; None if unknown."""
    files = sorted(file for pattern in GPUS for file in root.glob(f"sys/class/devfreq/{pattern}/{name}"))
    return next((round(int(text(file)) / 1e6, 1) for file in files if text(file).isdigit()), None)


def rails(root: Path) -> dict[str, int]:
    """Power in mW by rail: voltage times current, from the INA3221 monitors on the board."""
    rails = {}
    for file in sorted(root.glob("sys/class/hwmon/hwmon*/in*_label")):
        number = file.name.removeprefix("in").removesuffix("_label")
        millivolts, milliamperes = (text(file.parent / f"{kind}{number}_input") for kind in ("in", "curr"))
        is_rail = text(file.parent / "name") == "ina3221" and millivolts.isdigit() and milliamperes.isdigit()
        if is_rail and text(file) not in ("", NOT_CONNECTED):
            rails[text(file)] = round(int(millivolts) * int(milliamperes) / 1000)
    return rails


def parse_tegrastats(line: str) -> dict[str, Any]:
    """One line of tegrastats.

    Returns:
        any of ``ram_mb`` (used, total), ``cpu_mhz`` (of each core that is on), ``cpu_percent``, ``gpu_percent``,
        ``gpu_mhz`` (of each part), ``temperatures_c`` (by sensor) and ``rails_mw`` (now, by rail).

    Example:
        >>> parse_tegrastats("RAM 2513/7620MB (lfb 1x4MB) GR3D_FREQ 99%@[1020] VDD_IN 4744mW/6179mW")
        {'ram_mb': [2513, 7620], 'gpu_percent': 99, 'gpu_mhz': [1020], 'rails_mw': {'VDD_IN': 4744}}
    """
    ram = re.search(r"\bRAM (\d+)/(\d+)MB", line)
    cores = re.search(r"\bCPU \[([^\]]*)\]", line)
    on = re.findall(r"(\d+)%@(\d+)", cores[1]) if cores else []
    gpu = re.search(r"\bGR3D_FREQ (?:(\d+)%)?(?:@\[?([\d,]+)\]?)?", line)  # percentage and clocks are optional
    sensors = {name: float(value) for name, value in re.findall(r"\b(\w+)@(-?[\d.]+)C\b", line)}
    facts: dict[str, Any] = {
        "ram_mb": [int(value) for value in ram.groups()] if ram else None,
        "cpu_percent": [int(percent) for percent, _ in on],
        "cpu_mhz": [int(clock) for _, clock in on],
        "gpu_percent": int(gpu[1]) if gpu and gpu[1] else None,
        "gpu_mhz": [int(clock) for clock in gpu[2].split(",")] if gpu and gpu[2] else None,
        "temperatures_c": {name: value for name, value in sensors.items() if value != OFF_C},
        "rails_mw": {
            name: int(now) for name, now in re.findall(r"\b(\w+) (\d+)mW/\d+mW", line) if name != NOT_CONNECTED
        },
    }
    return {key: value for key, value in facts.items() if value not in (None, {}, [])}


def text(file: Path) -> str:
    """Content of a file of the kernel; empty if it cannot be read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def output(*command: str) -> str:
    """Output of a program; empty if it is missing, fails or takes too long."""
    program = shutil.which(command[0])
    if program is None:
        return ""
    try:
        done = subprocess.run([program, *command[1:]], capture_output=True, timeout=PATIENCE, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""


def _first_line(*command: str) -> str:
    """The first line of a program that prints continuously; it is then killed. Empty as in :func:`output`."""
    program = shutil.which(command[0])
    if program is None:
        return ""
    try:
        running = subprocess.Popen(  # noqa: S603 - a list of arguments
            [program, *command[1:]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError:
        return ""
    with running:  # closes the pipe and waits
        try:
            return _line_of(running)
        finally:
            running.kill()


def _line_of(running: subprocess.Popen[bytes]) -> str:
    assert running.stdout is not None
    got, deadline = b"", time.monotonic() + PATIENCE
    while b"\n" not in got:
        ready = wait([running.stdout.fileno()], max(0.0, deadline - time.monotonic()))
        more = os.read(running.stdout.fileno(), 4096) if ready else b""
        if not more:  # the time is over, or the program ended
            return ""
        got += more
    return got.partition(b"\n")[0].decode(errors="replace")
