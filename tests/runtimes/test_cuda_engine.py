"""How a CUDA engine of ONNX Runtime runs, with imitations of CUDA and sessions on the CPU."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import artifact, runtimes
from pipeline.errors import UserError
from pipeline.runtimes import Engine
from pipeline.runtimes._base import CLOSED
from pipeline.runtimes._onnxruntime import engine as engines
from pipeline.runtimes._onnxruntime.cuda import GRAPH, pattern
from pipeline.runtimes._onnxruntime.engine import CudaEngine, Gate, OnnxRuntimeEngine
from pipeline.runtimes.onnxruntime import CUDA_OPTIONS
from tests.runtimes.fake_cuda import HostCuda
from tests.runtimes.fake_onnxruntime import CHOSEN


@pytest.fixture
def opened(session: Any, small_files: Path) -> CudaEngine:
    engine = runtimes.build("onnxruntime", CHOSEN).load(small_files / "fp32.onnx")
    assert isinstance(engine, CudaEngine)
    return engine


def load(source: Path, folder: Path, options: Mapping[str, str]) -> Engine:
    """Load an engine with options of the CUDA provider beside its file."""
    shutil.copy(source, folder / "engine.onnx")
    artifact.write_text(folder / CUDA_OPTIONS, artifact.dump_json(options))
    return runtimes.build("onnxruntime", CHOSEN).load(folder / "engine.onnx")


def test_a_run_copies_once_each_way_through_page_locked_memory(
    opened: CudaEngine, cuda: HostCuda, small_files: Path, plain_run: Callable[..., Any]
) -> None:
    cuda.copies.clear()
    waits = cuda.calls["cudaStreamSynchronize"]
    frames = pattern((1, 16, 16, 3))
    labels = opened.run(frames)
    assert cuda.copies == [(1, frames.size), (2, labels.size)]  # upload, download; HostCuda checks that they are pinned
    assert cuda.calls["cudaStreamSynchronize"] == waits + 1
    assert (labels == plain_run(small_files / "fp32.onnx", frames)).mean() > 0.99
    assert opened.device_ms == 0.0  # the imitation of CUDA has no time of its own


def test_confidence_is_copied_only_where_it_is_asked_for(session: Any, cuda: HostCuda, confident_file: Path) -> None:
    engine = runtimes.build("onnxruntime", CHOSEN).load(confident_file)
    frames = pattern((1, 8, 16, 3))
    cuda.copies.clear()
    labels, confidence = engine.run_with_confidence(frames)
    assert [direction for direction, _ in cuda.copies] == [1, 2, 2]
    assert np.array_equal(confidence, frames.max(3)) and np.array_equal(labels, frames.argmax(3))
    engine.run(frames)
    assert [direction for direction, _ in cuda.copies] == [1, 2, 2, 1, 2]


def test_each_engine_has_a_session_and_a_stream_of_its_own(opened: CudaEngine, session: Any, cuda: HostCuda) -> None:
    other = opened.another()
    streams = [given["user_compute_stream"] for given in session.cuda_requests]
    assert len(set(streams)) == 2 and other.session is not opened.session
    frames = [np.roll(pattern((1, 16, 16, 3)), shift, axis=1) for shift in range(8)]
    wanted = [opened.run(frame) for frame in frames]
    wrong: list[int] = []

    def work(engine: CudaEngine) -> None:
        wrong.extend(n for n in range(40) if not np.array_equal(engine.run(frames[n % 8]), wanted[n % 8]))

    threads = [threading.Thread(target=work, args=(engine,)) for engine in (opened, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    opened.close()
    assert np.array_equal(other.run(frames[1]), wanted[1])
    with pytest.raises(UserError, match=CLOSED):
        opened.another()
    other.close()
    assert cuda.held == 0


@pytest.mark.parametrize("options", [{}, GRAPH])
def test_an_engine_with_a_cuda_graph_computes_in_one_thread(
    session: Any, cuda: HostCuda, small_files: Path, tmp_path: Path, options: dict[str, str]
) -> None:
    """ONNX Runtime keeps a captured graph for the thread that captured it."""
    engine = load(small_files / "fp32.onnx", tmp_path, options)
    frames = pattern((1, 16, 16, 3))
    results = [engine.run(frames)]
    threads = [threading.Thread(target=lambda: results.append(engine.run(frames))) for _ in range(3)]
    for thread in threads:
        thread.start()
        thread.join(60)
    assert len(results) == 4 and all(np.array_equal(result, results[0]) for result in results)
    assert len(session.threads) == 5  # the first run is that of the opening
    ran_here = session.threads.count(threading.current_thread().name)
    assert (len(set(session.threads)), ran_here) == ((1, 0) if options else (4, 2))
    engine.close()
    engine.close()
    with pytest.raises(UserError, match=CLOSED):
        engine.run(frames)
    assert cuda.held == 0


def test_no_run_overlaps_a_capture() -> None:
    gate, order = Gate(), list[str]()
    running, finish = threading.Event(), threading.Event()

    def run() -> None:
        with gate.run():
            running.set()
            finish.wait(60)
            order.append("run")

    def capture() -> None:
        with gate.capture():
            order.append("capture")

    first = threading.Thread(target=run)
    first.start()
    assert running.wait(60)
    with gate.run():
        order.append("another run")  # runs do not wait for each other
    second = threading.Thread(target=capture)
    second.start()
    second.join(0.05)
    assert second.is_alive()
    finish.set()
    first.join(60)
    second.join(60)
    assert order == ["another run", "run", "capture"]


@pytest.mark.parametrize(
    ("call", "number"),
    [
        ("cudaStreamCreateWithFlags", 1),
        ("cudaEventCreate", 2),
        ("cudaMalloc", 1),
        ("cudaMalloc", 2),
        ("cudaHostAlloc", 1),
        ("cudaHostAlloc", 2),
        ("cudaMemcpyAsync", 1),
        ("cudaEventElapsedTime", 1),
    ],
)
def test_after_an_error_nothing_stays_allocated(
    session: Any, cuda: HostCuda, small_files: Path, call: str, number: int
) -> None:
    cuda.fails[call] = number
    with pytest.raises(UserError, match=r"CUDA: .* failed"):
        runtimes.build("onnxruntime", CHOSEN).load(small_files / "fp32.onnx")
    assert cuda.held == 0


@pytest.mark.parametrize("options", [{}, GRAPH])
def test_a_first_run_that_fails_is_an_error_and_leaves_nothing(
    session: Any, cuda: HostCuda, small_files: Path, tmp_path: Path, options: dict[str, str]
) -> None:
    """CUDA keeps the last error of a thread, and the next attempt in this thread would report it."""
    session.fails = "CUDA failure 2: out of memory"
    cuda.fails["cudaStreamSynchronize"] = 1
    with pytest.raises(UserError, match=r"ONNX Runtime .* cannot run it on this GPU: CUDA failure 2: out of memory"):
        load(small_files / "fp32.onnx", tmp_path, options)
    assert cuda.held == 0 and not cuda.errors


def test_closing_waits_for_a_capture(opened: CudaEngine, cuda: HostCuda) -> None:
    """Freeing memory would spoil it."""
    closing = threading.Thread(target=opened.close)
    with engines._GATE.capture():
        closing.start()
        closing.join(0.05)
        assert cuda.held > 0
    closing.join(60)
    assert cuda.held == 0


def test_what_is_no_deploy_graph_is_refused_and_freed(session: Any, cuda: HostCuda, student: Any) -> None:
    with pytest.raises(UserError, match="not a deploy graph"):
        runtimes.build("onnxruntime", CHOSEN).load(student.onnx.file("core.onnx"))
    assert cuda.held == 0


def test_frames_are_not_written(opened: CudaEngine) -> None:
    frames = pattern((1, 16, 16, 3))
    frames.flags.writeable = False
    first = opened.run(frames)
    kept = first.copy()
    opened.run(255 - frames)
    assert np.array_equal(first, kept)  # results are the caller's
    assert isinstance(opened, OnnxRuntimeEngine)
