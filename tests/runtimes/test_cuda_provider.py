"""What ONNX Runtime builds for CUDA, with imitations of CUDA and sessions on the CPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from pipeline import artifact, runtimes
from pipeline.errors import UserError
from pipeline.evaluation.assembly import describe_engine
from pipeline.runtimes._onnxruntime.cuda import GRAPH, LAYOUTS, pattern
from pipeline.runtimes.onnxruntime import CUDA_OPTIONS
from tests.runtimes.fake_cuda import HostCuda
from tests.runtimes.fake_onnxruntime import CHOSEN, CUDA


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
