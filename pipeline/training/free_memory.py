"""How much memory this process may still take."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a device; None where the system does not say.

    On CUDA what the driver reports as free plus what torch holds without using it. On a CPU the least of
    ``MemAvailable`` and what the control groups of a container leave (version 2, or 1); file caches count as free in
    both.
    """
    if device.type == "cuda":
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + idle
    amounts = [_available(), *_left_by_control_groups()]
    return min((value for value in amounts if value is not None), default=None)


def _available() -> int | None:
    with contextlib.suppress(OSError):
        for line in MEMINFO.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return None


def _left_by_control_groups() -> list[int | None]:
    return [
        _left(CGROUP / "memory.max", CGROUP / "memory.current", CGROUP / "memory.stat", cache="inactive_file"),
        _left(
            CGROUP / "memory/memory.limit_in_bytes",
            CGROUP / "memory/memory.usage_in_bytes",
            CGROUP / "memory/memory.stat",
            cache="total_inactive_file",
        ),
    ]


def _left(limit: Path, usage: Path, stat: Path, *, cache: str) -> int | None:
    """Limit - usage + file cache that would give way; None without a limit."""
    try:
        most, used = limit.read_text(encoding="ascii").strip(), int(usage.read_text(encoding="ascii"))
        facts = dict(line.split() for line in stat.read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return None
    return None if most == "max" else max(0, int(most) - used + int(facts.get(cache, 0)))
