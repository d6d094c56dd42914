"""Options of the CUDA provider: the fastest for a graph on this GPU, found by measuring when an engine is built.

On an H200 a DeepLabV3+ with EfficientNet-Lite0 took 6.1 ms in float16 and 2.9 ms in float32, although CUDA has a
float16 kernel for each of its nodes. A possible cause, not measured yet: ONNX Runtime computes convolutions in the
layout NCHW unless it is asked for NHWC. Tensor cores need NHWC, so cuDNN may put a transposition before and after each
float16 convolution; and each bias is added by a kernel of its own. With one frame per run, the start of kernels may
take much of the time, which a CUDA graph saves. Which combination is the fastest depends on the GPU, the network and
the version, so all are tried.

Sources: pull requests 17200 (NHWC), 19470 (``fuse_conv_bias``; float32 lost its fused ReLU on CUDA there) and the CUDA
Execution Provider's documentation of ONNX Runtime. The choice has not been run on a GPU by us yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.runtimes._base import Engine

#: Layouts of convolutions, the provider's default first.
LAYOUTS: tuple[dict[str, str], ...] = (
    {},
    {"prefer_nhwc": "1"},
    {"prefer_nhwc": "1", "fuse_conv_bias": "1"},
)
#: One start for all kernels of a frame; possible where all nodes run on the GPU.
GRAPH = {"enable_cuda_graph": "1"}
#: Runs that are not timed, and runs that are.
WARM_UP, RUNS = 10, 50
#: Share of pixels on which another layout must agree with the first; roundings change some near ties.
AGREEMENT = 0.97


@dataclass(frozen=True)
class Choice:
    """The fastest options, and all that were tried.

    Attributes:
        options: of the CUDA provider.
        tried: for each attempt ``options``, and ``p50_ms`` (one frame, host memory to host memory) or ``refused``.
    """

    options: dict[str, str]
    tried: list[dict[str, Any]]


def layout(options: Mapping[str, str]) -> dict[str, str]:
    """Options without those of a CUDA graph: one of :data:`LAYOUTS`."""
    return {key: value for key, value in options.items() if key not in GRAPH}


def fastest(open_engine: Callable[[Mapping[str, str]], Engine]) -> Choice:
    """Time a graph with every layout, with a CUDA graph where that works.

    Args:
        open_engine: opens the graph with options of the CUDA provider; options with which it raises are refused.

    Raises:
        UserError: the graph runs with none of the options; the message has the reason of the first attempt.
    """
    tried: list[dict[str, Any]] = []
    times: list[tuple[float, dict[str, str]]] = []
    reference: Array | None = None
    for chosen in LAYOUTS:
        for options in ({**chosen, **GRAPH}, chosen):
            attempt: dict[str, Any] = {"options": options}
            tried.append(attempt)
            try:
                labels, milliseconds = _timed(open_engine(options))
            except Exception as error:  # onnxruntime raises its own types, one for each status code
                attempt["refused"] = " ".join(str(error).split())[:300]
                continue
            reference = labels if reference is None else reference
            same = float((labels == reference).mean())
            if same < AGREEMENT:
                attempt["refused"] = f"its labels agree with those of the first layout on {same:.1%} of pixels only"
                continue
            attempt["p50_ms"] = round(milliseconds, 3)
            times.append((milliseconds, options))
            break  # without a CUDA graph it is not faster
    if not times:
        raise UserError(f"the CUDA provider cannot run it: {tried[0]['refused']}")
    return Choice(min(times, key=lambda entry: entry[0])[1], tried)


def _timed(engine: Engine) -> tuple[Array, float]:
    """Label maps of a test image, and the median milliseconds of a run. Closes the engine."""
    try:
        image = pattern((engine.batches[1], *engine.input_size, 3))
        for _ in range(WARM_UP):
            labels = engine.run(image)
        times = []
        for _ in range(RUNS):
            start = time.perf_counter()
            labels = engine.run(image)
            times.append(1e3 * (time.perf_counter() - start))
        return labels, median(times)
    finally:
        engine.close()


def pattern(shape: tuple[int, ...]) -> Array:
    """Frames (N, H, W, 3) uint8 with large blocks of colour and some noise, the same at every call."""
    rng = np.random.default_rng(0)
    count, height, width, channels = shape
    blocks = rng.integers(0, 256, (count, 8, 8, channels))
    rows, columns = (np.arange(size) * 8 // size for size in (height, width))
    noisy = blocks[:, rows][:, :, columns] + rng.normal(0, 8, shape)
    return np.asarray(noisy.clip(0, 255).astype(np.uint8))
