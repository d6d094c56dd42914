"""One seed for everything random in a run."""

from __future__ import annotations

import os
import random

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, and ask torch for deterministic kernels (it warns where there is none)."""
    _seed(seed)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS has no deterministic kernels
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False


def seed_step(seed: int, *, step: int, process: int) -> None:
    """Seed everything that a step may draw from (dropout, masks, samples of a memory).

    What a step draws depends on these three numbers alone, so a run that resumes at a step draws what it would have
    drawn, without random states in its checkpoints, and processes draw differently.
    """
    _seed(int(np.random.SeedSequence([seed, step, process]).generate_state(1)[0]))


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
