"""Mixed precision, memory formats and compilation: losses are close to float32; impossible choices are refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from pipeline.errors import UserError


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """accelerate keeps one precision per process, as for one run; these tests use several."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


def loss_curve(folder: Path) -> list[float]:
    return [float(line.split("\t")[1]) for line in next(folder.rglob("loss.tsv")).read_text().splitlines()[1:]]


def curves(bench: Any, folder: Path, **change: Any) -> list[list[float]]:
    """Losses of a run without and with a change of its options."""
    for name, options in (("plain", {}), ("changed", change)):
        AcceleratorState._reset_state()
        bench.train(bench.image_by_image(bench.distillation("kd")), folder / name, **bench.SGD, **options)
    return [loss_curve(folder / name) for name in ("plain", "changed")]


@pytest.mark.parametrize(
    ("change", "tolerance"),
    [({"precision": "bf16"}, 0.05), ({"channels_last": True}, 1e-3), ({"store": "decoded"}, 0.0)],
)
def test_settings_that_change_losses_only_by_rounding(
    bench: Any, tmp_path: Path, change: dict[str, Any], tolerance: float
) -> None:
    plain, changed = curves(bench, tmp_path, **change)
    assert changed == pytest.approx(plain, rel=tolerance, abs=tolerance) and len(plain) == 4


@pytest.mark.slow
def test_compiled_networks_give_the_same_losses(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced and differentiated as by torch.compile, but without its C++ code, which would take minutes to build."""
    whole = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: whole(module, backend="aot_eager"))
    for name, compiled in (("plain", False), ("changed", True)):
        bench.train(bench.image_by_image(bench.supervised()), tmp_path / name, steps=2, compile=compiled, **bench.SGD)
    assert loss_curve(tmp_path / "changed") == pytest.approx(loss_curve(tmp_path / "plain"), rel=1e-3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 works here")
def test_fp16_needs_a_gpu(bench: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="precision: got 'fp16', which needs a GPU"):
        bench.train(bench.supervised(), tmp_path, precision="fp16")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and its driver; this machine has none")
@pytest.mark.parametrize("change", [{"precision": "fp16"}, {"precision": "bf16", "channels_last": True}])
def test_mixed_precision_on_a_gpu(bench: Any, tmp_path: Path, change: dict[str, Any]) -> None:
    plain, changed = curves(bench, tmp_path, **change)
    assert changed == pytest.approx(plain, rel=0.05)
