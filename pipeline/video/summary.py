"""The summary of a run: times of each step, lengths of queues, and the share of every class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import EXIT_DAMAGED
from pipeline.video.workers.flow import Queue
from pipeline.video.workers.meter import StepTime

_LARGEST = 3  # classes that the text names for a zone


@dataclass(frozen=True)
class Depth:
    """Number of frames that waited in a queue: the mean when another one came, and the maximum."""

    mean: float
    most: int

    @classmethod
    def of(cls, queue: Queue[Any]) -> Depth:
        return cls(mean=queue.mean_depth, most=queue.deepest)


@dataclass(frozen=True)
class Summary:
    """Result of :func:`pipeline.video.loop.segment`.

    Attributes:
        frames: number of segmented frames.
        seconds: wall time from the first read to the last write, without the warm-up of the engine.
        steps: read, resize, infer, draw, write (of each sink), and age: from a frame's arrival until it is written.
        shares: share of all pixels by class name, 0..1, at label-map size; every class is listed.
        other: share of pixels of ignored or unknown ids.
        zones: ``shares`` and ``other`` of the pixels of each zone, by its name.
        depths: by the queue's name.
        dropped: frames of a live source that were dropped.
        interrupted: whether Ctrl-C ended the run before its source ended.
        damage: the part of the source that could not be read; empty if there is none.
        confidence: mean of the pixels of each class that occurred, 0..1, by its name; empty without confidence.
        mean_confidence: of all pixels, 0..1; None without confidence.
    """

    frames: int
    seconds: float
    steps: Mapping[str, StepTime]
    shares: Mapping[str, float]
    other: float
    zones: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    depths: Mapping[str, Depth] = field(default_factory=dict)
    dropped: int = 0
    interrupted: bool = False
    damage: str = ""
    confidence: Mapping[str, float] = field(default_factory=dict)
    mean_confidence: float | None = None

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
            "waiting": {
                name: {"mean": round(depth.mean, 2), "most": depth.most} for name, depth in self.depths.items()
            },
            "dropped": self.dropped,
            "interrupted": self.interrupted,
            "damage": self.damage or None,
            "class_shares": {name: round(share, 6) for name, share in self.shares.items()},
            "other_share": round(self.other, 6),
            **self._confidence_meta(),
            **({"zones": dict(self.zones)} if self.zones else {}),
        }

    def _confidence_meta(self) -> dict[str, Any]:
        if self.mean_confidence is None:
            return {}
        means = {name: round(mean, 4) for name, mean in self.confidence.items()}
        return {"confidence": means, "mean_confidence": round(self.mean_confidence, 4)}

    def describe(self, *, verbose: bool = False) -> str:
        """The summary as text: classes by falling share, and the number of classes that do not occur.

        Args:
            verbose: also show the lengths of queues.
        """
        dropped = f", {self.dropped} dropped" if self.dropped else ""
        stopped = " (interrupted)" if self.interrupted else ""
        lines = [f"{self.frames} frames in {self.seconds:.1f} s: {self.fps:.1f} fps{dropped}{stopped}"]
        lines += [f"the source is damaged: {self.damage}; exit status {EXIT_DAMAGED}"] if self.damage else []
        lines.append("")
        lines.append(f"{'step':<8}{'p50 ms':>9}{'p99 ms':>9}")
        lines += [f"{name:<8}{step.p50_ms:>9.2f}{step.p99_ms:>9.2f}" for name, step in self.steps.items()]
        if verbose:
            lines += ["", f"{'waiting':<8}{'mean':>9}{'most':>9}"]
            lines += [f"{name:<8}{depth.mean:>9.2f}{depth.most:>9}" for name, depth in self.depths.items()]
        occurring = [(share, name) for name, share in self.shares.items() if share > 0]
        occurring.sort(key=lambda entry: (-entry[0], entry[1]))
        if self.other > 0:
            occurring.append((self.other, "(ignored)"))
        width = max([len(name) for _, name in occurring] + [len("class")])
        sure = {name: f"{100 * mean:10.1f} %" for name, mean in self.confidence.items()}
        lines += ["", f"{'class':<{width}}   pixels{'  confidence' if sure else ''}"]
        lines += [f"{name:<{width}}  {100 * share:6.2f} %{sure.get(name, '')}" for share, name in occurring]
        if self.mean_confidence is not None:
            lines.append(f"mean confidence: {100 * self.mean_confidence:.1f} %")
        absent = sum(share == 0 for share in self.shares.values())
        if absent:
            lines.append(f"{absent} of {len(self.shares)} classes do not occur")
        for name, zone in self.zones.items():
            largest = sorted(zone["shares"].items(), key=lambda item: (-item[1], item[0]))[:_LARGEST]
            classes = ", ".join(f"{label} {100 * share:.2f} %" for label, share in largest if share > 0)
            lines.append(f"zone {name}: {classes or 'no class'}")
        return "\n".join(lines)
