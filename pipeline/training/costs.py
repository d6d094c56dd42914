"""What a training run costs: seconds per step, memory."""

from __future__ import annotations

import contextlib
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

#: First steps, which do not count: allocators, kernels and file caches warm up.
WARM_UP = 10
MIB = 2**20


@dataclass(frozen=True)
class Costs:
    """Measured over the training steps of a run; the seconds exclude validation.

    Attributes:
        seconds: of each step: waiting for data, forward, backward, optimiser; on a GPU each has the mean of the steps
            that were read together (``training.readings``).
        peak_memory_mib: on CUDA the peak of torch's allocations; on a CPU the growth of the process's peak memory
            since just before the first step, validation included, without what the loss holds by then (CIRKD's queues).
        device: name of the GPU, or the device type and the number of threads.
    """

    seconds: tuple[float, ...]
    peak_memory_mib: float
    device: str

    @property
    def seconds_per_step(self) -> float:
        """Median over the steps after the first ten; over all steps of a run of ten steps or fewer."""
        return statistics.median(self.seconds[WARM_UP:] or self.seconds or (0.0,))

    def to_meta(self) -> dict[str, float | str]:
        return {
            "seconds_per_step": round(self.seconds_per_step, 6),
            "training_seconds": round(sum(self.seconds), 3),
            "peak_memory_mib": round(self.peak_memory_mib, 1),
            "device": self.device,
        }


class Meter:
    """Times steps: ``start`` before the data of a step is requested, ``stop`` when its loss was read.

    Args:
        device: where the steps run; on CUDA its peak of allocated memory is reset here.
        seconds: of the earlier steps of a run that resumes; the peak memory counts only steps since the resume.
    """

    def __init__(self, device: torch.device, seconds: Sequence[float] = ()) -> None:
        self._device = device
        self.seconds = list(seconds)
        self._cuda = device.type == "cuda"
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(device)
        reset_peak()
        self._before = peak_resident()
        self.start()

    def start(self) -> None:
        self._started = time.perf_counter()

    def stop(self, steps: int = 1) -> None:
        """Divide the time since ``start`` evenly among a number of steps."""
        self.seconds += steps * [(time.perf_counter() - self._started) / steps]

    def read(self) -> Costs:
        if self._cuda:
            peak, name = torch.cuda.max_memory_allocated(self._device), torch.cuda.get_device_name(self._device)
        else:
            threads = torch.get_num_threads()
            peak = max(0, peak_resident() - self._before)  # Linux counts in batches: the peak may be the lower one
            name = f"{self._device.type}, {threads} thread{'s' if threads != 1 else ''}"
        return Costs(seconds=tuple(self.seconds), peak_memory_mib=peak / MIB, device=name)


def reset_peak() -> None:
    """Reset the peak of resident memory to the present value, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_resident() -> int:
    """Peak resident memory of this process in bytes.

    From /proc where it exists: a process inherits the peak of ``getrusage`` from the process that started it.
    ``getrusage`` counts KiB on Linux, bytes on macOS.
    """
    with contextlib.suppress(OSError):
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
