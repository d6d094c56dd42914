"""Rules of CUDA: blocks of its allocator, work space of cuBLAS, functions in float32, deterministic upsampling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.training.on_cuda import MIB, CudaRules, cublas_workspace, padding

SIZES = [(0, 0), (1, 511), (512, 0), (9 * MIB, 0), (10 * MIB, 0), (10 * MIB + 1, 511), (11 * MIB, MIB), (12 * MIB, 0)]


@pytest.mark.parametrize(("size", "beyond"), SIZES)
def test_blocks_are_as_large_as_the_allocator_makes_them(size: int, beyond: int) -> None:
    assert padding(size) == beyond


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and its driver; this machine has none")
@pytest.mark.parametrize("size", [size for size, _ in SIZES])
def test_blocks_are_as_large_on_a_gpu(size: int) -> None:
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    block = torch.empty(size, dtype=torch.uint8, device="cuda")
    assert torch.cuda.memory_allocated() - before == len(block) + padding(size)


def test_the_work_space_of_cublas_is_what_its_variable_says(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda")
    for value, expected in ((":4096:8", 32 * MIB), (":16:8", MIB // 8), (":4096:2:16:8", 8 * MIB + MIB // 8)):
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", value)
        assert cublas_workspace(device) == expected
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for capability, expected in (((8, 9), 8 * MIB + MIB // 8), ((9, 0), 32 * MIB), ((12, 0), 32 * MIB)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, value=capability: value)
        assert cublas_workspace(device) == expected


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.interpolate(x, size=(11, 9), mode="bilinear", align_corners=False),
        lambda x: F.interpolate(x, size=7, mode="bilinear", align_corners=True),
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
        lambda x: F.interpolate(x, scale_factor=(2.0, 3.0), mode="bilinear", align_corners=False),
        nn.UpsamplingBilinear2d(scale_factor=4),
        lambda x: F.interpolate(x, scale_factor=2, mode="nearest"),
    ],
)
def test_composed_upsampling_gives_what_the_kernel_gives(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    expected = function(x)
    with CudaRules(strict=True):
        result = function(x)
    torch.testing.assert_close(result, expected)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(*(torch.autograd.grad(y, x, upstream)[0] for y in (result, expected)))


@pytest.mark.parametrize(
    ("function", "dtype"),
    [
        (nn.LayerNorm(6), torch.float32),
        (nn.GroupNorm(2, 4), torch.float32),
        (lambda x: x.softmax(dim=-1), torch.float32),
        (lambda x: F.log_softmax(x, dim=1), torch.float32),
        (lambda x: F.interpolate(x, scale_factor=2), torch.float32),
        (lambda x: F.interpolate(x, size=(2, 2), mode="area"), torch.bfloat16),
        (nn.Conv2d(4, 4, 1), torch.bfloat16),
        (F.relu, torch.bfloat16),
    ],
)
def test_autocast_computes_in_the_precision_of_cuda(function: Any, dtype: torch.dtype) -> None:
    x = torch.ones(2, 4, 5, 6, dtype=torch.bfloat16)
    with CudaRules(strict=False), torch.autocast("cpu", torch.bfloat16):
        assert function(x).dtype == dtype
        with torch.autocast("cpu", enabled=False):
            assert F.softmax(x, dim=1).dtype == torch.bfloat16
