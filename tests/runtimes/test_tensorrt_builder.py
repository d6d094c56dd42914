"""The builder on imitations of TensorRT 10.3 and 11, which have only the names of these versions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from pipeline import artifact, runtimes
from pipeline.errors import UserError
from pipeline.runtimes import _cuda
from tests.runtimes import fake_tensorrt
from tests.runtimes.fake_tensorrt_network import Config, Play

MIB = 1 << 20
GPU = {"gpu": "Orin", "compute_capability": "8.7"}


def test_the_imitation_has_no_name_that_is_gone_in_11() -> None:
    old, new = fake_tensorrt.make("10.3")[0], fake_tensorrt.make("11.4")[0]
    for name in ("INT8", "FP16"):
        assert hasattr(old.BuilderFlag, name)
        with pytest.raises(AttributeError):
            getattr(new.BuilderFlag, name)
    assert hasattr(old.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH")
    assert not hasattr(new.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH")
    config = Config(Play())
    for name in ("int8_calibrator", "algorithm_selector", "max_workspace_size"):
        with pytest.raises(AttributeError):
            getattr(config, name)
        with pytest.raises(AttributeError):
            setattr(config, name, 1)
    for gone in ("IInt8EntropyCalibrator2", "CalibrationAlgoType", "IAlgorithmSelector"):
        with pytest.raises(AttributeError):
            getattr(old, gone)


def test_networks_are_strongly_typed_and_precision_is_no_flag(build: Any, trt: Any, play: Play, tmp_path: Path) -> None:
    facts = build("fp32", workspace_mib=7, optimization_level=5)
    ((network, config),) = play.builds
    assert network.flags == 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert config.set_flags == []
    assert config.pools == {"WORKSPACE": 7 * MIB}
    assert config.builder_optimization_level == 5
    assert config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED
    assert config.cache is None and config.default_device_type is None and config.profiles == []
    assert facts == {
        "strongly_typed": True,
        "layers": network.num_layers,
        "precisions": {"convolution": {"float32": 3}},
    }
    assert [p.name for p in tmp_path.iterdir()] == ["engine.plan"]


def test_int8_layers_are_counted(build: Any) -> None:
    assert build("int8")["precisions"] == {"convolution": {"int8": 3}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": [1, 2]}, r"convert.tensorrt.batch: got \[1, 2\]; it must be \[min, opt, max\]"),
        ({"batch": [2, 1, 4]}, r"convert.tensorrt.batch: got \[2, 1, 4\]; it must be \[min, opt, max\]"),
        ({"batch": [1, 4, 2]}, r"convert.tensorrt.batch: got \[1, 4, 2\]; it must be \[min, opt, max\]"),
    ],
)
def test_batch_sizes_that_do_not_rise_are_refused(library: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        runtimes.build("tensorrt", options)


def test_a_failed_build_names_layer_title_and_what_to_try(
    build: Any, trt: Any, play: Play, tmp_path: Path, capfd: Any, caplog: Any
) -> None:
    text = (
        "[optimizer.cpp::computeCosts::4048] Error Code 10: Internal Error "
        "(Could not find any implementation for node node_b + relu_b.)"
    )
    play.fails = lambda network, config: text
    with pytest.raises(UserError) as raised:
        build("int8", workspace_mib=7)
    message = str(raised.value)
    assert "int8.onnx: tensorrt 1" in message and trt.__version__ in message
    assert "could not build it at node_b, relu_b: Error Code 10: Internal Error (Could not find any" in message
    assert "optimizer.cpp" not in message
    assert "a larger convert.tensorrt.workspace_mib (now 7)" in message
    assert "quantize.float_layers: [b]" in message
    assert "or another precision" in message
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "") and not caplog.records  # the log is in the message, not printed


def test_a_parser_error_names_the_node_also_where_only_the_log_does(
    build: Any, play: Play, trt: Any, small_files: Path
) -> None:
    index = [node.name for node in onnx.load(small_files / "int8.onnx").graph.node].index("a_relu_quantize")
    play.refuses = lambda model: (index, "INVALID_NODE", "Assertion failed: scale")
    with pytest.raises(UserError) as raised:
        build("int8")
    message = str(raised.value)
    if trt.__version__.startswith("10."):
        assert f"cannot parse it at a_relu_quantize: node {index}: Assertion failed: scale; try" in message
    else:
        assert f"cannot parse it: node {index} (a_relu_quantize, QuantizeLinear): Assertion failed: scale" in message
    assert "quantize.float_layers" in message


def test_an_unknown_operator_and_a_damaged_file_stop_the_ladder(play: Play, small_files: Path, tmp_path: Path) -> None:
    index = [node.op_type for node in onnx.load(small_files / "int8.onnx").graph.node].index("ArgMax")
    play.refuses = lambda model: (index, "INVALID_NODE", "Plugin not found, are the plugin name, version")
    runtime = runtimes.build("tensorrt", {})
    with pytest.raises(
        UserError, match=rf"node {index}.*: an operator that it does not support in any precision; use a network "
    ):
        runtime.build_int8(small_files / "int8.onnx", tmp_path / "plan", release=no_release)
    (tmp_path / "cut.onnx").write_bytes((small_files / "int8.onnx").read_bytes()[:-3000])
    with pytest.raises(UserError, match=r"cut.onnx: tensorrt .* is not an ONNX file, or is truncated; write it again"):
        runtime.build_int8(tmp_path / "cut.onnx", tmp_path / "plan", release=no_release)
    assert play.builds == []


def no_release(source: Path, target: Path, *, nodes: Any) -> list[str]:
    raise AssertionError("nothing is to be released")


def test_a_builder_that_does_not_start_is_an_error(build: Any, play: Play) -> None:
    play.starts = False
    with pytest.raises(UserError, match=r"cannot start a builder here: CUDA initialization failure.*needs an NVIDIA"):
        build("fp32")


def test_errors_outside_a_build_go_to_the_log(trt: Any, library: Any, caplog: Any) -> None:
    first, second = runtimes.build("tensorrt", {}), runtimes.build("tensorrt", {})
    assert first.logger is second.logger  # TensorRT keeps the first logger that it gets
    first.logger.log(trt.ILogger.WARNING, "hot")
    first.logger.log(trt.ILogger.ERROR, "too hot")
    assert [record.getMessage() for record in caplog.records] == ["tensorrt: too hot"]


TOLD = {
    "10.": {
        "Layers": [
            {"Name": "a", "Outputs": [{"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}]},
            {"Name": "b", "Outputs": [{"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}]},
            {"Name": "c", "Outputs": [{"Format/Datatype": "Row major linear FP32"}]},
            {"Name": "d", "Outputs": [{"Format/Datatype": "Row major linear UInt8 format"}]},
            {"Name": "e", "Outputs": []},
        ],
        "Bindings": ["frames", "labels"],
    },
    "11.": {
        "Layers": [
            {"Name": "a", "Outputs": [{"Format": "Vectorized", "Datatype": "Int8"}]},
            {"Name": "b", "Outputs": [{"Format": "Linear", "Datatype": "Half"}]},
            {"Name": "c", "Outputs": [{"Format": "Linear", "Datatype": "Float"}]},
            {"Name": "d", "Outputs": [{"Format": "Linear", "Datatype": "UInt8"}]},
            "a layer with a name only",
        ],
        "I/O Tensors": [{"Name": "frames"}, {"Name": "labels"}],
    },
}


def test_on_a_gpu_the_layers_of_the_engine_lie_beside_it(
    library: Any, trt: Any, play: Play, small_files: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(_cuda, "device", lambda: GPU)
    play.information = TOLD[trt.__version__[:3]]
    runtime = runtimes.build("tensorrt", {})
    arguments = {"name": "tensorrt", "options": {}, "meta": {"precision": "int8"}}
    runtimes.build_engine(runtime, small_files / "int8.onnx", tmp_path / "int8", **arguments)
    built = artifact.load(tmp_path / "int8", kind="engine")
    assert json.loads(built.file("layers.json").read_text()) == play.information
    expected = {"int8": 1, "float16": 1, "float32": 1, "uint8": 1, "unknown": 1}
    assert built.meta["build"]["data_types"] == expected
    assert built.meta["fingerprint"] == {"tensorrt": trt.__version__, **GPU}
    play.loads = False  # an engine for another GPU
    runtimes.build_engine(runtime, small_files / "int8.onnx", tmp_path / "int8", **arguments)
    built = artifact.load(tmp_path / "int8", kind="engine")
    assert "data_types" not in built.meta["build"]
    assert sorted(built.meta["files"]) == ["engine.plan"]
