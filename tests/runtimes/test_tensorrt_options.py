"""Options of the TensorRT builder on imitations of 10.3 and 11: open batches, DLA cores, the timing cache."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from pipeline import runtimes
from pipeline.errors import UserError
from pipeline.runtimes import _cuda
from tests.runtimes.fake_tensorrt_network import CACHE, Play

GPU = {"gpu": "Orin", "compute_capability": "8.7"}


@pytest.mark.parametrize(
    ("batch", "height", "option", "expected"),
    [
        ("n", 16, [1, 2, 4], {"frames": {"min": [1, 16, 16, 3], "opt": [2, 16, 16, 3], "max": [4, 16, 16, 3]}}),
        (1, 16, [1, 1, 1], None),
        (1, 16, None, None),
    ],
)
def test_an_open_batch_gets_a_profile(
    library: Any, play: Play, small_deploy: Any, tmp_path: Path, batch: Any, height: Any, option: Any,
    expected: Any,
) -> None:  # fmt: skip
    file = tmp_path / "graph.onnx"
    file.write_bytes(small_deploy(batch=batch, height=height).SerializeToString())
    facts = runtimes.build("tensorrt", {"batch": option}).build(file, tmp_path / "plan")
    assert facts.get("profile") == expected
    shapes = [profile.shapes for profile in play.builds[0][1].profiles]
    assert shapes == ([{"frames": list(expected["frames"].values())}] if expected else [])


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
    library: Any, play: Play, small_deploy: Any, tmp_path: Path, batch: Any, height: Any, option: Any,
    message: str,
) -> None:  # fmt: skip
    file = tmp_path / "graph.onnx"
    file.write_bytes(small_deploy(batch=batch, height=height).SerializeToString())
    with pytest.raises(UserError, match=rf"graph.onnx: .*{message}"):
        runtimes.build("tensorrt", {"batch": option}).build(file, tmp_path / "plan")
    assert play.builds == []


def test_a_dla_core_is_set_with_fall_back_to_the_gpu(build: Any, trt: Any, play: Play) -> None:
    play.dla_cores, play.runnable = 2, lambda layer: layer.type == trt.LayerType.CONVOLUTION
    facts = build("fp32", dla_core=1)
    config = play.builds[0][1]
    assert (config.default_device_type, config.DLA_core) == (trt.DeviceType.DLA, 1)
    assert config.set_flags == [trt.BuilderFlag.GPU_FALLBACK]
    assert facts["dla"] == {"core": 1, "layers": 3}


@pytest.mark.parametrize(("cores", "core", "allowed"), [(0, 0, "there is none"), (2, 2, "0 to 1")])
def test_a_dla_core_that_is_not_there_is_refused(
    build: Any, play: Play, tmp_path: Path, cores: int, core: int, allowed: str
) -> None:
    play.dla_cores = cores
    with pytest.raises(UserError, match=rf"convert.tensorrt.dla_core: got {core}; .*{allowed}"):
        build("fp32", dla_core=core)
    assert play.builds == [] and list(tmp_path.iterdir()) == []


def test_an_engine_is_loaded_on_its_dla_core(library: Any, play: Play) -> None:
    runtimes.build("tensorrt", {"dla_core": 1}).new_runtime()
    runtimes.build("tensorrt", {}).new_runtime()
    assert [runtime.DLA_core for runtime in play.runtimes] == [1, 0]


def test_a_timing_cache_is_kept_and_read(
    build: Any, play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(_cuda, "device", lambda: GPU)
    play.loads = False  # the inspector is another test
    folder = tmp_path / "caches" / "trt"
    options = {"timing_cache": str(folder)}
    assert build("fp32", **options)["timing_cache"] == "new"
    (file,) = folder.iterdir()
    assert file.read_bytes() == CACHE
    assert build("fp32", **options)["timing_cache"] == "read"
    assert file.read_bytes() == CACHE + b"+"
    assert not caplog.records
    for damaged in (b"unreadable", b"timed on another device: "):
        caplog.clear()
        file.write_bytes(damaged)
        assert build("fp32", **options)["timing_cache"] == "replaced"
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert file.read_bytes() == CACHE
    assert list(folder.iterdir()) == [file]
    monkeypatch.setattr(_cuda, "device", lambda: {**GPU, "compute_capability": "8.9"})
    assert build("fp32", **options)["timing_cache"] == "new"
    assert build("fp32", **options, optimization_level=1)["timing_cache"] == "new"
    assert len(list(folder.iterdir())) == 3
    assert str(tmp_path) not in json.dumps(build("fp32", **options))


def test_a_failed_build_leaves_the_timing_cache_as_it_was(build: Any, play: Play, tmp_path: Path) -> None:
    options = {"timing_cache": str(tmp_path / "caches")}
    play.fails = lambda network, config: "out of luck"
    with pytest.raises(UserError, match="out of luck"):
        build("fp32", **options)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "caches").write_text("a file is in the way")
    with pytest.raises(UserError, match=r"the timing cache cannot be read \(Not a directory\)"):
        build("fp32", **options)
