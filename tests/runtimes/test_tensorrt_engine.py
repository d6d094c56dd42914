"""The TensorRT engine without a GPU, on imitations of CUDA and of a deserialised engine."""

from __future__ import annotations

import functools
import inspect
import logging
import re
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline import runtimes
from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.runtimes import _cuda
from pipeline.runtimes._tensorrt.engine import TensorRTEngine
from tests.runtimes.fake_cuda import HostCuda
from tests.runtimes.fake_tensorrt_engine import LABELS, SHAPE, HalvingEngine, expected, expected_confidence

TRT: Any = SimpleNamespace(
    TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"), DataType=SimpleNamespace(UINT8="uint8")
)
RTX: Any = SimpleNamespace(**vars(TRT), CudaGraphStrategy=SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole"))


def random_frames(seed: int, count: int = 1) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE[1:]), dtype=np.uint8)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> HostCuda:
    library = HostCuda()
    monkeypatch.setattr(_cuda, "runtime", lambda: library)
    return library


@pytest.fixture
def inner(cuda: HostCuda) -> HalvingEngine:
    """One frame per run; outputs may come first."""
    return HalvingEngine(cuda, {"labels": ("out", LABELS, "uint8"), "frames": ("in", SHAPE, "uint8")})


@pytest.fixture
def dynamic(cuda: HostCuda) -> HalvingEngine:
    """Two to five frames per run."""
    tensors = {"frames": ("in", (-1, *SHAPE[1:]), "uint8"), "labels": ("out", (-1, *LABELS[1:]), "uint8")}
    return HalvingEngine(cuda, tensors, largest=5)


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_frames_go_in_and_labels_come_out(inner: HalvingEngine, cuda: HostCuda, cuda_graph: bool) -> None:
    engine = TensorRTEngine(TRT, inner, cuda_graph=cuda_graph)
    assert (engine.input_size, engine.output_size) == ((4, 6), (2, 3))
    results = [(engine.run(random_frames(seed)), expected(random_frames(seed))) for seed in range(4)]
    for labels, wanted in results:  # compared last: a later run must not write into an earlier result
        assert labels.dtype == np.uint8
        assert np.array_equal(labels, wanted)
    assert cuda.copies == [(_cuda.HOST_TO_DEVICE, 72), (_cuda.DEVICE_TO_HOST, 6)] * 4
    assert cuda.calls["cudaGraphLaunch"] == (3 if cuda_graph else 0)
    assert cuda.calls["cudaStreamBeginCapture"] == cuda_graph
    engine.close()
    assert cuda.held == 0


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_confidence_is_the_second_output(cuda: HostCuda, cuda_graph: bool) -> None:
    tensors = {
        "confidence": ("out", (-1, *LABELS[1:]), "uint8"),
        "frames": ("in", (-1, *SHAPE[1:]), "uint8"),
        "labels": ("out", (-1, *LABELS[1:]), "uint8"),
    }
    engine = TensorRTEngine(TRT, HalvingEngine(cuda, tensors, largest=5), cuda_graph=cuda_graph)
    assert engine.gives_confidence
    results = []
    for seed, count in enumerate((2, 2, 2, 5, 5)):
        frames = random_frames(seed, count)
        results.append((frames, *engine.run_with_confidence(frames)))
    for frames, labels, confidence in results:  # compared last: a later run must not write into an earlier result
        assert np.array_equal(labels, expected(frames)) and np.array_equal(confidence, expected_confidence(frames))
    assert np.array_equal(engine.run(frames), expected(frames))
    engine.close()
    assert cuda.held == 0


def test_an_engine_without_confidence_says_so(inner: HalvingEngine) -> None:
    engine = TensorRTEngine(TRT, inner)
    assert not engine.gives_confidence
    with pytest.raises(UserError, match=r"gives no confidence; set export\.confidence: true"):
        engine.run_with_confidence(random_frames(0))


def test_a_confidence_of_another_size_is_refused(cuda: HostCuda) -> None:
    tensors = {
        "frames": ("in", SHAPE, "uint8"),
        "labels": ("out", LABELS, "uint8"),
        "confidence": ("out", (1, 4, 6), "uint8"),
    }
    with pytest.raises(UserError, match=r"not a deploy graph: .*output uint8 \(1, 2, 3\), output uint8 \(1, 4, 6\)"):
        TensorRTEngine(TRT, HalvingEngine(cuda, tensors))
    assert cuda.held == 0


