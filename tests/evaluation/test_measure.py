"""The sequence of every check: order and number of runs, and the results."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.evaluation import environment
from pipeline.evaluation.measure import Timing, Variant, measure
from pipeline.frames import Array
from pipeline.labels import LabelSpec
from pipeline.runtimes import Engine

SECTION = {"warmup": 2, "runs": 36, "seconds": 0.0, "unstable_cov": 9.0, "unstable_drift": 9.0, "samples": 4}
LABELS = LabelSpec(names=("dark", "bright"), palette=((0, 0, 0), (255, 255, 255)))


class Counting(Engine):
    """Returns the brightness of the frame as labels, wrong in the first columns; records its runs."""

    input_size = (4, 8)
    output_size = (4, 8)

    def __init__(self, name: str, events: list[str], *, wrong: int = 0) -> None:
        self.name, self.events, self.wrong = name, events, wrong

    def run(self, frames: Array) -> Array:
        self.events.append(self.name)
        labels = (frames[..., 0] > 100).astype(np.uint8)
        labels[:, :, : self.wrong] ^= 1
        return labels


class Frames:
    """Six frames, left half dark and right half bright, with labels that agree or are ignored."""

    names = tuple("abcdef")

    def __init__(self, ignored: bool) -> None:
        self.labels = np.full((4, 8), 255, np.uint8) if ignored else np.repeat([[0] * 4 + [1] * 4], 4, 0).astype("u1")

    def __len__(self) -> int:
        return len(self.names)

    def frame(self, index: int) -> Array:
        return np.repeat(np.repeat([[0] * 4 + [200] * 4], 4, 0)[..., None], 3, 2).astype(np.uint8)

    def __getitem__(self, index: int) -> tuple[Array, Array]:
        return self.frame(index), self.labels


def run(
    events: list[str], *, ignored: bool = False, budgets: Any = None, size: int = 8, **changes: Any
) -> tuple[dict[str, Any], Any]:
    variants = {
        name: Variant(Counting(name, events, wrong=wrong), {"size_bytes": size, "sha256": name, "runtime": "none"})
        for name, wrong in (("torch", 0), ("fp32", 0), ("int8", 1))
    }
    frames = Frames(ignored)
    place = Path("dataset")
    prepared: Any = SimpleNamespace(
        split=lambda name: frames, labels=LABELS, name="halves", artifact=SimpleNamespace(path=place)
    )
    meta = {"runtime": "onnxruntime", "runtime_options": {"threads": 1}, "input_size": [4, 8], "parents": {}}
    return measure(
        variants, engine=Artifact(path=place, meta={**meta, "source": "int8_arm.onnx"}), int8=None, prepared=prepared,
        dataset_sha256="0", split="val", about={"student": "small"}, device={}, teacher=None, budgets=budgets or {},
        timing=Timing.of(SECTION), **changes,
    )  # fmt: skip


def test_accuracy_first_then_conditions_around_the_timing_and_torch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(environment, "conditions", lambda: events.append("conditions") or {"load": len(events)})
    results, predictions = run(events, keep=["b"])
    before, after = (place for place, event in enumerate(events) if event == "conditions")
    timed = events[before + 1 : after]
    assert events[:before] == ["torch"] * 6 + ["fp32"] * 6 + ["int8"] * 6
    assert not events[after + 1 :], "without an INT8 artifact there is no comparison with exact arithmetic"
    assert timed.count("fp32") == timed.count("int8") == 2 + 36 and timed.count("torch") == 2 + 12
    assert timed[-14:] == ["torch"] * 14
    assert results["conditions"] == [{"load": before + 1}, {"load": after + 1}]
    # 4 of 16 dark pixels are predicted as bright: IoU 12 / 16 and 16 / 20, over all six frames
    assert results["variants"]["int8"]["per_class_iou"] == [75.0, 80.0] and results["variants"]["int8"]["miou"] == 77.5
    assert results["variants"]["torch"]["miou"] == 100.0 and results["drop"]["miou_int8_vs_float"] == 22.5
    choice = results["fastest"]
    assert choice["variant"] in ("fp32", "int8") and len(choice["others"]) == 1 and choice["runtime"] == "none"
    assert results["images"] == 6 and results["int8_exact_agreement"] is None
    assert {name: variant["latency_ms"]["n"] for name, variant in results["variants"].items()} == {
        "torch": 12, "fp32": 36, "int8": 36,
    }  # fmt: skip
    assert {name: list(maps) for name, maps in predictions.items()} == {"torch": ["b"], "fp32": ["b"], "int8": ["b"]}
    assert predictions["int8"]["b"][0].tolist() == [1, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("limits", "variant", "reason"),
    [
        ({"miou_drop": 22.0}, "fp32", "INT8 loses 22.50 mIoU against float; the budget allows 22"),
        ({"class_drop": 22.0}, "fp32", "class dark loses 25.00 IoU in INT8; the budget allows 22"),
        ({"size_mb": 10.0}, None, "the INT8 engine has 15 MB; the budget allows 10"),
        ({"latency_p99_ms": 1e-9}, None, "INT8 takes "),
        ({"min_speedup": 1e9}, "fp32", "the budget requires 1e+09x"),
    ],
)
def test_the_fastest_variant_keeps_every_budget(limits: dict[str, float], variant: str | None, reason: str) -> None:
    results, _ = run([], budgets=limits, size=15_000_000)
    choice = results["fastest"]
    assert choice["variant"] == variant and reason in choice["others"][-1]["what"]
    assert results["passed"] is False, "the verdict is about INT8"


def test_every_result_is_reported_once() -> None:
    lines: list[str] = []
    frames: list[tuple[str, int]] = []
    run([], say=lines.append, progress=lambda title, total: frames.append((title, total)))
    assert lines[:3] == ["torch: mIoU 100.00", "fp32: mIoU 100.00", "int8: mIoU 77.50"]
    assert [line.split(":")[0] for line in lines[3:]] == ["fp32", "int8", "torch"] and "p50" in lines[3]
    assert frames == [(f"small {name}", 6) for name in ("torch", "fp32", "int8") for _ in range(6)]


def test_frames_without_labels_are_refused_before_anything_is_timed() -> None:
    events: list[str] = []
    with pytest.raises(UserError, match="dataset: no pixel of split 'val' is labelled with dark, bright; choose"):
        run(events, ignored=True)
    assert events == ["torch"] * 6
