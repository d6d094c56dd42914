"""The INT8 ladder on imitations of TensorRT 10.3 and 11, and for real with TensorRT-RTX."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from pipeline import artifact, runtimes
from pipeline.errors import UserError
from pipeline.quantization.tensorrt_release import release
from pipeline.runtimes import _cuda
from tests.runtimes import fake_tensorrt

OLD, NEW = "10.3.0.30", "11.4.0.106"


@pytest.fixture
def climb(monkeypatch: pytest.MonkeyPatch, small_files: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """``climb(version, play settings, release=...)`` -> facts of the INT8 engine that was built."""
    monkeypatch.setattr(_cuda, "device", lambda: None)

    def run(version: str, fails: Any, *, release: Any = release, file: str = "int8.onnx", **play: Any) -> Any:
        trt, imitation = fake_tensorrt.make(version)
        monkeypatch.setitem(sys.modules, "tensorrt", trt)
        imitation.fails = fails
        for key, value in play.items():
            setattr(imitation, key, value)
        run.play, run.trt = imitation, trt  # type: ignore[attr-defined]
        return runtimes.build("tensorrt", {}).build_int8(small_files / file, tmp_path / "plan", release=release)

    return run


def while_int8(*names: str) -> Callable[..., str | None]:
    """Fails at the first of these layers that is still quantised, in TensorRT's words."""

    def fails(network: Any, config: Any) -> str | None:
        left = [name for name in names if name in network.quantised()]
        return f"Could not find any implementation for node {left[0]}." if left else None

    return fails


@pytest.mark.parametrize("version", [OLD, NEW])
def test_a_file_that_builds_stays_on_the_first_rung(climb: Any, version: str) -> None:
    facts = climb(version, lambda network, config: None, release=None)
    assert (facts["rung"], facts["failed_rungs"], facts["strongly_typed"]) == ("strongly_typed", {}, True)
    assert facts["precisions"] == {"convolution": {"int8": 3}}
    assert len(climb.play.builds) == 1


@pytest.mark.parametrize("version", [OLD, NEW])
def test_layers_that_fail_are_released_one_round_after_the_other(climb: Any, version: str, tmp_path: Path) -> None:
    facts = climb(version, while_int8("node_c", "node_a"))
    assert facts["rung"] == "layers_released"
    assert facts["released"] == ["a", "c"]
    assert facts["precisions"] == {"convolution": {"int8": 1, "float16": 2}}
    assert list(facts["failed_rungs"]) == ["strongly_typed"]
    assert "could not build it at node_c" in facts["failed_rungs"]["strongly_typed"]
    assert [network.quantised() for network, _ in climb.play.builds[1:]] == [{"node_a", "node_b"}, {"node_b"}]
    assert (tmp_path / "plan").read_bytes() == b"plan of node_b"


@pytest.mark.parametrize("version", [OLD, NEW])
def test_a_parser_error_at_a_pair_releases_the_layer_that_reads_it(climb: Any, version: str) -> None:
    def refuses(model: onnx.ModelProto) -> tuple[int, str, str] | None:
        indices = [i for i, node in enumerate(model.graph.node) if node.name == "a_relu_quantize"]
        return (indices[0], "INVALID_NODE", "Scale coefficients must all be positive") if indices else None

    facts = climb(version, lambda network, config: None, refuses=refuses)
    assert (facts["rung"], facts["released"]) == ("layers_released", ["b"])
    assert facts["precisions"] == {"convolution": {"int8": 2, "float16": 1}}


