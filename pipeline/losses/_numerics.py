"""Norms, distances and divergences whose values and gradients are finite where those of the plain formula are not."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision to float32; float32 and float64 stay unchanged."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def unit(x: Tensor, *, dim: int = 1, eps: float = 1e-6) -> Tensor:
    """x / ||x||_2 along a dimension; vectors shorter than ``eps`` become zero, with zero gradient.

    Embeddings are outputs of a ReLU, so whole vectors are sometimes zero, and ``F.normalize`` multiplies their gradient
    by 1e12.

    Example:
        >>> unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    squared = x.square().sum(dim=dim, keepdim=True)
    alive = squared > eps**2
    return torch.where(alive, x, 0) * torch.where(alive, squared, 1).rsqrt()


def distance(a: Tensor, b: Tensor, *, dim: int = -1) -> Tensor:
    """||a - b||_2 along a dimension, with broadcasting; where a equals b the gradient is zero, not NaN.

    Example:
        >>> distance(torch.tensor([0.0, 3.0]), torch.tensor([4.0, 0.0]))
        tensor(5.)
    """
    squared = (a - b).square().sum(dim=dim)
    apart = squared > 0
    return torch.where(apart, torch.where(apart, squared, 1).sqrt(), 0)


def kl_rows(student: Tensor, teacher: Tensor, *, dim: int, temperature: float = 1.0) -> Tensor:
    """KL(softmax(teacher / T) || softmax(student / T)) along a dimension, which is removed. No factor of T^2."""
    log_s = F.log_softmax(student / temperature, dim=dim)
    log_t = F.log_softmax(teacher / temperature, dim=dim)
    return (log_t.exp() * (log_t - log_s)).sum(dim=dim)
