"""ONNX Runtime on CUDA, with imitations of CUDA and sessions on the CPU: what is built, and how an engine runs."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from pipeline import artifact, runtimes
from pipeline.errors import UserError
from pipeline.evaluation.assembly import describe_engine
from pipeline.frames import Array
from pipeline.runtimes import Engine
from pipeline.runtimes._base import CLOSED
from pipeline.runtimes._onnxruntime import cuda as options_of_cuda
from pipeline.runtimes._onnxruntime import engine as engines
from pipeline.runtimes._onnxruntime.cuda import GRAPH, LAYOUTS, fastest, pattern
from pipeline.runtimes._onnxruntime.engine import CudaEngine, Gate, OnnxRuntimeEngine
from pipeline.runtimes.onnxruntime import CUDA_OPTIONS
from tests.runtimes.fake_cuda import HostCuda
from tests.runtimes.fake_onnxruntime import CUDA, CudaSession, install

CHOSEN = {"provider": "cuda", "threads": 1}
NHWC = LAYOUTS[1]


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> tuple[type[CudaSession], HostCuda]:
    monkeypatch.setattr(options_of_cuda, "WARM_UP", 1)
    monkeypatch.setattr(options_of_cuda, "RUNS", 3)
    return install(monkeypatch)


@pytest.fixture
def session(sessions: tuple[type[CudaSession], HostCuda]) -> type[CudaSession]:
    return sessions[0]


@pytest.fixture
def cuda(sessions: tuple[type[CudaSession], HostCuda]) -> HostCuda:
    return sessions[1]


# what is built


def test_the_fastest_options_lie_beside_the_engine(
    session: Any, cuda: HostCuda, student: Any, facts: Any, plain_run: Callable[..., Any], tmp_path: Path
) -> None:
    source = student.onnx.file("fp16.onnx")
    runtime = runtimes.build("onnxruntime", CHOSEN)
    out = tmp_path / "fp16"
    runtimes.build_engine(runtime, source, out, name="onnxruntime", options=CHOSEN, meta={**facts, "precision": "fp16"})
    built = artifact.load(out, kind="engine").meta
    assert (out / "engine.onnx").read_bytes() == source.read_bytes()
    assert set(built["files"]) == {"engine.onnx", CUDA_OPTIONS}
    described = describe_engine(artifact.load(out, kind="engine"))
    assert (described["sha256"], described["size_bytes"]) == (artifact.sha256(source), source.stat().st_size)
    tried = built["build"]["tried"]
    assert [attempt["options"] for attempt in tried] == [{**layout, **GRAPH} for layout in LAYOUTS]
    fastest_attempt = min(tried, key=lambda attempt: attempt["p50_ms"])
    assert built["build"]["cuda_options"] in [a["options"] for a in tried if a["p50_ms"] == fastest_attempt["p50_ms"]]
    assert json.loads((out / CUDA_OPTIONS).read_text()) == built["build"]["cuda_options"]
    nodes = built["build"]["nodes"]
    assert list(nodes) == [CUDA] and any(node.startswith("Resize ") for node in nodes[CUDA])
    assert cuda.held == 0

    session.cuda_requests.clear()
    engine, _ = runtimes.open_engine(out)
    (given,) = session.cuda_requests
    stream = given.pop("user_compute_stream")
    assert given == built["build"]["cuda_options"] and cuda.alive[int(stream)] == "stream"
    same = [engine.run(frame[None]) == plain_run(source, frame[None]) for frame in student.frames]
    assert engine.on_gpu and np.mean(same) > 0.97
    engine.close()
    assert cuda.held == 0


def test_nodes_on_the_cpu_are_an_error_with_their_names(
    session: Any, cuda: HostCuda, small_files: Path, facts: Any, tmp_path: Path
) -> None:
    session.on_cpu = {"ArgMax", "Cast"}
    runtime = runtimes.build("onnxruntime", CHOSEN)
    with pytest.raises(UserError) as raised:
        runtimes.build_engine(
            runtime, small_files / "fp32.onnx", tmp_path / "e", name="onnxruntime", options=CHOSEN, meta=facts
        )
    message = str(raised.value)
    assert "fp32.onnx: ONNX Runtime" in message and f"nodes do not run on {CUDA}: Cast cast (CPU" in message
    assert "ArgMax argmax (CPU" in message and "Cast to_labels (CPU" in message
    assert not list(tmp_path.iterdir()) and cuda.held == 0


def test_a_layout_that_leaves_nodes_on_the_cpu_is_not_chosen(session: Any, small_files: Path, tmp_path: Path) -> None:
    session.on_cpu_with = {"prefer_nhwc": {"ArgMax"}}
    build = runtimes.build("onnxruntime", CHOSEN).build(small_files / "fp32.onnx", tmp_path / "engine.onnx")
    assert build["cuda_options"] == GRAPH and list(build["nodes"]) == [CUDA]
    refusals = [attempt["refused"] for attempt in build["tried"] if "refused" in attempt]
    assert len(refusals) == 4 and all("nodes do not run on CUDAExecutionProvider: ArgMax" in why for why in refusals)


def test_options_that_a_version_lacks_are_left_out(
    session: Any, small_files: Path, tmp_path: Path, plain_run: Callable[..., Any]
) -> None:
    session.unknown = {"prefer_nhwc", "enable_cuda_graph"}
    runtime = runtimes.build("onnxruntime", CHOSEN)
    build = runtime.build(small_files / "fp32.onnx", tmp_path / "engine.onnx")
    assert build["cuda_options"] == {}
    refused = [attempt.get("refused", "") for attempt in build["tried"]]
    assert [bool(reason) for reason in refused] == [True, False, True, True, True, True]
    assert "Unknown provider option: enable_cuda_graph" in refused[0]
    engine = runtime.load(tmp_path / "engine.onnx")
    frames = pattern((1, *engine.input_size, 3))
    assert (engine.run(frames) == plain_run(small_files / "fp32.onnx", frames)).mean() > 0.99


def test_an_engine_without_options_beside_it_loads(session: Any, small_files: Path) -> None:
    runtimes.build("onnxruntime", CHOSEN).load(small_files / "fp32.onnx")
    assert [set(given) for given in session.cuda_requests] == [{"user_compute_stream"}]


def test_int8_on_cuda_dequantises_its_constants_at_load(student: Any, tmp_path: Path) -> None:
    """CUDA has no kernel for the int32 biases of Q/DQ files: they would run on the CPU."""
    file = student.int8.file("int8_cpu.onnx")
    constants = {tensor.name for tensor in onnx.load(file).graph.initializer}

    def dequantised(provider: str) -> list[str]:
        runtime: Any = runtimes.build("onnxruntime", {"provider": provider})
        options = runtime._options(onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC)
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(tmp_path / "optimised.onnx").graph.node
        return [n.name for n in nodes if n.op_type == "DequantizeLinear" and n.input[0] in constants]

    assert dequantised("cpu") and not dequantised("cuda")


@pytest.mark.parametrize(("provider", "warned"), [("cuda", True), ("cpu", False)])
def test_convert_warns_that_int8_is_not_faster_on_cuda(
    session: Any, student: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, provider: str, warned: bool
) -> None:
    options = {"provider": provider, "threads": 1}
    runtime = runtimes.build("onnxruntime", options)
    built = runtimes.build_engines(runtime, student.onnx, student.int8, tmp_path, name="onnxruntime", options=options)
    text = f"{built['int8']}: warning: ONNX Runtime has no INT8 kernels for CUDA: "
    assert (text in caplog.text) == warned
    assert ("faster than fp16; for INT8 on this GPU choose convert.runtime: tensorrt" in caplog.text) == warned


# which options are the fastest


class Timed(Engine):
    """An engine whose run takes a given time on a clock of its own."""

    input_size, output_size = (8, 8), (8, 8)

    def __init__(self, clock: list[float], milliseconds: float, label: int) -> None:
        self.clock, self.milliseconds, self.label = clock, milliseconds, label

    def run(self, frames: Array) -> Array:
        self.clock[0] += 1e-3 * self.milliseconds
        return np.full((1, 8, 8), self.label, np.uint8)


def choose(
    monkeypatch: pytest.MonkeyPatch, times: Mapping[str, float | str], *, odd: str = ""
) -> options_of_cuda.Choice:
    """The choice among engines with given milliseconds; a text is an error of opening. ``odd`` gives other labels."""
    clock = [0.0]
    monkeypatch.setattr(options_of_cuda.time, "perf_counter", lambda: clock[0])

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


# how an engine runs


@pytest.fixture
def opened(session: Any, small_files: Path) -> CudaEngine:
    engine = runtimes.build("onnxruntime", CHOSEN).load(small_files / "fp32.onnx")
    assert isinstance(engine, CudaEngine)
    return engine


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
    shutil.copy(small_files / "fp32.onnx", tmp_path / "engine.onnx")
    artifact.write_text(tmp_path / CUDA_OPTIONS, artifact.dump_json(options))
    engine = runtimes.build("onnxruntime", CHOSEN).load(tmp_path / "engine.onnx")
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
    shutil.copy(small_files / "fp32.onnx", tmp_path / "engine.onnx")
    artifact.write_text(tmp_path / CUDA_OPTIONS, artifact.dump_json(options))
    session.fails = "CUDA failure 2: out of memory"
    cuda.fails["cudaStreamSynchronize"] = 1
    with pytest.raises(UserError, match=r"ONNX Runtime .* cannot run it on this GPU: CUDA failure 2: out of memory"):
        runtimes.build("onnxruntime", CHOSEN).load(tmp_path / "engine.onnx")
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
