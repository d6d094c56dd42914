"""What the builder asks of TensorRT 10.3 and of 11, on imitations that have the names of these versions only."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from pipeline import artifact, runtimes
from pipeline.errors import UserError
from pipeline.runtimes import _cuda
from tests.runtimes import fake_tensorrt

MIB = 1 << 20
GPU = {"gpu": "Orin", "compute_capability": "8.7"}


@pytest.fixture(params=["10.3.0.30", "11.4.0.106"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, fake_tensorrt.Play]:
    """(the module that ``import tensorrt`` gives, its play); this machine has no GPU."""
    trt, play = fake_tensorrt.make(request.param)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setattr(_cuda, "device", lambda: None)
    return trt, play


@pytest.fixture
def play(library: tuple[Any, fake_tensorrt.Play]) -> fake_tensorrt.Play:
    return library[1]


@pytest.fixture
def trt(library: tuple[Any, fake_tensorrt.Play]) -> Any:
    return library[0]


@pytest.fixture
def build(library: Any, small_files: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """``build("fp32", **options)`` -> facts of the build; the plan lies in tmp_path."""

    def run(name: str, **options: Any) -> dict[str, Any]:
        return runtimes.build("tensorrt", options).build(small_files / f"{name}.onnx", tmp_path / "engine.plan")

    return run


def test_the_imitation_has_no_name_that_is_gone_in_11() -> None:
    old, new = fake_tensorrt.make("10.3")[0], fake_tensorrt.make("11.4")[0]
    for name in ("INT8", "FP16"):
        assert hasattr(old.BuilderFlag, name)
        with pytest.raises(AttributeError):
            getattr(new.BuilderFlag, name)
    assert hasattr(old.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH")
    assert not hasattr(new.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH")
    config = fake_tensorrt.Config(fake_tensorrt.Play())
    for name in ("int8_calibrator", "algorithm_selector", "max_workspace_size"):
        with pytest.raises(AttributeError):
            getattr(config, name)
        with pytest.raises(AttributeError):
            setattr(config, name, 1)
    for gone in ("IInt8EntropyCalibrator2", "CalibrationAlgoType", "IAlgorithmSelector"):
        with pytest.raises(AttributeError):
            getattr(old, gone)


def test_networks_are_strongly_typed_and_precision_is_no_flag(
    build: Any, trt: Any, play: fake_tensorrt.Play, tmp_path: Path
) -> None:
    facts = build("fp32", workspace_mib=7, optimization_level=5)
    ((network, config),) = play.builds
    assert network.flags == 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert config.given == []
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
        ({"workspace_mib": 0}, r"convert.tensorrt.workspace_mib: got 0; at least 1"),
        ({"optimization_level": 6}, r"convert.tensorrt.optimization_level: got 6; allowed: 0 to 5"),
        ({"batch": [1, 2]}, r"convert.tensorrt.batch: got \[1, 2\]; it must be \[min, opt, max\]"),
        ({"batch": [2, 1, 4]}, r"convert.tensorrt.batch: got \[2, 1, 4\]; it must be \[min, opt, max\]"),
        ({"batch": [0, 1, 4]}, r"convert.tensorrt.batch: got \[0, 1, 4\]; it must be \[min, opt, max\]"),
    ],
)
def test_options_out_of_range_are_refused(library: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        runtimes.build("tensorrt", options)


def test_a_failed_build_names_layer_title_and_what_to_try(
    build: Any, trt: Any, play: fake_tensorrt.Play, tmp_path: Path, capfd: Any, caplog: Any
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
    assert capfd.readouterr() == ("", "") and not caplog.records  # it is in the message, not beside it


def test_a_parser_error_names_the_node_also_where_only_the_log_does(
    build: Any, play: fake_tensorrt.Play, trt: Any, small_files: Path
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


def test_an_operator_that_is_not_known_and_a_damaged_file_are_said_at_once(
    play: fake_tensorrt.Play, small_files: Path, tmp_path: Path
) -> None:
    index = [node.op_type for node in onnx.load(small_files / "int8.onnx").graph.node].index("ArgMax")
    play.refuses = lambda model: (index, "INVALID_NODE", "Plugin not found, are the plugin name, version")
    runtime = runtimes.build("tensorrt", {})
    with pytest.raises(UserError, match=rf"node {index}.*: an operator that it does not have; take a network without"):
        runtime.build_int8(small_files / "int8.onnx", tmp_path / "plan", release=no_release)
    (tmp_path / "cut.onnx").write_bytes((small_files / "int8.onnx").read_bytes()[:-3000])
    with pytest.raises(UserError, match=r"cut.onnx: tensorrt .* it is no ONNX file, or is cut off; make it again"):
        runtime.build_int8(tmp_path / "cut.onnx", tmp_path / "plan", release=no_release)
    assert play.builds == []


def no_release(source: Path, target: Path, *, nodes: Any) -> list[str]:
    raise AssertionError("nothing is to be released")


def test_a_builder_that_does_not_start_is_said(build: Any, play: fake_tensorrt.Play) -> None:
    play.starts = False
    with pytest.raises(UserError, match=r"cannot start a builder here: CUDA initialization failure.*needs an NVIDIA"):
        build("fp32")


def test_errors_outside_a_build_go_to_the_log(trt: Any, library: Any, caplog: Any) -> None:
    first, second = runtimes.build("tensorrt", {}), runtimes.build("tensorrt", {})
    assert first.logger is second.logger  # TensorRT keeps to the first logger that it gets
    first.logger.log(trt.ILogger.WARNING, "hot")
    first.logger.log(trt.ILogger.ERROR, "too hot")
    assert [record.getMessage() for record in caplog.records] == ["tensorrt: too hot"]


@pytest.mark.parametrize(
    ("batch", "height", "option", "expected"),
    [
        ("n", 16, [1, 2, 4], {"frames": {"min": [1, 16, 16, 3], "opt": [2, 16, 16, 3], "max": [4, 16, 16, 3]}}),
        (1, 16, [1, 1, 1], None),
        (1, 16, None, None),
    ],
)
def test_an_open_batch_gets_a_profile(
    library: Any, play: fake_tensorrt.Play, small_deploy: Any, tmp_path: Path, batch: Any, height: Any, option: Any,
    expected: Any,
) -> None:  # fmt: skip
    file = tmp_path / "graph.onnx"
    file.write_bytes(small_deploy(batch=batch, height=height).SerializeToString())
    facts = runtimes.build("tensorrt", {"batch": option}).build(file, tmp_path / "plan")
    assert facts.get("profile") == expected
    given = [profile.shapes for profile in play.builds[0][1].profiles]
    assert given == ([{"frames": list(expected["frames"].values())}] if expected else [])


@pytest.mark.parametrize(
    ("batch", "height", "option", "message"),
    [
        ("n", 16, None, r"input 'frames' \[-1, 16, 16, 3\]: its batch is open; set convert.tensorrt.batch"),
        (1, "h", None, r"input 'frames' \[1, -1, 16, 3\]: dimension 1 is open; only dimension 0"),
        ("n", "h", [1, 2, 4], r"input 'frames' \[-1, -1, 16, 3\]: dimension 1 is open; only dimension 0"),
        (2, 16, [1, 2, 4], r"batch: got \[1, 2, 4\], but the graph has fixed sizes: frames \[2, 16, 16, 3\]; set it"),
    ],
)
def test_other_open_sizes_and_batches_are_refused(
    library: Any, play: fake_tensorrt.Play, small_deploy: Any, tmp_path: Path, batch: Any, height: Any, option: Any,
    message: str,
) -> None:  # fmt: skip
    file = tmp_path / "graph.onnx"
    file.write_bytes(small_deploy(batch=batch, height=height).SerializeToString())
    with pytest.raises(UserError, match=rf"graph.onnx: .*{message}"):
        runtimes.build("tensorrt", {"batch": option}).build(file, tmp_path / "plan")
    assert play.builds == []


def test_a_dla_core_is_set_with_fall_back_to_the_gpu(build: Any, trt: Any, play: fake_tensorrt.Play) -> None:
    play.dla_cores, play.runnable = 2, lambda layer: layer.type == trt.LayerType.CONVOLUTION
    facts = build("fp32", dla_core=1)
    config = play.builds[0][1]
    assert (config.default_device_type, config.DLA_core) == (trt.DeviceType.DLA, 1)
    assert config.given == [trt.BuilderFlag.GPU_FALLBACK]
    assert facts["dla"] == {"core": 1, "layers": 3}


@pytest.mark.parametrize(("cores", "core", "allowed"), [(0, 0, "there is none"), (2, 2, "0 to 1"), (2, -1, "0 to 1")])
def test_a_dla_core_that_is_not_there_is_refused(
    build: Any, play: fake_tensorrt.Play, tmp_path: Path, cores: int, core: int, allowed: str
) -> None:
    play.dla_cores = cores
    with pytest.raises(UserError, match=rf"convert.tensorrt.dla_core: got {core}; .*{allowed}"):
        build("fp32", dla_core=core)
    assert play.builds == [] and list(tmp_path.iterdir()) == []


def test_an_engine_is_loaded_on_its_dla_core(library: Any, play: fake_tensorrt.Play) -> None:
    runtimes.build("tensorrt", {"dla_core": 1}).new_runtime()
    runtimes.build("tensorrt", {}).new_runtime()
    assert [runtime.DLA_core for runtime in play.runtimes] == [1, 0]


def test_a_timing_cache_is_kept_and_read(
    build: Any, play: fake_tensorrt.Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(_cuda, "device", lambda: GPU)
    play.loads = False  # the inspector is another test
    folder = tmp_path / "caches" / "trt"
    options = {"timing_cache": str(folder)}
    assert build("fp32", **options)["timing_cache"] == "new"
    (file,) = folder.iterdir()
    assert file.read_bytes() == fake_tensorrt.CACHE
    assert build("fp32", **options)["timing_cache"] == "read"
    assert file.read_bytes() == fake_tensorrt.CACHE + b"+"
    assert not caplog.records
    for damaged in (b"unreadable", b"timed on another device: "):
        caplog.clear()
        file.write_bytes(damaged)
        assert build("fp32", **options)["timing_cache"] == "replaced"
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert file.read_bytes() == fake_tensorrt.CACHE
    assert list(folder.iterdir()) == [file]
    monkeypatch.setattr(_cuda, "device", lambda: {**GPU, "compute_capability": "8.9"})
    assert build("fp32", **options)["timing_cache"] == "new"
    assert build("fp32", **options, optimization_level=1)["timing_cache"] == "new"
    assert len(list(folder.iterdir())) == 3
    assert str(tmp_path) not in json.dumps(build("fp32", **options))


def test_a_failed_build_leaves_the_timing_cache_as_it_was(build: Any, play: fake_tensorrt.Play, tmp_path: Path) -> None:
    options = {"timing_cache": str(tmp_path / "caches")}
    play.fails = lambda network, config: "out of luck"
    with pytest.raises(UserError, match="out of luck"):
        build("fp32", **options)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "caches").write_text("a file is in the way")
    with pytest.raises(UserError, match=r"the timing cache cannot be read \(Not a directory\)"):
        build("fp32", **options)


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
            "a layer of which only the name is told",
        ],
        "I/O Tensors": [{"Name": "frames"}, {"Name": "labels"}],
    },
}


def test_on_a_gpu_the_layers_of_the_engine_lie_beside_it(
    library: Any, trt: Any, play: fake_tensorrt.Play, small_files: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(_cuda, "device", lambda: GPU)
    play.information = TOLD[trt.__version__[:3]]
    runtime = runtimes.build("tensorrt", {})
    given = {"name": "tensorrt", "options": {}, "meta": {"precision": "int8"}}
    runtimes.build_engine(runtime, small_files / "int8.onnx", tmp_path / "int8", **given)
    found = artifact.load(tmp_path / "int8", kind="engine")
    assert json.loads(found.file("layers.json").read_text()) == play.information
    expected = {"int8": 1, "float16": 1, "float32": 1, "uint8": 1, "unknown": 1}
    assert found.meta["build"]["data_types"] == expected
    assert found.meta["fingerprint"] == {"tensorrt": trt.__version__, **GPU}
    play.loads = False  # an engine for another GPU
    runtimes.build_engine(runtime, small_files / "int8.onnx", tmp_path / "int8", **given)
    found = artifact.load(tmp_path / "int8", kind="engine")
    assert "data_types" not in found.meta["build"]
    assert sorted(found.meta["files"]) == ["engine.plan"]
