"""Which options of the CUDA provider are the fastest, with engines of given times."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.runtimes import Engine
from pipeline.runtimes._onnxruntime import cuda
from pipeline.runtimes._onnxruntime.cuda import GRAPH, LAYOUTS, fastest

NHWC = LAYOUTS[1]


class Timed(Engine):
    """An engine whose run takes a given time on a clock of its own."""

    input_size, output_size = (8, 8), (8, 8)

    def __init__(self, clock: list[float], milliseconds: float, label: int) -> None:
        self.clock, self.milliseconds, self.label = clock, milliseconds, label

    def run(self, frames: Array) -> Array:
        self.clock[0] += 1e-3 * self.milliseconds
        return np.full((1, 8, 8), self.label, np.uint8)


def choose(monkeypatch: pytest.MonkeyPatch, times: Mapping[str, float | str], *, odd: str = "") -> cuda.Choice:
    """The choice among engines with given milliseconds; a text is an error of opening. ``odd`` gives other labels."""
    clock = [0.0]
    monkeypatch.setattr(cuda.time, "perf_counter", lambda: clock[0])

    def open_engine(options: Mapping[str, str]) -> Engine:
        title = " ".join(sorted(options)) or "plain"
        time = times.get(title, "no such option")
        if isinstance(time, str):
            raise RuntimeError(time)
        return Timed(clock, time, label=1 if title == odd else 0)

    return fastest(open_engine)


def test_the_fastest_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {
        "enable_cuda_graph": 3.0,
        "enable_cuda_graph prefer_nhwc": 2.0,
        "enable_cuda_graph fuse_conv_bias prefer_nhwc": 2.5,
    }
    choice = choose(monkeypatch, times)
    assert choice.options == {**NHWC, **GRAPH}
    assert [attempt["p50_ms"] for attempt in choice.tried] == [3.0, 2.0, 2.5]


def test_without_a_cuda_graph_where_it_cannot_be_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = choose(monkeypatch, {"enable_cuda_graph": "not\n captured", "plain": 3.0, "prefer_nhwc": 4.0})
    assert choice.options == {}
    assert choice.tried[0] == {"options": GRAPH, "refused": "not captured"}
    assert choice.tried[1] == {"options": {}, "p50_ms": 3.0}


def test_a_layout_with_other_labels_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"plain": 3.0, "enable_cuda_graph prefer_nhwc": 1.0, "prefer_nhwc": 2.0}
    choice = choose(monkeypatch, times, odd="enable_cuda_graph prefer_nhwc")
    assert choice.options == NHWC
    refusals = [attempt["refused"] for attempt in choice.tried if attempt["options"] == {**NHWC, **GRAPH}]
    assert refusals == ["its labels agree with those of the first layout on 0.0% of pixels only"]


def test_a_graph_that_never_runs_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="the CUDA provider cannot run it: out of memory"):
        choose(monkeypatch, {"enable_cuda_graph": "out of memory"})
