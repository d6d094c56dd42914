from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.video import engines
from pipeline.video.segmenter import Segmenter
from pipeline.video.smoothing import Smoother
from tests.video.fakes import BrightnessEngine, quarters


@pytest.fixture
def segmenter(engine: BrightnessEngine, labels: LabelSpec, monkeypatch: pytest.MonkeyPatch) -> Segmenter:
    meta = {"runtime": "onnxruntime", "runtime_options": {"threads": 2}}
    monkeypatch.setattr(
        engines, "open_engine", lambda path, options=None: (engine, SimpleNamespace(labels=labels, meta=meta))
    )
    return Segmenter("engine", region="0%,0%,50%,100%")


def test_frames_and_masks(segmenter: Segmenter, engine: BrightnessEngine) -> None:
    given = [quarters(index) for index in range(20)]
    with segmenter:
        for index, (frame, mask) in enumerate(segmenter.stream(given, copy=False)):
            assert frame is given[index]
            assert np.array_equal(
                mask[:, :32], np.roll(np.repeat([0, 1, 2, 3], 16), 16 * index)[None, :32].repeat(48, 0)
            )
            assert (mask[:, 32:] == 255).all()
    assert index == 19
    assert engine.closed


def test_leaving_early_ends_the_iteration(segmenter: Segmenter) -> None:
    read: list[int] = []

    def frames() -> Iterator[Any]:
        for index in range(100_000):
            read.append(index)
            yield quarters(index)

    before = threading.active_count()
    for _ in segmenter.stream(frames()):
        break
    assert len(read) < 100
    assert threading.active_count() == before
    assert [mask.shape for _, mask in segmenter.stream([quarters()])] == [(48, 64)], "and it can continue"


def test_leaving_while_no_frame_comes(segmenter: Segmenter) -> None:
    wake = threading.Event()

    def frames() -> Iterator[Any]:
        yield quarters()
        wake.wait(30)

    start = time.perf_counter()
    for _ in segmenter.stream(frames()):
        break
    assert time.perf_counter() - start < 5
    wake.set()


def test_every_stream_is_smoothed_from_its_start(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    smoother = Smoother()
    resets: list[int] = []
    monkeypatch.setattr(smoother, "reset", lambda: resets.append(1))
    monkeypatch.setattr(segmenter, "_smoother", smoother)
    for _ in range(2):
        assert len(list(segmenter.stream([quarters()] * 3))) == 3
    assert len(resets) == 2


def test_errors_come_to_the_caller(segmenter: Segmenter) -> None:
    def frames() -> Iterator[Any]:
        yield quarters()
        raise OSError("the camera was pulled out")

    seen = []
    with pytest.raises(OSError, match="the camera was pulled out"):
        seen += list(segmenter.stream(frames()))
    with pytest.raises(
        UserError, match=r"frame 1: got \(48, 64\) uint8; needed: a numpy array \(H, W, 3\), BGR, uint8"
    ):
        list(segmenter.stream([quarters(), quarters()[..., 0]]))
    with pytest.raises(UserError, match=r"frame 0: got \(0, 64, 3\) uint8; needed"):
        segmenter.mask(quarters()[:0])
    with pytest.raises(UserError, match=r"frame 0: got list"):
        segmenter.mask([1, 2])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("on_gpu", "built_with", "arguments", "opened"),
    [
        (False, {"threads": 4}, {}, (4, {"threads": 1})),
        (False, {"threads": 4}, {"live": True}, (1, None)),
        (False, {"threads": 4}, {"contexts": 2}, (2, {"threads": 2})),
        (False, {"threads": 1}, {"threads": 2}, (2, {"threads": 1})),
        (False, {}, {}, (1, None)),
        (True, {"threads": 4}, {}, (2, None)),
        (True, {}, {}, (2, None)),
        (True, {}, {"live": True}, (1, None)),
        (True, {}, {"contexts": 3}, (3, None)),
    ],
)
def test_how_many_contexts(
    on_gpu: bool,
    built_with: dict[str, Any],
    arguments: dict[str, Any],
    opened: tuple[int, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For any runtime: only ``on_gpu`` of the engine counts."""
    seen: list[Any] = []

    def open_engine(path: Path, options: Any = None) -> Any:
        seen.append(options)
        engine = BrightnessEngine()
        engine.on_gpu = on_gpu
        return engine, SimpleNamespace(meta={"runtime": "any", "runtime_options": built_with})

    monkeypatch.setattr(engines, "open_engine", open_engine)
    opened_engines, _ = engines.open_engines(Path("engine"), **arguments)
    assert (len(opened_engines), seen[-1]) == opened


def test_more_contexts_than_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    meta = {"runtime": "onnxruntime", "runtime_options": {"threads": 2}}
    engine = BrightnessEngine()
    monkeypatch.setattr(engines, "open_engine", lambda path, options=None: (engine, SimpleNamespace(meta=meta)))
    with pytest.raises(UserError, match="3 contexts share 2 threads; allowed: one context per thread; raise --threads"):
        engines.open_engines(Path("engine"), contexts=3)
    assert engine.closed


@pytest.mark.parametrize("ring", [1, 3])
def test_a_producer_may_use_its_buffers_again(segmenter: Segmenter, engine: BrightnessEngine, ring: int) -> None:
    engine.delay = lambda call: 0.002
    buffers = [np.zeros((48, 64, 3), np.uint8) for _ in range(ring)]

    def frames() -> Iterator[Any]:
        for index in range(40):
            buffers[index % ring][:] = quarters(index)
            yield buffers[index % ring]
            buffers[index % ring][:] = 255  # a later reader would see this

    kept = list(segmenter.stream(frames()))
    assert len(kept) == 40
    for index, (frame, mask) in enumerate(kept):
        assert np.array_equal(frame, quarters(index))
        assert np.array_equal(mask[0, :32:16], np.roll([0, 1, 2, 3], index)[:2])


def test_views_are_copied_as_they_are_seen(segmenter: Segmenter) -> None:
    large = np.zeros((96, 64, 3), np.uint8)
    large[::2] = quarters(1)
    ((frame, _),) = segmenter.stream([large[::2]])
    assert np.array_equal(frame, quarters(1))
    assert frame.flags.writeable


def test_memory_of_copies_is_used_again(segmenter: Segmenter) -> None:
    places = {frame.ctypes.data for frame, _ in segmenter.stream(quarters(index) for index in range(300))}
    assert len(places) < 100
