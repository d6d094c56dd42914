"""What torch allocates on CUDA and not on a CPU: the rules by which a trace on a CPU counts the memory of a GPU.

They are torch's own (``F.interpolate``; ``AT_FORALL_FP32`` in autocast_mode.h; CUDACachingAllocator.cpp;
CublasHandlePool.cpp). Nothing here was run on a GPU; one measured peak was compared with the sum (test_memory.py).
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from pipeline.losses._numerics import at_least_float32

MIB = 2**20
#: Blocks are multiples of 512 bytes. One of 10 MiB or more gets a segment, a multiple of 2 MiB, for itself; up to 1 MiB
#: that it leaves of the segment is not split off, and counts as allocated.
UNIT, LARGE, SEGMENT, KEPT_REST = 512, 10 * MIB, 2 * MIB, MIB
#: Functions of networks that autocast computes in float32 on CUDA, and in bfloat16 or float16 on a CPU.
FLOAT32 = {
    F.interpolate, F.layer_norm, F.group_norm, F.softmax, F.log_softmax, torch.layer_norm, torch.group_norm,
    torch.softmax, torch.log_softmax, Tensor.softmax, Tensor.log_softmax,
}  # fmt: skip
#: Modes of upsampling that have no deterministic kernel on CUDA: torch composes them from indexing.
COMPOSED = ("bilinear", "trilinear")


def padding(size: int) -> int:
    """Bytes that the allocator adds to an allocation of ``size`` bytes."""
    block = -(-size // UNIT) * UNIT
    rest = -block % SEGMENT if block >= LARGE else 0
    return block - size + (rest if rest <= KEPT_REST else 0)


def cublas_workspace(device: torch.device) -> int:
    """Bytes that torch keeps for cuBLAS, for each thread that multiplies matrices (forward, and backward).

    ``CUBLAS_WORKSPACE_CONFIG`` (``:KiB:count``, repeated) decides; else 32 MiB on compute capability 9 or higher and on
    machines without a GPU, and 8.1 MiB on older GPUs.
    """
    sizes = re.findall(r":(\d+):(\d+)", os.environ.get("CUBLAS_WORKSPACE_CONFIG", ""))
    if not sizes:
        older = torch.cuda.is_available() and torch.cuda.get_device_capability(device)[0] < 9
        sizes = [("4096", "2"), ("16", "8")] if older else [("4096", "8")]
    return sum(1024 * int(size) * int(count) for size, count in sizes)


class CudaRules(TorchFunctionMode):
    """While this is active, functions on CPU tensors allocate what they do on CUDA.

    - Under autocast, the functions in ``FLOAT32`` convert their inputs to float32.
    - With deterministic algorithms, bilinear upsampling consists of four gathered copies of its result and their
      interpolation: up to seven times its result are allocated at the same time.

    Args:
        strict: whether torch's deterministic algorithms are on.
    """

    def __init__(self, *, strict: bool) -> None:
        super().__init__()
        self._strict = strict

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        mode = kwargs.get("mode") if func is F.interpolate else None
        if self._strict and mode in COMPOSED:
            return _composed(args[0], **kwargs)
        if func in FLOAT32 and mode != "area" and torch.is_autocast_enabled("cpu"):
            args, kwargs = tree_map_only(Tensor, at_least_float32, (args, kwargs))
        return func(*args, **kwargs)


def _composed(
    x: Tensor,
    *,
    size: int | Sequence[int] | None,
    scale_factor: float | Sequence[float] | None,
    align_corners: bool | None,
    **_: Any,
) -> Tensor:
    """What ``F.interpolate`` calls for these arguments where x is on CUDA and algorithms must be deterministic."""
    sides, scales = (
        value if value is None or isinstance(value, Sequence) else [value] * (x.dim() - 2)
        for value in (size, scale_factor)
    )
    decompositions = importlib.import_module("torch._decomp.decompositions")  # as torch does, when it is needed
    result: Tensor = decompositions._upsample_linear_vec(x, sides, bool(align_corners), scales)
    return result
