"""Adaptive average pooling as two matrix products: exact for every size, and four ONNX nodes instead of thousands.

torch.onnx exports AdaptiveAvgPool2d to one AveragePool if the number of bins divides the feature map, else to slices
for every bin (2,562 nodes for PSPNet at 512x1024, stride 8). Bin i averages rows floor(i*H/b) .. ceil((i+1)*H/b) - 1,
which is a linear map.

During export, smp's PSPBlock calls ``interpolate(mode="area")``, which is adaptive pooling too, instead of its pooling
layer, so the block is replaced as well.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.decoders.pspnet.decoder import PSPBlock
from torch import Tensor, nn


def pooling_matrix(size: int, bins: int) -> Tensor:
    """(bins, size) weights: row i averages the cells of bin i, as torch's adaptive pooling does."""
    rows = [[0.0] * size for _ in range(bins)]
    for i in range(bins):
        start, end = i * size // bins, math.ceil((i + 1) * size / bins)
        rows[i][start:end] = [1.0 / (end - start)] * (end - start)
    return torch.tensor(rows, dtype=torch.float64)


class MatrixAvgPool2d(nn.Module):
    """Drop-in for ``nn.AdaptiveAvgPool2d(bins)``: (N, C, H, W) -> (N, C, bins, bins)."""

    def __init__(self, bins: tuple[int, int]) -> None:
        super().__init__()
        self.bins = bins

    def forward(self, x: Tensor) -> Tensor:
        rows = pooling_matrix(x.shape[-2], self.bins[0]).to(x)
        columns = pooling_matrix(x.shape[-1], self.bins[1]).to(x)
        return torch.matmul(torch.matmul(rows, x), columns.t())


class PooledBlock(nn.Module):
    """smp's PSPBlock: pool, convolve, and back to the size of the input; the same layers in training and in export."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.pool(x), size=x.shape[-2:], mode="bilinear", align_corners=True)


def replace_adaptive_pooling(module: nn.Module) -> None:
    """Replace, in place, every AdaptiveAvgPool2d with more than one bin (with one bin it exports to ReduceMean)."""
    for name, child in module.named_children():
        if isinstance(child, nn.AdaptiveAvgPool2d):
            size: Any = child.output_size  # an int or a pair; None in a pair keeps the size of that side
            rows, columns = (size, size) if isinstance(size, int) else size
            if rows is not None and columns is not None and (rows, columns) != (1, 1):
                setattr(module, name, MatrixAvgPool2d((rows, columns)))
            continue
        replace_adaptive_pooling(child)
        if isinstance(child, PSPBlock):
            setattr(module, name, PooledBlock(child.pool))