def test_frames_that_are_not_contiguous_are_copied_right(inner: HalvingEngine) -> None:
    engine = TensorRTEngine(TRT, inner)
    wide = np.random.default_rng(1).integers(0, 256, (1, 4, 12, 3), dtype=np.uint8)
    frames = wide[:, :, ::2, ::-1]
    assert not frames.flags["C_CONTIGUOUS"]
    assert np.array_equal(engine.run(frames), expected(frames))


def test_time_on_the_gpu_is_that_of_the_last_run(inner: HalvingEngine) -> None:
    engine = TensorRTEngine(TRT, inner)
    assert engine.device_ms is None
    for milliseconds in (3.0, 1.0, 2.5, 4.0):  # enqueued, then captured, then replayed
        inner.milliseconds = milliseconds
        engine.run(random_frames(0))
        assert engine.device_ms == milliseconds
    inner.succeeds = False
    engine._drop()
    with pytest.raises(UserError):
        engine.run(random_frames(0))
    assert engine.device_ms is None


@pytest.mark.parametrize(
    "frames", [np.zeros((1, 4, 5, 3), np.uint8), np.zeros((2, 4, 6, 3), np.uint8), np.zeros(SHAPE, np.float32)]
)
def test_frames_that_do_not_fit_are_refused(inner: HalvingEngine, cuda: HostCuda, frames: Any) -> None:
    with pytest.raises(UserError, match=r"this engine takes \(1, 4, 6, 3\) uint8; resize them"):
        TensorRTEngine(TRT, inner).run(frames)
    assert not cuda.copies


def test_an_open_batch_runs_any_count_of_its_profile(dynamic: HalvingEngine, cuda: HostCuda) -> None:
    engine = TensorRTEngine(TRT, dynamic)
    assert sorted(len(block) for block in cuda.memory.values()) == [5 * 6, 5 * 72]
    results = []
    for seed, count in enumerate((3, 3, 3, 5, 2, 2, 3)):
        frames = random_frames(seed, count)
        results.append((engine.run(frames), expected(frames)))
    for labels, wanted in results:
        assert labels.shape == wanted.shape
        assert np.array_equal(labels, wanted)
    (context,) = dynamic.contexts
    assert [shape[0] for shape in context.shapes] == [3, 5, 2, 3]
    assert (cuda.calls["cudaStreamBeginCapture"], cuda.calls["cudaGraphLaunch"]) == (2, 3)  # of three, then of two
    assert cuda.calls["cudaGraphExecDestroy"] == 2  # every change of the context frees the graph
    engine.close()
    assert cuda.held == 0


@pytest.mark.parametrize("shape", [(1, 4, 6, 3), (6, 4, 6, 3), (4, 6, 3)])
def test_counts_outside_the_profile_are_refused(dynamic: HalvingEngine, shape: tuple[int, ...]) -> None:
    engine = TensorRTEngine(TRT, dynamic)
    with pytest.raises(UserError, match=r"this engine takes 2 to 5 of \(4, 6\) per run"):
        engine.run(np.zeros(shape, np.uint8))
    with pytest.raises(UserError, match=r"this engine takes \(3, 4, 6, 3\) uint8"):
        engine.run(np.zeros((3, 6, 4, 3), np.uint8))
    assert not dynamic.contexts[0].shapes


def test_a_shape_that_tensorrt_refuses_is_no_run(dynamic: HalvingEngine, cuda: HostCuda) -> None:
    engine = TensorRTEngine(TRT, dynamic)
    dynamic.largest = 3
    with pytest.raises(UserError, match=r"refused frames of \(4, 4, 6, 3\)"):
        engine.run(random_frames(0, 4))
    assert not cuda.copies
    assert np.array_equal(engine.run(random_frames(1, 3)), expected(random_frames(1, 3)))


@pytest.mark.parametrize(
    "problem", ["is refused", "spoils it", "cudaStreamBeginCapture", "cudaGraphInstantiateWithFlags"]
)
def test_what_cannot_be_captured_runs_without_a_graph(
    inner: HalvingEngine, cuda: HostCuda, caplog: pytest.LogCaptureFixture, problem: str
) -> None:
    engine = TensorRTEngine(TRT, inner)
    inner.capture = problem if " " in problem else "works"
    cuda.fails[problem] = 1
    with caplog.at_level(logging.WARNING):
        results = [engine.run(random_frames(seed)) for seed in range(4)]
    assert all(np.array_equal(labels, expected(random_frames(seed))) for seed, labels in enumerate(results))
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "This engine runs without a CUDA graph, as it could not be captured"
    ]
    assert cuda.calls["cudaStreamBeginCapture"] == 1
    assert cuda.calls["cudaGraphLaunch"] == 0
    other = engine.another()
    assert other.cuda_graph is False  # it is not tried again for another thread either
    assert not cuda.capturing
    engine.close()
    other.close()
    assert cuda.held == 0


