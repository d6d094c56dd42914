"""Whether a CPU's INT8 kernels give the labels of exact arithmetic, and if not, whether saturation is the cause.

Between layers, kernels round a little differently than the file specifies; this changes a few pixels at class borders.
x86 kernels without VNNI can also saturate (see ``pipeline/quantization/saturation.py``), which changes many pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.artifact import CPU_FILE, Artifact
from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.runtimes import Engine, Runtime

#: Frames that are compared.
FRAMES = 8
#: Percent of the labels that must be equal. Rounding alone changed 0.1 to 0.3 percent in every network measured.
LIMIT = 99.5
#: Kernels of x86 that saturate, see :func:`int8_kernels`.
SATURATING = ("avx2", "avx512")
AGAIN = "make it again with: dvc repro quantize convert check (for a device, write the bundle again)"


def int8_kernels(machine: str, instructions: str) -> str:
    """The instructions that ONNX Runtime's INT8 kernels use on a CPU: the best that it has.

    Args:
        machine: architecture, as in ``platform.machine()``.
        instructions: names as in /proc/cpuinfo, separated by spaces.

    Returns:
        ``vnni``, ``avx512``, ``avx2`` or ``sse`` on x86, ``i8mm``, ``dotprod`` or ``neon`` on ARM, else ``unknown``.

    Example:
        >>> int8_kernels("x86_64", "avx avx2 fma"), int8_kernels("AMD64", "avx2 avx_vnni"), int8_kernels("x86_64", "")
        ('avx2', 'vnni', 'unknown')
    """
    features = set(instructions.split())
    x86 = {"vnni": {"avx512_vnni", "avx_vnni", "amx_int8"}, "avx512": {"avx512f"}, "avx2": {"avx2"}, "sse": {"avx"}}
    arm = {"i8mm": {"i8mm"}, "dotprod": {"asimddp"}, "neon": {"asimd"}}
    kinds = arm if machine.lower() in ("aarch64", "arm64") else x86
    return next((kind for kind, names in kinds.items() if not names.isdisjoint(features)), "unknown")


def compare(
    results: dict[str, Any],
    runtime: Runtime,
    int8: Artifact | None,
    *,
    engine: Artifact,
    opened: Engine,
    frames: Sequence[Array],
) -> None:
    """Compare an INT8 engine with its file's exact arithmetic; adds ``int8_exact_agreement`` (percent; None:
    not measured) and ``warnings``.

    Args:
        results: contents of a results file, with ``device``.
        int8: artifact from which the engine was built; None: no comparison.
        engine: artifact of the INT8 engine.
        opened: that engine.
        frames: (H, W, 3) BGR uint8 of its input size.

    Raises:
        UserError: the engine was built from another artifact.
    """
    if int8 is not None and engine.meta["parents"].get("int8") != int8.hash:
        raise UserError(f"{engine.path} was built from other INT8 files than {int8.path}; run dvc repro convert")
    exact = runtime.exact(int8.file(engine.meta["source"])) if int8 is not None else None
    percent = agreement(opened, exact, frames) if exact is not None else None
    entries = warnings(percent, engine=engine.meta, device=results["device"])
    results["int8_exact_agreement"] = percent
    results["warnings"] = [*results.get("warnings", []), *entries]


def agreement(engine: Engine, exact: Engine, frames: Sequence[Array]) -> float:
    """Percent of the pixels on which two engines give the same label.

    Args:
        frames: (H, W, 3) BGR uint8 of their input size; the first :data:`FRAMES` are compared.
    """
    same = [np.mean(engine.run(frame[None]) == exact.run(frame[None])) for frame in frames[:FRAMES]]
    return round(100 * float(np.mean(same)), 4)


def warnings(agrees: float | None, *, engine: Mapping[str, Any], device: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Warnings about the labels of an INT8 engine on this machine, in the form of a results file's ``warnings``.

    Args:
        agrees: see :func:`agreement`; None: not measured.
        engine: meta.json of the engine.
        device: this machine, from ``device.describe``.
    """
    kernels = device.get("int8_kernels", "unknown")
    unsafe = engine.get("source") == CPU_FILE and not engine.get("saturation_free", False)
    saturates = unsafe and kernels in SATURATING
    few = agrees is not None and agrees < LIMIT
    if not few and not saturates:
        return []
    measured = "" if agrees is None else f"labels of the INT8 engine agree with exact arithmetic on {agrees:.2f} %"
    if saturates:
        cause = (
            f"the INT8 kernels of this CPU ({kernels}, no VNNI) saturate, and the weights of {CPU_FILE} are not marked "
            f"as saturation_free"
        )
        what = f"{measured} because of saturation: {cause}" if few else f"labels may be wrong: {cause}"
        what += f"; {AGAIN}"
    else:
        maybe = " (or of saturation: the CPU's kernels are unknown)" if unsafe and kernels == "unknown" else ""
        cause = f"the cause is rounding between layers, not saturation{maybe}"
        what = f"{measured}; {cause}; name layers in quantize.float_layers to keep them in float"
    return [{"budget": "int8_exact_agreement", "variant": "int8", "limit": LIMIT, "got": agrees, "what": what}]
