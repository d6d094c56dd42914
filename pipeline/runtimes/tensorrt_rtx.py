"""TensorRT-RTX: RTX 20 to 50 series. It builds engines on a machine without a GPU when a target is named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import UserError, closest
from pipeline.runtimes import _cuda
from pipeline.runtimes._base import Engine, Fit
from pipeline.runtimes._tensorrt.builder import Batch, Mebibytes, OptimizationLevel, TensorRTBase

OLDEST = 7.5  # compute capability of RTX 20


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
        fits = any("RTX" in gpu["name"] and float(gpu["compute_capability"]) >= OLDEST for gpu in machine["gpus"][:1])
        return Fit(2, "it supports this GPU", "pip install '.[rtx]'") if fits else Fit(0)

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
            workspace_mib=workspace_mib, optimization_level=optimization_level, cuda_graph=cuda_graph, batch=batch
        )
        known = [name for name in dir(self.trt.ComputeCapability) if name.startswith("SM")]
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
        here = "SM" + gpu["compute_capability"].replace(".", "") if gpu else None
        if here is not None and self.compute_capabilities and here not in self.compute_capabilities:
            raise UserError(f"{engine_file} was built for {', '.join(self.compute_capabilities)}; this GPU is {here}")
        return super().load(engine_file)

    def configure(self, builder: Any, config: Any, network: Any) -> dict[str, Any]:
        targets = self.compute_capabilities
        if not targets:
            return {}
        config.num_compute_capabilities = len(targets)
        for index, name in enumerate(targets):
            config.set_compute_capability(getattr(self.trt.ComputeCapability, name), index)
        return {"compute_capabilities": targets}
