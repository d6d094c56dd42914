"""On a machine with a GPU: engines there agree with ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import runtimes
from pipeline.errors import UserError
from pipeline.evaluation import latency
from pipeline.runtimes import _cuda

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(_cuda.device() is None, reason="needs an NVIDIA GPU and its driver; this machine has none"),
]
CHOICES = [
    ("tensorrt", {}, "onnx", "fp32.onnx", 0.99),
    ("tensorrt", {}, "onnx", "fp16.onnx", 0.97),
    ("tensorrt", {}, "int8", "int8_tensorrt.onnx", 0.9),
    ("tensorrt_rtx", {}, "onnx", "fp32.onnx", 0.99),
    ("tensorrt_rtx", {}, "onnx", "fp16.onnx", 0.97),
    ("tensorrt_rtx", {}, "int8", "int8_tensorrt.onnx", 0.9),
    ("onnxruntime", {"provider": "cuda"}, "onnx", "fp32.onnx", 0.995),
    ("onnxruntime", {"provider": "cuda"}, "onnx", "fp16.onnx", 0.97),
    ("onnxruntime", {"provider": "cuda"}, "int8", "int8_cpu.onnx", 0.9),
    ("onnxruntime", {"provider": "tensorrt"}, "onnx", "fp32.onnx", 0.995),
    ("onnxruntime", {"provider": "tensorrt"}, "onnx", "fp16.onnx", 0.97),
    ("onnxruntime", {"provider": "tensorrt"}, "int8", "int8_tensorrt.onnx", 0.9),
]


@pytest.mark.parametrize(("name", "options", "kind", "file", "agreement"), CHOICES)
def test_gpu_engine_agrees_with_the_cpu(
    student: Any,
    facts: Any,
    plain_run: Callable[..., Any],
    tmp_path: Path,
    name: str,
    options: dict[str, Any],
    kind: str,
    file: str,
    agreement: float,
) -> None:
    if name != "onnxruntime":
        pytest.importorskip(name, reason=f"{name} is not installed")
    source = getattr(student, kind).file(file)
    try:
        runtime = runtimes.build(name, options)
        runtimes.build_engine(runtime, source, tmp_path / "engine", name=name, options=options, meta=facts)
    except UserError as error:
        if name == "onnxruntime" and "install the libraries" in str(error):
            pytest.skip(f"the libraries that ONNX Runtime needs are missing: {error}")
        if "does not support" in str(error):
            pytest.skip(str(error))
        raise
    engine, facts = runtimes.open_engine(tmp_path / "engine")
    assert facts.meta["fingerprint"]["gpu"] != "none"
    same = [engine.run(frame[None]) == plain_run(source, frame[None]) for frame in student.frames]
    engine.close()
    assert np.mean(same) >= agreement


def test_every_node_of_a_cuda_engine_is_on_the_gpu(student: Any, facts: Any, tmp_path: Path) -> None:
    """And every layout was measured; two engines give two threads the labels of their own frames."""
    options = {"provider": "cuda"}
    source, out = student.onnx.file("fp16.onnx"), tmp_path / "engine"
    try:
        runtime = runtimes.build("onnxruntime", options)
        runtimes.build_engine(runtime, source, out, name="onnxruntime", options=options, meta=facts)
    except UserError as error:
        if "install the libraries" in str(error):
            pytest.skip(f"the libraries that ONNX Runtime needs are missing: {error}")
        raise
    first, built = runtimes.open_engine(out)
    assert list(built.meta["build"]["nodes"]) == ["CUDAExecutionProvider"]
    tried = built.meta["build"]["tried"]
    assert [attempt["options"] for attempt in tried if "p50_ms" in attempt], tried
    print(*tried, sep="\n")  # with -s: what each layout takes on this GPU
    wanted = [first.run(frame[None]) for frame in student.frames]
    assert first.device_ms is not None and 0 < first.device_ms < 1000
    engines = [first, first.another()]
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(lambda e: [e.run(f[None]) for _ in range(10) for f in student.frames], e) for e in engines]
        results = [run.result() for run in runs]
    for engine in engines:
        engine.close()
    assert all(np.array_equal(a, b) for several in results for a, b in zip(several, 10 * wanted, strict=True))


@pytest.fixture(params=["tensorrt", "tensorrt_rtx"])
def folder(request: pytest.FixtureRequest, student: Any, facts: Any, tmp_path: Path) -> Path:
    """An fp16 engine."""
    name = request.param
    pytest.importorskip(name, reason=f"{name} is not installed")
    source, out = student.onnx.file("fp16.onnx"), tmp_path / "engine"
    try:
        runtime = runtimes.build(name, {})
    except UserError as error:
        if "does not support" in str(error):
            pytest.skip(str(error))
        raise
    runtimes.build_engine(runtime, source, out, name=name, options={}, meta=facts)
    return out


def test_a_cuda_graph_changes_no_label(student: Any, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    results = {}
    for cuda_graph in (True, False):
        engine: Any = runtimes.open_engine(folder, options={"cuda_graph": cuda_graph})[0]
        results[cuda_graph] = []
        for turn in range(3):  # enqueued, captured, replayed
            for frame in student.frames[turn:] + student.frames[:turn]:
                results[cuda_graph].append(engine.run(frame[None]))
                assert 0 < engine.device_ms < 1000
        assert (engine._graph is not None) == (cuda_graph and engine._captures)
        engine.close()
    assert not caplog.records  # captured without a warning
    assert all(np.array_equal(a, b) for a, b in zip(results[True], results[False], strict=True))
    assert len({labels.tobytes() for labels in results[True]}) == len(student.frames)


def test_threads_get_the_labels_of_their_own_frames(student: Any, folder: Path) -> None:
    first: Any = runtimes.open_engine(folder)[0]
    wanted = [first.run(frame[None]) for frame in student.frames]
    engines = [first.another() for _ in student.frames]
    with ThreadPoolExecutor(len(engines)) as pool:
        work = zip(engines, student.frames, strict=True)
        runs = [pool.submit(lambda e, f: [e.run(f[None]) for _ in range(20)], engine, frame) for engine, frame in work]
        results = [run.result() for run in runs]
    for engine in (first, *engines):
        engine.close()
    assert all(np.array_equal(a, b) for several, b in zip(results, wanted, strict=True) for a in several)


def test_time_on_the_gpu_is_a_part_of_the_whole(student: Any, folder: Path) -> None:
    engine, _ = runtimes.open_engine(folder)
    timing = latency.measure({"engine": engine}, student.frames, warmup=20, runs=200)["engine"]
    engine.close()
    assert timing["device"]["n"] == 200
    assert 0 < timing["device"]["p50"] < timing["p50"]
