"""The contract of ``pipeline/runtimes/_base.py``, for every runtime that this machine has, and for TensorRT's classes
on imitations of its library and of CUDA."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import runtimes
from pipeline.errors import UserError
from pipeline.evaluation.device import describe
from pipeline.frames import Array
from pipeline.quantization.quantize import FAMILIES
from pipeline.runtimes import Engine, Runtime, _cuda
from pipeline.runtimes._base import CLOSED, NO_CONFIDENCE
from pipeline.runtimes._tensorrt.engine import TensorRTEngine
from tests.runtimes import fake_onnxruntime, fake_tensorrt
from tests.runtimes.fake_cuda import HostCuda
from tests.runtimes.fake_tensorrt_engine import LABELS, SHAPE, HalvingEngine, expected
from tests.runtimes.test_tensorrt_engine import TRT

TENSORRT, ON_CUDA = "tensorrt, imitated", "onnxruntime on CUDA, imitated"
#: Plugin and options of the imitated runtimes.
IMITATED: dict[str, tuple[str, dict[str, Any]]] = {
    TENSORRT: ("tensorrt", {}),
    ON_CUDA: ("onnxruntime", {"provider": "cuda"}),
}


def missing(name: str) -> str:
    """Why this machine does not have a runtime; empty if it has it."""
    try:
        runtimes.build(name, {})
    except UserError as error:
        return str(error)
    return ""


MISSING = {name: missing(name) for name in runtimes.available()}
HERE = [name for name, reason in MISSING.items() if not reason]
#: Keys that :func:`describe` adds to a fingerprint.
DESCRIBED = {"id", "name", "kind", "cores", "system", "runtime", "int8_kernels"}


@dataclass
class Opened:
    """An engine of one frame per run, and the labels that it must return."""

    engine: Engine
    answer: Callable[[Array], Array]

    def frames(self, seed: int) -> Array:
        return np.random.default_rng(seed).integers(0, 256, (1, *self.engine.input_size, 3), dtype=np.uint8)

    def is_right(self, engine: Engine, seed: int) -> bool:
        """Runtimes add up in different orders: a pixel between two classes may change."""
        return bool((engine.run(self.frames(seed)) == self.answer(self.frames(seed))).mean() > 0.99)


@pytest.mark.parametrize("name", MISSING)
def test_it_is_here(name: str) -> None:
    """Once per runtime: the tests below leave out the missing ones."""
    assert "onnxruntime" in HERE
    if MISSING[name]:
        pytest.skip(MISSING[name])


@pytest.fixture(params=[*HERE, *IMITATED])
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == ON_CUDA:
        fake_onnxruntime.install(monkeypatch)
    if request.param == TENSORRT:
        monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.make("10.3.0.30")[0])
        monkeypatch.setattr(_cuda, "device", lambda: {"gpu": "NVIDIA Orin", "compute_capability": "8.7"})
    return str(request.param)


def build(name: str) -> Runtime:
    return runtimes.build(*IMITATED.get(name, (name, {})))


@pytest.fixture
def runtime(name: str) -> Runtime:
    return build(name)


def needs_gpu(error: UserError) -> None:
    """Skip if the error is about a missing GPU and this machine has none; else raise the error."""
    if _cuda.device() is None and "NVIDIA GPU" in str(error):
        pytest.skip("its engines need an NVIDIA GPU and its driver; this machine has none")
    raise error


@pytest.fixture
def opened(
    name: str,
    runtime: Runtime,
    small_files: Path,
    plain_run: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Opened:
    if name == TENSORRT:
        cuda = HostCuda()
        monkeypatch.setattr(_cuda, "runtime", lambda: cuda)
        inner = HalvingEngine(cuda, {"frames": ("in", SHAPE, "uint8"), "labels": ("out", LABELS, "uint8")})
        return Opened(TensorRTEngine(TRT, inner), expected)
    try:
        runtime.build(small_files / "fp32.onnx", tmp_path / runtime.engine_file)
        engine = runtime.load(tmp_path / runtime.engine_file)
    except UserError as error:
        needs_gpu(error)
    return Opened(engine, lambda frames: plain_run(small_files / "fp32.onnx", frames))


# the runtime


def test_version_and_fingerprint(name: str, runtime: Runtime) -> None:
    fingerprint = runtime.fingerprint()
    assert re.fullmatch(r"\d+\.\d+\S*", runtime.version)
    assert fingerprint[IMITATED.get(name, (name, {}))[0]] == runtime.version
    assert json.loads(json.dumps(fingerprint)) == fingerprint == build(name).fingerprint()
    assert not DESCRIBED & set(fingerprint)
    for key in {"gpu", "compute_capability", "cpu", "machine", "instructions"} & set(fingerprint):
        assert isinstance(fingerprint[key], str) and fingerprint[key].strip() == fingerprint[key], key
    assert "machine" in fingerprint or "instructions" not in fingerprint


def test_results_are_filed_under_the_device(name: str, runtime: Runtime) -> None:
    device, bound = describe(runtime, name=name), runtime.fingerprint()
    assert bound.items() <= device.items() and DESCRIBED - {"int8_kernels"} <= set(device)
    assert (device["kind"] == "gpu") == ("gpu" in bound)
    assert device["runtime"] == name and re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", device["id"])


def test_files(runtime: Runtime) -> None:
    assert Path(runtime.engine_file).name == runtime.engine_file
    assert f"{runtime.int8_variant}.onnx" in {file for family in FAMILIES.values() for file in family.files}
    assert isinstance(runtime.real_float16, bool)


def test_a_file_that_is_no_graph_is_named(runtime: Runtime, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not an onnx file")
    for build_file in (runtime.build, runtime.build_int8):
        with pytest.raises(UserError, match=r"broken\.onnx: "):
            build_file(tmp_path / "broken.onnx", tmp_path / runtime.engine_file)
    assert [file.name for file in tmp_path.iterdir()] == ["broken.onnx"]


# its engines


def test_frames_go_in_and_label_maps_come_out(opened: Opened) -> None:
    engine = opened.engine
    assert engine.batches[0] <= 1 <= engine.batches[1]
    seen = []
    for seed in range(4):
        frames = opened.frames(seed)
        seen.append(engine.run(frames))
        assert np.array_equal(frames, opened.frames(seed))
        assert engine.device_ms is None or engine.device_ms >= 0
    for seed, labels in enumerate(seen):  # compared last: a later run must not write into an earlier result
        assert labels.dtype == np.uint8 and labels.shape == (1, *engine.output_size)
        assert (labels == opened.answer(opened.frames(seed))).mean() > 0.99


def test_where_it_computes(opened: Opened, runtime: Runtime) -> None:
    assert isinstance(opened.engine.on_gpu, bool)
    assert opened.engine.on_gpu or "gpu" not in runtime.fingerprint(), "its results would be filed under the GPU"


@pytest.mark.parametrize("wrong", ["height", "width", "batch", "no batch", "channels first", "float"])
def test_frames_that_do_not_fit_are_refused(opened: Opened, wrong: str) -> None:
    height, width = opened.engine.input_size
    shapes = {
        "height": (1, height // 2, width, 3),
        "width": (1, height, width + 2, 3),
        "batch": (opened.engine.batches[1] + 1, height, width, 3),
        "no batch": (height, width, 3),
        "channels first": (1, 3, height, width),
    }
    frames: Any = np.zeros(shapes.get(wrong, (1, height, width, 3)), np.float32 if wrong == "float" else np.uint8)
    with pytest.raises(UserError, match=r"frames are .*; this engine takes "):
        opened.engine.run(frames)
    assert opened.is_right(opened.engine, 0), "it runs afterwards"


def test_confidence_is_refused_where_the_graph_has_none(opened: Opened) -> None:
    assert not opened.engine.gives_confidence
    with pytest.raises(UserError, match=re.escape(NO_CONFIDENCE)):
        opened.engine.run_with_confidence(opened.frames(0))


def test_confidence(name: str, runtime: Runtime, confident_file: Path, tmp_path: Path) -> None:
    if name == TENSORRT:
        pytest.skip("test_tensorrt_engine.py has it")
    try:
        runtime.build(confident_file, tmp_path / runtime.engine_file)
        engine = runtime.load(tmp_path / runtime.engine_file)
    except UserError as error:
        needs_gpu(error)
    thirds = np.random.default_rng(0).integers(0, 85, (1, *engine.input_size, 3), dtype=np.uint8)
    frames = 3 * thirds + np.arange(3, dtype=np.uint8)  # no channel equals another: the largest is one
    labels, confidence = engine.run_with_confidence(frames)
    assert engine.gives_confidence
    assert np.array_equal(labels, frames.argmax(3)) and np.array_equal(labels, engine.run(frames))
    assert confidence.dtype == np.uint8 and np.array_equal(confidence, frames.max(3))


def test_a_closed_engine_does_not_run(opened: Opened) -> None:
    engine, frames = opened.engine, opened.frames(0)
    engine.run(frames)
    engine.close()
    engine.close()
    with pytest.raises(UserError, match=re.escape(CLOSED)):
        engine.run(frames)


def test_every_thread_has_an_engine_of_its_own(opened: Opened) -> None:
    try:
        engines = [opened.engine, *(opened.engine.another() for _ in range(2))]
    except UserError as error:
        pytest.skip(f"this runtime allows one engine: {error}")
    wrong: list[int] = []
    start = threading.Barrier(len(engines), timeout=60)

    def work(number: int) -> None:
        start.wait()
        wrong.extend(
            seed for seed in range(100 * number, 100 * number + 20) if not opened.is_right(engines[number], seed)
        )

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(len(engines))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert {engine.on_gpu for engine in engines} == {opened.engine.on_gpu}
    opened.engine.close()
    assert opened.is_right(engines[1], 0), "closing one leaves the others open"
    for engine in engines:
        engine.close()
