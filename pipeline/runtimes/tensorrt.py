"""TensorRT 10.3 to 11: servers and Jetson."""

from __future__ import annotations

from pipeline.runtimes._tensorrt import TensorRTBase


class TensorRT(TensorRTBase):
    """Engines for this machine's NVIDIA GPU.

    Args:
        workspace_mib: memory that tactics may use.
        optimization_level: 0 (fast build) to 5 (fast engine).
        cuda_graph: launch all kernels of a frame with one call, where the engine can be captured.
    """

    library = "tensorrt"
    package = "tensorrt (on Jetson: the apt package python3-libnvinfer)"
