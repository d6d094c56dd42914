"""What this machine is: the fingerprint that engines and measurements are bound to."""

from __future__ import annotations

import os
import platform
import re
from typing import Any

from pipeline.evaluation.exactness import int8_kernels
from pipeline.runtimes import Runtime


def describe(runtime: Runtime, *, name: str) -> dict[str, Any]:
    """Facts of this machine and of the runtime on it; no host name, no date.

    Args:
        name: key of the runtime plugin.
    """
    bound = runtime.fingerprint()
    on_cpu = "instructions" in bound and "gpu" not in bound
    kernels = {"int8_kernels": int8_kernels(bound["machine"], bound["instructions"])} if on_cpu else {}
    processor = str(bound.get("gpu") or bound.get("cpu") or platform.machine())
    return {
        "id": re.sub(r"[^a-z0-9]+", "-", f"{processor} {name}".lower()).strip("-"),
        "name": processor,
        "kind": "gpu" if "gpu" in bound else "cpu",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.system(),
        "runtime": name,
        **kernels,
        **bound,
    }
