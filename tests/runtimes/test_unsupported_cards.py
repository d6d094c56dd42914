"""GPUs that TensorRT or TensorRT-RTX does not support are refused before anything is built, with what to choose."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import artifact, plugins, runtimes
from pipeline.errors import UserError
from pipeline.evaluation import machine
from pipeline.runtimes import _cuda
from pipeline.runtimes.tensorrt_rtx import TARGETS, targets
from tests.runtimes import fake_tensorrt


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a GPU into this machine."""

    def put(compute_capability: str, name: str = "A Card") -> None:
        monkeypatch.setattr(_cuda, "device", lambda: {"gpu": name, "compute_capability": compute_capability})

    return put


@pytest.fixture
def rtx() -> Any:
    return pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed: pip install segpress[rtx]")


@pytest.mark.parametrize(
    ("version", "capability", "oldest"),
    [
        ("10.3.0.30", "6.1", "7.0"),
        ("10.3.0.30", "7.0", None),
        ("10.5.0", "7.0", "7.5"),
        ("11.4.0.106", "7.0", "7.5"),
        ("11.4.0.106", "7.5", None),
        ("11.4.0.106", "8.7", None),
        ("11.4.0.106", "12.1", None),
        ("10.5rc1", "7.0", "7.5"),
    ],
)
def test_tensorrt_refuses_cards_that_are_too_old(
    monkeypatch: pytest.MonkeyPatch, card: Any, version: str, capability: str, oldest: str | None
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.make(version)[0])
    card(capability, "Old Card")
    if oldest is None:
        assert runtimes.build("tensorrt", {}).version == version
        return
    with pytest.raises(UserError) as raised:
        runtimes.build("tensorrt", {})
    assert str(raised.value) == (
        f"tensorrt {version} does not support Old Card: its compute capability is {capability}, needed: {oldest} or "
        "more; choose convert.runtime: onnxruntime with convert.onnxruntime.provider: cuda"
    )


@pytest.mark.parametrize(
    ("name", "capability", "advice"),
    [
        ("tensorrt_rtx", "9.0", "tensorrt_rtx does not support Card: its compute capability is 9.0, supported: 7.5, "),
        ("tensorrt", "7.0", "tensorrt does not support Card: its compute capability is 7.0, needed: 7.5 or more"),
        ("tensorrt_rtx", "8.9", "pip install tensorrt-rtx"),
        ("tensorrt", "9.0", "pip install tensorrt "),
    ],
)
def test_a_missing_library_is_not_advised_for_a_card_that_it_does_not_support(
    monkeypatch: pytest.MonkeyPatch, card: Any, name: str, capability: str, advice: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    card(capability, "Card")
    with pytest.raises(UserError) as raised:
        runtimes.build(name, {})
    assert advice in str(raised.value)
    assert ("pip install" in str(raised.value)) == ("pip install" in advice)


def test_the_list_of_tensorrt_rtx_is_that_of_the_library(rtx: Any) -> None:
    assert tuple(targets(rtx)) == TARGETS


@pytest.mark.parametrize("capability", ["9.0", "10.0", "8.7", "7.0"])
def test_tensorrt_rtx_refuses_cards_that_it_has_no_target_for(rtx: Any, card: Any, capability: str) -> None:
    card(capability, "NVIDIA H200")
    with pytest.raises(UserError) as raised:
        runtimes.build("tensorrt_rtx", {})
    message = str(raised.value)
    assert f"does not support NVIDIA H200: its compute capability is {capability}, supported: 7.5, 8.0, " in message
    other = "tensorrt, or " if capability != "7.0" else ""
    assert message.endswith(f"choose convert.runtime: {other}onnxruntime with convert.onnxruntime.provider: cuda")


@pytest.mark.parametrize("capability", ["8.0", "8.6", "8.9", "12.0", "12.1"])
def test_tensorrt_rtx_takes_the_others(rtx: Any, card: Any, capability: str) -> None:
    card(capability)
    assert runtimes.build("tensorrt_rtx", {}).fingerprint()["compute_capability"] == capability


def test_a_named_target_may_be_built_anywhere(rtx: Any, card: Any, small_files: Path, tmp_path: Path) -> None:
    card("9.0")
    facts = runtimes.build("tensorrt_rtx", {"compute_capabilities": ["SM86"]}).build(
        small_files / "fp32.onnx", tmp_path / "engine.plan"
    )
    assert facts["compute_capabilities"] == ["SM86"]


def test_turing_is_set_as_the_target(rtx: Any, card: Any, small_files: Path, tmp_path: Path) -> None:
    """Engines without a target do not run there."""
    card("7.5", "NVIDIA GeForce RTX 2080")
    facts = runtimes.build("tensorrt_rtx", {}).build(small_files / "fp32.onnx", tmp_path / "engine.plan")
    assert facts["compute_capabilities"] == ["SM75"]


def test_an_engine_is_refused_on_such_a_card_without_advice_to_build_it_again(
    rtx: Any, card: Any, tmp_path: Path
) -> None:
    card("9.0", "NVIDIA H200")
    meta = {"runtime": "tensorrt_rtx", "runtime_options": {}, "fingerprint": {}}
    with artifact.create(tmp_path / "e", kind="engine", meta=meta) as folder:
        (folder / "engine.plan").write_bytes(b"plan")
    with pytest.raises(UserError, match="does not support NVIDIA H200") as raised:
        runtimes.open_engine(tmp_path / "e")
    assert "convert here" not in str(raised.value) and "choose convert.runtime: tensorrt" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "capability", "ranks"),
    [
        ("NVIDIA H200", "9.0", {"tensorrt": 2, "tensorrt_rtx": 0}),
        ("NVIDIA RTX of the future", "13.0", {"tensorrt": 2, "tensorrt_rtx": 0}),
        ("NVIDIA GeForce RTX 4090", "8.9", {"tensorrt": 2, "tensorrt_rtx": 2}),
        ("NVIDIA GeForce RTX 2080", "7.5", {"tensorrt": 2, "tensorrt_rtx": 2}),
        ("Tesla V100", "7.0", {"tensorrt": 0, "tensorrt_rtx": 0}),
    ],
)
def test_doctor_judges_by_the_same_rule(name: str, capability: str, ranks: dict[str, int]) -> None:
    facts: Any = {
        "gpus": [{"name": name, "driver": "570.1", "compute_capability": capability}],
        "jetson": None,
        "cpu": {"int8_kernels": "vnni"},
        "runtimes": {key: {"works": True} for key in runtimes.available()},
        "providers": {"cpu": {"works": True}, "cuda": {"works": True}},
    }
    fits = {key: plugins.load("runtimes", key).fit(facts) for key in ranks}
    assert {key: fit.rank for key, fit in fits.items()} == ranks
    for key, fit in fits.items():
        assert ("choose convert.runtime: " in fit.why) == (plugins.load("runtimes", key).unsupported(capability) != "")
    advice = machine.advise(facts)
    assert (advice["runtime"] == "onnxruntime") == (not any(ranks.values()))