def test_weak_typing_is_the_last_rung_of_tensorrt_10(climb: Any) -> None:
    facts = climb(OLD, lambda network, config: None if config.set_flags else "Myelin is out of order")
    network, config = climb.play.builds[-1]
    assert network.flags == 1 << int(climb.trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    assert config.set_flags == [climb.trt.BuilderFlag.INT8, climb.trt.BuilderFlag.FP16]
    assert network.quantised() == {"node_a", "node_b", "node_c"}  # the file as it was
    assert (facts["rung"], facts["strongly_typed"]) == ("weakly_typed", False)
    assert facts["precisions"] == {"convolution": {"int8": 3}}
    assert facts["failed_rungs"]["layers_released"] == "the error names no layer with Q/DQ"
    assert "Myelin is out of order" in facts["failed_rungs"]["strongly_typed"]


@pytest.mark.parametrize("version", [OLD, NEW])
def test_no_rung_is_an_error_with_the_reason_of_each(climb: Any, version: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        climb(version, lambda network, config: "Myelin is out of order")
    first, *rungs = str(raised.value).split("\n")
    assert first.endswith("int8.onnx: no INT8 engine")
    assert [line.split(":")[0].strip() for line in rungs] == ["strongly_typed", "layers_released", "weakly_typed"]
    assert f"tensorrt {version} could not build it: Myelin is out of order; try a larger" in rungs[0]
    assert ("Myelin" in rungs[2]) == (version == OLD)
    assert ("skipped: tensorrt 11.4.0.106 has strongly typed networks only" in rungs[2]) == (version == NEW)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("version", [OLD, NEW])
def test_without_the_onnx_package_releasing_is_skipped(climb: Any, version: str) -> None:
    if version == OLD:
        facts = climb(version, lambda n, config: None if config.set_flags else "no node_b", release=None)
        assert facts["rung"] == "weakly_typed"
        assert facts["failed_rungs"]["layers_released"].startswith("skipped: this machine has no onnx package")
        return
    with pytest.raises(UserError, match=r"layers_released: skipped: this machine has no onnx package") as raised:
        climb(version, while_int8("node_b"), release=None)
    assert "quantize.float_layers: [b]" in str(raised.value)


def test_an_engine_without_an_int8_layer_is_never_called_int8(climb: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no_int8.onnx: tensorrt .* finds no INT8 layer in it; list fewer"):
        climb(OLD, lambda network, config: None, file="no_int8.onnx")
    assert climb.play.builds == []
    with pytest.raises(UserError, match=r"layers_released: no INT8 layer is left after releasing a, b, c"):
        climb(NEW, while_int8("node_a", "node_b", "node_c"))
    assert len(climb.play.builds) == 3  # the fourth has no INT8 layer and is not tried
    assert list(tmp_path.iterdir()) == []


def test_it_stops_after_five_rounds(climb: Any, small_files: Path) -> None:
    def one_more(source: Path, target: Path, *, nodes: Collection[str]) -> list[str]:
        one_more.calls.append(set(nodes))  # type: ignore[attr-defined]
        shutil.copy(source, target)
        return [f"layer{index}" for index in range(len(one_more.calls))]  # type: ignore[attr-defined]

    one_more.calls = []  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"layers_released: failed in 5 rounds after releasing layer0, .*layer4: "):
        climb(NEW, while_int8("node_b"), release=one_more)
    assert one_more.calls == [{"node_b"}] * 5  # type: ignore[attr-defined]
    assert len(climb.play.builds) == 6


def test_only_the_int8_engine_climbs_and_records_its_rung(
    monkeypatch: pytest.MonkeyPatch, small_files: Path, tmp_path: Path
) -> None:
    trt, play = fake_tensorrt.make(NEW)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setattr(_cuda, "device", lambda: None)
    play.fails = while_int8("node_b")
    runtime = runtimes.build("tensorrt", {})
    arguments: dict[str, Any] = {"name": "tensorrt", "options": {}, "release": release}
    source = small_files / "int8.onnx"
    runtimes.build_engine(runtime, source, tmp_path / "int8", meta={"precision": "int8"}, **arguments)
    assert artifact.load(tmp_path / "int8", kind="engine").meta["build"]["rung"] == "layers_released"
    with pytest.raises(UserError, match="could not build it at node_b"):
        runtimes.build_engine(runtime, source, tmp_path / "fp16", meta={"precision": "fp16"}, **arguments)
    assert [p.name for p in tmp_path.iterdir()] == ["int8"]


def test_tensorrt_rtx_builds_a_file_that_it_refused_once_its_layer_is_released(
    small_files: Path, tmp_path: Path
) -> None:
    """A scale of zero is refused by the real parser, which names the node."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed: pip install segpress[rtx]")
    model = onnx.load(small_files / "int8.onnx")
    for tensor in model.graph.initializer:
        if tensor.name == "a_relu_scale":
            tensor.CopyFrom(numpy_helper.from_array(np.array(0, np.float16), tensor.name))
    onnx.save(model, tmp_path / "int8.onnx")
    rtx = runtimes.build("tensorrt_rtx", {"compute_capabilities": ["SM86"]})
    with pytest.raises(UserError, match=r"strongly_typed: .*\(a_relu_quantize, QuantizeLinear\).*must all be positive"):
        rtx.build_int8(tmp_path / "int8.onnx", tmp_path / "plan")
    facts = rtx.build_int8(tmp_path / "int8.onnx", tmp_path / "plan", release=release)
    assert (facts["rung"], facts["released"]) == ("layers_released", ["b"])
    assert facts["precisions"] == {"convolution": {"int8": 2, "float16": 1}}
    assert (tmp_path / "plan").stat().st_size > 10_000
    whole = rtx.build_int8(small_files / "int8.onnx", tmp_path / "whole")
    assert (whole["rung"], whole["precisions"]) == ("strongly_typed", {"convolution": {"int8": 3}})
