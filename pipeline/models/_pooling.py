"""Adaptive average pooling as two matrix products: exact for every size, and four ONNX nodes instead of thousands.

torch.onnx exports AdaptiveAvgPool2d to one AveragePool when the bins divide the feature map, else to slices for every
bin (2,562 nodes for PSPNet at 512x1024, stride 8). Bin i averages rows floor(i*H/b) .. ceil((i+1)*H/b) - 1, which is a
linear map.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


def pooling_matrix(size: int, bins: int) -> Tensor:
    """(bins, size) weights: row i averages the cells of bin i, as torch's adaptive pooling defines it."""
    rows = torch.zeros(bins, size)
    for i in range(bins):
        start, end = i * size // bins, math.ceil((i + 1) * size / bins)
        rows[i, start:end] = 1.0 / (end - start)
    return rows


class MatrixAvgPool2d(nn.Module):
    """Drop-in for ``nn.AdaptiveAvgPool2d(bins)``: (N, C, H, W) -> (N, C, bins, bins)."""

    def __init__(self, bins: tuple[int, int]) -> None:
        super().__init__()
        self.bins = bins

    def forward(self, x: Tensor) -> Tensor:
        rows = pooling_matrix(x.shape[-2], self.bins[0]).to(x)
        columns = pooling_matrix(x.shape[-1], self.bins[1]).to(x)
        return torch.matmul(torch.matmul(rows, x), columns.t())


def replace_adaptive_pooling(module: nn.Module) -> None:
    """Swap, in place, every AdaptiveAvgPool2d of more than one bin (one bin exports to ReduceMean, which is fine)."""
    for name, child in module.named_children():
        if isinstance(child, nn.AdaptiveAvgPool2d):
            size: Any = child.output_size  # an int or a pair; None in a pair keeps that side as it is
            rows, columns = (size, size) if isinstance(size, int) else size
            if rows is not None and columns is not None and (rows, columns) != (1, 1):
                setattr(module, name, MatrixAvgPool2d((rows, columns)))
        else:
            replace_adaptive_pooling(child)
