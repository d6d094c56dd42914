"""TensorRT 10.3 to 11: servers and Jetson."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from pipeline.errors import UserError
from pipeline.runtimes._base import Fit
from pipeline.runtimes._ranges import Ge
from pipeline.runtimes._tensorrt import timing_cache
from pipeline.runtimes._tensorrt.builder import CUDA_INSTEAD, OLDEST, Batch, Mebibytes, OptimizationLevel, TensorRTBase

#: The oldest compute capability, by the first release of TensorRT for which it holds.
SUPPORTED_FROM = {(10, 0): 7.0, (10, 5): OLDEST}
FASTEST = "it builds the fastest engines for this GPU"


class TensorRT(TensorRTBase):
    """Engines for this machine's NVIDIA GPU.

    Args:
        workspace_mib: memory for tactics, in MiB.
        optimization_level: 0 (fast build) to 5 (fast engine).
        cuda_graph: launch all kernels of a frame with one call, where the engine can be captured.
        batch: [min, opt, max] for a graph with an open batch; null for one of fixed sizes, as ours are.
        timing_cache: folder for the times that TensorRT measures when it chooses kernels; null: off.
        dla_core: core of the Deep Learning Accelerator; the GPU runs the other layers. null: the GPU alone.
    """

    library = "tensorrt"
    package = "tensorrt (on Jetson: the apt package python3-libnvinfer)"

    @classmethod
    def fit(cls, machine: Mapping[str, Any]) -> Fit:
        if machine["jetson"]:
            return Fit(2, "it is the runtime of a Jetson", "sudo apt install python3-libnvinfer")
        if not machine["gpus"]:
            return Fit(0)
        refusal = cls.unsupported(machine["gpus"][0]["compute_capability"])
        return Fit(0, refusal) if refusal else Fit(2, FASTEST, "pip install '.[tensorrt]'")

    @classmethod
    def unsupported(cls, compute_capability: str, trt: ModuleType | None = None) -> str:
        newest = max(SUPPORTED_FROM)
        release = tuple(map(int, re.findall(r"\d+", trt.__version__)[:2])) if trt is not None else newest
        oldest = max((capability for since, capability in SUPPORTED_FROM.items() if since <= release), default=0.0)
        if float(compute_capability) >= oldest:
            return ""
        return (
            f"its compute capability is {compute_capability}, needed: {oldest} or more; choose convert.runtime: "
            f"{CUDA_INSTEAD}"
        )

    def __init__(
        self,
        *,
        workspace_mib: Mebibytes = 1024,
        optimization_level: OptimizationLevel = 3,
        cuda_graph: bool = True,
        batch: Batch = None,
        timing_cache: str | None = None,
        dla_core: Annotated[int, Ge(0)] | None = None,
    ) -> None:
        super().__init__(
            workspace_mib=workspace_mib, optimization_level=optimization_level, cuda_graph=cuda_graph, batch=batch
        )
        self.timing_cache = timing_cache
        self.dla_core = dla_core
        self.cache_file: Path | None = None

    def configure(self, builder: Any, config: Any, network: Any) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        if self.dla_core is not None:
            facts["dla"] = self._use_dla(self.dla_core, builder, config, network)
        if self.timing_cache is not None:
            conditions = {
                **self.fingerprint(),
                "builder_flags": int(config.flags),
                "optimization_level": self.optimization_level,
                "workspace_mib": self.workspace_mib,
                "dla_core": self.dla_core,
            }
            self.cache_file = timing_cache.place(Path(self.timing_cache), conditions)
            facts["timing_cache"] = timing_cache.attach(config, self.cache_file)
        return facts

    def finished(self, config: Any) -> None:
        if self.cache_file is not None:
            timing_cache.keep(config, self.cache_file)

    def new_runtime(self) -> Any:
        runtime = super().new_runtime()
        if self.dla_core is not None:
            runtime.DLA_core = self.dla_core
        return runtime

    def _use_dla(self, core: int, builder: Any, config: Any, network: Any) -> dict[str, int]:
        """Use a DLA core for the layers that it can run; returns the core and the number of these layers."""
        trt = self.trt
        cores = builder.num_DLA_cores if hasattr(trt.DeviceType, "DLA") else 0
        if core >= cores:
            allowed = f"allowed: 0 to {cores - 1}" if cores else "there is none for this library here; set it to null"
            raise UserError(f"{self.where}.dla_core: got {core}; {allowed}")
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = core
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
        layers = [network.get_layer(index) for index in range(network.num_layers)]
        return {"core": core, "layers": sum(config.can_run_on_DLA(layer) for layer in layers)}