def test_a_graph_that_cannot_be_launched_is_an_error(inner: HalvingEngine, cuda: HostCuda) -> None:
    engine = TensorRTEngine(TRT, inner)
    engine.run(random_frames(0))
    cuda.fails["cudaGraphLaunch"] = 2
    engine.run(random_frames(1))
    with pytest.raises(UserError, match=r"CUDA: launching a graph failed: out of memory \(error 2\)"):
        engine.run(random_frames(2))
    assert engine.device_ms is None
    engine.close()
    assert cuda.held == 0


def test_a_run_that_fails_is_no_result(inner: HalvingEngine, cuda: HostCuda) -> None:
    engine = TensorRTEngine(TRT, inner)
    inner.succeeds = False
    for _ in range(2):
        with pytest.raises(UserError, match="could not run the engine"):
            engine.run(random_frames(0))
    inner.succeeds = True
    assert np.array_equal(engine.run(random_frames(1)), expected(random_frames(1)))


def test_tensorrt_rtx_keeps_its_own_graphs(inner: HalvingEngine, cuda: HostCuda) -> None:
    for cuda_graph, strategy in ((True, "whole"), (False, None)):
        engine = TensorRTEngine(RTX, inner, cuda_graph=cuda_graph)
        for seed in range(3):
            assert np.array_equal(engine.run(random_frames(seed)), expected(random_frames(seed)))
        assert getattr(inner.contexts[-1].config, "cuda_graph_strategy", None) == strategy
    assert cuda.calls["cudaStreamBeginCapture"] == 0


class Library(ModuleType):
    """The part of the module ``tensorrt`` that loads engines."""

    class ILogger:
        INTERNAL_ERROR, ERROR = 0, 1

    def __init__(self, runtime: Any) -> None:
        super().__init__("tensorrt")
        vars(self).update(vars(TRT), __version__="10.3.0", Runtime=lambda logger: runtime)


@pytest.mark.parametrize(
    ("options", "dla_core", "captured"),
    [({}, -1, True), ({"cuda_graph": False}, -1, False), ({}, 0, False), ({"cuda_graph": True}, 1, False)],
)
def test_graphs_are_for_engines_on_the_gpu_that_want_them(
    inner: HalvingEngine,
    cuda: HostCuda,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    options: dict[str, bool],
    dla_core: int,
    captured: bool,
) -> None:
    runtime = SimpleNamespace(
        DLA_core=dla_core, deserialize_cuda_engine=lambda plan: inner if plan == b"plan" else None
    )
    monkeypatch.setitem(sys.modules, "tensorrt", Library(runtime))
    monkeypatch.setattr(_cuda, "device", lambda: {"gpu": "NVIDIA Orin", "compute_capability": "8.7"})
    (tmp_path / "engine.plan").write_bytes(b"plan")
    engine = runtimes.build("tensorrt", options).load(tmp_path / "engine.plan")
    for seed in range(3):
        assert np.array_equal(engine.run(random_frames(seed)), expected(random_frames(seed)))
    assert (cuda.calls["cudaGraphLaunch"] > 0) == captured


def test_threads_run_contexts_of_their_own(inner: HalvingEngine, cuda: HostCuda) -> None:
    first = TensorRTEngine(TRT, inner)
    engines = [first, *(first.another() for _ in range(3))]
    assert len({engine.stream.handle.value for engine in engines}) == 4
    assert len({address for context in inner.contexts for address in context.address.values()}) == 8
    wrong: list[int] = []
    barrier = threading.Barrier(4, timeout=60)

    def work(number: int) -> None:
        barrier.wait()
        for turn in range(50):
            frames = random_frames(1000 * number + turn)
            if not np.array_equal(engines[number].run(frames), expected(frames)):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert cuda.calls["cudaGraphLaunch"] == 4 * 49
    first.close()
    assert np.array_equal(engines[1].run(random_frames(5)), expected(random_frames(5)))  # the others still run
    for engine in engines:
        engine.close()
    assert cuda.held == 0


