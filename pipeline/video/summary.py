"""What a run over a source showed: speed by step and share of every class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class StepTime:
    """Milliseconds of one step of the loop, per frame."""

    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> StepTime:
        p50, p99 = np.percentile(np.asarray(seconds, np.float64) * 1e3, [50, 99])
        return cls(p50_ms=float(p50), p99_ms=float(p99))


@dataclass(frozen=True)
class Summary:
    """Result of :func:`pipeline.video.loop.segment`.

    Attributes:
        frames: how many were segmented.
        seconds: wall time from the first read to the last write, the engine's warm-up left out.
        steps: read, resize, infer, draw, write; in this order.
        shares: share of all pixels by class name, 0..1, at label-map size; every class is listed.
        other: share of pixels of ignored or unknown ids.
    """

    frames: int
    seconds: float
    steps: Mapping[str, StepTime]
    shares: Mapping[str, float]
    other: float

    @property
    def fps(self) -> float:
        return self.frames / self.seconds if self.seconds > 0 else 0.0

    def to_meta(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "frames": self.frames,
            "seconds": round(self.seconds, 3),
            "fps": round(self.fps, 2),
            "steps_ms": {
                name: {"p50": round(step.p50_ms, 3), "p99": round(step.p99_ms, 3)} for name, step in self.steps.items()
            },
            "class_shares": {name: round(share, 6) for name, share in self.shares.items()},
            "other_share": round(self.other, 6),
        }

    def describe(self) -> str:
        """The summary as a person reads it: classes by falling share, those that do not occur counted."""
        lines = [f"{self.frames} frames in {self.seconds:.1f} s: {self.fps:.1f} fps", ""]
        lines.append(f"{'step':<8}{'p50 ms':>9}{'p99 ms':>9}")
        lines += [f"{name:<8}{step.p50_ms:>9.2f}{step.p99_ms:>9.2f}" for name, step in self.steps.items()]
        found = sorted(((share, name) for name, share in self.shares.items() if share > 0), key=lambda x: (-x[0], x[1]))
        if self.other > 0:
            found.append((self.other, "(ignored)"))
        width = max([len(name) for _, name in found] + [len("class")])
        lines += ["", f"{'class':<{width}}   pixels"]
        lines += [f"{name:<{width}}  {100 * share:6.2f} %" for share, name in found]
        absent = sum(share == 0 for share in self.shares.values())
        if absent:
            lines.append(f"{absent} of {len(self.shares)} classes do not occur")
        return "\n".join(lines)
