"""One seed for everything random in a run, and kernels that give the same bits in every run."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import numpy as np
import torch

from pipeline.settings.param_types import Determinism

#: Measured on an H200: a step of DeepLabV3+ (EfficientNet-Lite2) with AdamW, 16 crops of 368x480.
STRICT_ON_A_GPU = (
    "determinism: strict: with deterministic kernels a step took 2.9 times as long where it was measured (95.6 instead "
    "of 33.5 ms), and cross-entropy on CUDA has none, so two runs can still differ by rounding; determinism: auto "
    "trains faster"
)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, and choose kernels by ``determinism: auto``; a training run chooses its own."""
    _seed(seed)
    choose_kernels("auto", device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def choose_kernels(determinism: Determinism, *, device: torch.device, say: Callable[[str], None] | None = None) -> None:
    """Choose for this process between kernels that give the same bits in every run and the fastest ones.

    Args:
        determinism: ``strict``: deterministic kernels where torch has them, and torch's warning where it has none;
            ``off``: the fastest kernels, and cuDNN measures which they are; ``auto``: strict on a CPU, where it costs
            little, off on a GPU.
        device: that computes.
        say: receives a sentence about what ``strict`` costs on a GPU.
    """
    strict = determinism == "strict" or (determinism == "auto" and device.type == "cpu")
    if strict:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS has no deterministic kernels
    torch.use_deterministic_algorithms(strict, warn_only=True)
    # In strict mode torch fills every new tensor with NaN. This takes time, and only shows reads of unwritten memory.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not strict
    if strict and device.type != "cpu" and say is not None:
        say(STRICT_ON_A_GPU)


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