def test_close_frees_everything_and_may_be_repeated(inner: HalvingEngine, cuda: HostCuda) -> None:
    engine = TensorRTEngine(TRT, inner)
    for seed in range(3):
        engine.run(random_frames(seed))
    assert (len(cuda.memory), len(cuda.pinned)) == (2, 2)
    assert sorted(cuda.alive.values()) == ["event", "event", "graph", "stream"]
    engine.close()
    engine.close()
    assert cuda.held == 0
    with pytest.raises(UserError, match="this engine was closed; open it again"):
        engine.run(random_frames(0))


FAULTS = [
    ("cudaStreamCreateWithFlags", 1),
    *((name, n) for name in ("cudaEventCreate", "cudaMalloc", "cudaHostAlloc") for n in (1, 2)),
]


@pytest.mark.parametrize(("name", "number"), FAULTS)
def test_a_failure_while_opening_leaves_nothing(inner: HalvingEngine, cuda: HostCuda, name: str, number: int) -> None:
    cuda.fails[name] = number
    with pytest.raises(UserError, match=r"CUDA: .* failed: out of memory \(error 2\)"):
        TensorRTEngine(TRT, inner)
    assert cuda.calls[name] == number
    assert cuda.held == 0


@pytest.mark.parametrize(
    ("lacking", "message"),
    [("makes_contexts", "could not create an execution context"), ("takes_addresses", "refused the buffers")],
)
def test_a_context_that_fails_leaves_nothing(inner: HalvingEngine, cuda: HostCuda, lacking: str, message: str) -> None:
    setattr(inner, lacking, False)
    with pytest.raises(UserError, match=message):
        TensorRTEngine(TRT, inner)
    assert cuda.calls["cudaHostAlloc"] == 2
    assert cuda.held == 0


FRAMES, MAP = ("in", SHAPE, "uint8"), ("out", LABELS, "uint8")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"frames": FRAMES}, "1 inputs, 0 outputs; needed: one each"),
        ({"frames": FRAMES, "labels": MAP, "logits": MAP}, "1 inputs, 2 outputs; needed: one each"),
        ({"frames": FRAMES, "size": FRAMES, "labels": MAP}, "2 inputs, 1 outputs; needed: one each"),
        ({"frames": ("in", SHAPE, "float"), "labels": MAP}, r"input float \(1, 4, 6, 3\).*needed: uint8 frames"),
        ({"frames": FRAMES, "labels": ("out", LABELS, "int64")}, r"output int64 \(1, 2, 3\).*needed: uint8 frames"),
        ({"frames": ("in", (1, -1, 6, 3), "uint8"), "labels": MAP}, r"input uint8 \(1, -1, 6, 3\).*fixed but for N"),
        ({"frames": FRAMES, "labels": ("out", (1, 5, 2, 3), "uint8")}, r"output uint8 \(1, 5, 2, 3\)"),
    ],
)  # fmt: skip
def test_what_is_no_deploy_graph_is_refused(cuda: HostCuda, tensors: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"not a deploy graph: .*{message}"):
        TensorRTEngine(TRT, HalvingEngine(cuda, tensors))
    assert cuda.held == 0


def test_the_library_has_every_name_that_is_used() -> None:
    """Of TensorRT-RTX, which is installed everywhere; TensorRT has the same names, except those of its own graphs."""
    trt = pytest.importorskip("tensorrt_rtx")
    source = Path(inspect.getsourcefile(TensorRTEngine) or "").read_text(encoding="utf-8")
    used = {
        owner: set(re.findall(rf"\b{prefix}\.(\w+(?:\.[A-Z]\w+)?)", source))
        for owner, prefix in (("engine", "engine"), ("context", r"context"), ("trt", r"trt"), ("config", "config"))
    }
    assert {"get_tensor_profile_shape", "create_runtime_config"} <= used["engine"]
    assert {"set_input_shape", "execute_async_v3"} <= used["context"]
    assert {"CudaGraphStrategy.WHOLE_GRAPH_CAPTURE", "DataType.UINT8", "TensorIOMode.INPUT"} <= used["trt"]
    owners = {"engine": trt.ICudaEngine, "context": trt.IExecutionContext, "trt": trt, "config": trt.IRuntimeConfig}
    lacking = [
        f"{owner}.{name}"
        for owner, names in used.items()
        for name in names
        if functools.reduce(lambda value, part: getattr(value, part, None), name.split("."), owners[owner]) is None
    ]
    assert not lacking
