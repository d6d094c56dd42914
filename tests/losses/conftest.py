"""Small random networks' outputs in float64, with every fact that a run offers to a loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline import losses
from pipeline.losses import DistillationLoss
from pipeline.models import SegOutput
from pipeline.training.ledger import Ledger

#: Options that fit a loss to features of 4 x 4; every other loss runs with its defaults.
OPTIONS: dict[str, dict[str, Any]] = {
    "af_dcd": {"pool": 1, "groups": 2},
    "cirkd": {"pixel_queue": 8, "region_queue": 4, "pixels_per_class": 2, "pixel_samples": 6, "region_samples": 6},
}


class Bench:
    """N images of K classes; embeddings (N, C_S or C_T, H, W), two stages, labels (N, 2H, 2W)."""

    N, K, C_S, C_T, H, W = 2, 3, 4, 6, 4, 4
    IGNORE = 255
    TEACHER_STAGES = (3, 6)

    def output(self, channels: int, seed: int, *, size: tuple[int, int] = (4, 4), images: int = 2) -> SegOutput:
        generator = torch.Generator().manual_seed(seed)
        h, w = size

        def tensor(c: int, factor: int = 1) -> Tensor:
            return torch.randn(images, c, factor * h, factor * w, generator=generator, dtype=torch.float64)

        return SegOutput(
            logits=tensor(self.K), embedding=tensor(channels), stages=(tensor(channels // 2, 2), tensor(channels))
        )

    def student(self, seed: int = 1, **options: Any) -> SegOutput:
        return self.output(self.C_S, seed, **options)

    def teacher(self, seed: int = 2, **options: Any) -> SegOutput:
        return self.output(self.C_T, seed, **options)

    def labels(self, seed: int = 0, *, size: tuple[int, int] = (8, 8), images: int = 2) -> Tensor:
        """Every class and some ignored pixels."""
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(0, self.K + 1, (images, *size), generator=generator)
        return drawn.where(drawn < self.K, torch.tensor(self.IGNORE))

    def build(
        self, name: str, *, teacher_channels: int | None = None, seed: int = 0, **options: Any
    ) -> DistillationLoss:
        """A loss in float64 with weights from seed 0; ``teacher_channels`` = C_S gives it no adapter.

        Args:
            seed: of the run, which is offered to the loss.
        """
        torch.manual_seed(0)
        channels = teacher_channels or self.C_T
        offered = {
            "num_classes": self.K,
            "ignore_index": self.IGNORE,
            "student_channels": self.C_S,
            "teacher_channels": channels,
            "student_stage_channels": (self.C_S // 2, self.C_S),
            "teacher_stage_channels": (channels // 2, channels),
            "steps": 10,
            "seed": seed,
        }
        return losses.build(name, {**OPTIONS.get(name, {}), **options}, **offered).double()

    def peak_mib(self, name: str, *, classes: int, present: int, **options: Any) -> float:
        """Peak memory of forward and backward, in MiB, on two embeddings of 256 x 16 x 16, without adapters."""
        facts = {f"{role}_channels": 256 for role in ("student", "teacher")}
        loss = losses.build(name, options, num_classes=classes, ignore_index=self.IGNORE, **facts).eval()
        labels = (torch.arange(256) % present).view(1, 16, 16).repeat(2, 1, 1)
        ledger = Ledger()
        with ledger:
            student, teacher = (ledger.make(torch.zeros, (2, 256, 16, 16), requires_grad=True) for _ in range(2))
            outputs = (SegOutput(logits=x, embedding=x) for x in (student, teacher))
            torch.stack(list(loss(*outputs, labels).values())).sum().backward()
        return sum(ledger.peak.values()) / 2**20


@pytest.fixture
def bench() -> Bench:
    return Bench()
