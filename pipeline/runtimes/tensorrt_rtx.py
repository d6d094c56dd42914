"""TensorRT-RTX: RTX 20 to 50 series. It builds engines on a machine without a GPU when a target is named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.errors import UserError, closest
from pipeline.runtimes import _cuda
from pipeline.runtimes._base import Engine, Fit
from pipeline.runtimes._tensorrt.builder import CUDA_INSTEAD, OLDEST, Batch, Mebibytes, OptimizationLevel, TensorRTBase

#: Targets of release 1.7, which are the members of its ComputeCapability; the first is the RTX 20 series.
TARGETS = ("SM75", "SM80", "SM86", "SM89", "SM120", "SM121")
#: Engines without a target run on the other compute capabilities, but not on this one (support matrix of 1.5).
NEEDS_TARGET = "SM75"


class TensorRTRTX(TensorRTBase):
    """Engines for RTX cards.

    Args:
        workspace_mib: memory for tactics, in MiB.
        optimization_level: 0 (fast build) to 5 (fast engine).
        cuda_graph: launch all kernels of a frame with one call, where the engine can be captured.
        batch: [min, opt, max] for a graph with an open batch; null for one of fixed sizes, as ours are.
        compute_capabilities: targets such as ``[SM86, SM89]``; null: this machine's GPU.
    """

    library = "tensorrt_rtx"
    package = "tensorrt-rtx"

    @classmethod
    def fit(cls, machine: Mapping[str, Any]) -> Fit:
        if not machine["gpus"]:
            return Fit(0)
        gpu = machine["gpus"][0]
        refusal = cls.unsupported(gpu["compute_capability"])
        recommended = "RTX" in gpu["name"] and not refusal
        return Fit(2, "it supports this GPU", "pip install '.[rtx]'") if recommended else Fit(0, refusal)

    @classmethod
    def unsupported(cls, compute_capability: str, trt: ModuleType | None = None) -> str:
        known = targets(trt) if trt is not None else TARGETS
        if target(compute_capability) in known:
            return ""
        others = f"tensorrt, or {CUDA_INSTEAD}" if float(compute_capability) >= OLDEST else CUDA_INSTEAD
        supported = ", ".join(f"{name[2:-1]}.{name[-1]}" for name in known)
        return (
            f"its compute capability is {compute_capability}, supported: {supported}; choose convert.runtime: {others}"
        )

    def __init__(
        self,
        *,
        workspace_mib: Mebibytes = 1024,
        optimization_level: OptimizationLevel = 3,
        cuda_graph: bool = True,
        batch: Batch = None,
        compute_capabilities: list[str] | None = None,
    ) -> None:
        super().__init__(
            workspace_mib=workspace_mib,
            optimization_level=optimization_level,
            cuda_graph=cuda_graph,
            batch=batch,
            for_this_gpu=not compute_capabilities,
        )
        known = targets(self.trt)
        for name in compute_capabilities or []:
            if name not in known:
                raise UserError(f"convert.tensorrt_rtx.compute_capabilities: no '{name}'; {closest(name, known)}")
        self.compute_capabilities = compute_capabilities or []

    def fingerprint(self) -> dict[str, Any]:
        if self.compute_capabilities:  # bound to the targets, not to the machine that builds
            return {self.library: self.version, "targets": self.compute_capabilities}
        return super().fingerprint()

    def load(self, engine_file: Path) -> Engine:
        gpu = _cuda.device()
        here = target(gpu["compute_capability"]) if gpu else None
        if here is not None and self.compute_capabilities and here not in self.compute_capabilities:
            raise UserError(f"{engine_file} was built for {', '.join(self.compute_capabilities)}; this GPU is {here}")
        return super().load(engine_file)

    def configure(self, builder: Any, config: Any, network: Any) -> dict[str, Any]:
        gpu = _cuda.device()
        special = gpu is not None and target(gpu["compute_capability"]) == NEEDS_TARGET
        named = self.compute_capabilities or ([NEEDS_TARGET] if special else [])
        if not named:
            return {}
        config.num_compute_capabilities = len(named)
        for index, name in enumerate(named):
            config.set_compute_capability(getattr(self.trt.ComputeCapability, name), index)
        return {"compute_capabilities": named}


def target(compute_capability: str) -> str:
    """The library's name of a compute capability.

    Example:
        >>> target("8.6"), target("12.0")
        ('SM86', 'SM120')
    """
    return "SM" + compute_capability.replace(".", "")


def targets(trt: ModuleType) -> list[str]:
    """The compute capabilities that the library lists as targets, oldest first."""
    names = [name for name in dir(trt.ComputeCapability) if name.startswith("SM")]
    return sorted(names, key=lambda name: int(name[2:]))
