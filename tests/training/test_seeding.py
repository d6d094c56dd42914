"""Determinism is a choice: which kernels each one takes, on which device, and the messages about it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import UserError
from pipeline.settings import params
from pipeline.training import run
from pipeline.training.seeding import STRICT_ON_A_GPU, choose_kernels, seed_everything

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def kernels_of_before() -> Iterator[None]:
    strict, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(strict, warn_only=True)
    torch.backends.cudnn.benchmark = benchmark


@pytest.mark.parametrize(
    ("determinism", "device", "strict"),
    [
        ("auto", "cpu", True), ("auto", "cuda", False), ("strict", "cpu", True), ("strict", "cuda", True),
        ("off", "cpu", False), ("off", "cuda", False),
    ],
)  # fmt: skip
def test_kernels_of_each_choice(determinism: Any, device: str, strict: bool) -> None:
    messages: list[str] = []
    choose_kernels(determinism, device=torch.device(device), say=messages.append)
    assert torch.are_deterministic_algorithms_enabled() == strict
    assert torch.is_deterministic_algorithms_warn_only_enabled(), "a missing kernel is a warning"
    assert torch.backends.cudnn.benchmark == (not strict)
    assert messages == ([STRICT_ON_A_GPU] if strict and device == "cuda" else [])


def test_new_tensors_are_not_filled() -> None:
    """torch's default fills each with NaN in strict mode: time for nothing, on a CPU too."""
    choose_kernels("strict", device=torch.device("cpu"))
    assert not torch.utils.deterministic.fill_uninitialized_memory


def test_a_run_chooses_by_its_own_device(bench: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    seed_everything(0)
    caplog.set_level(logging.DEBUG)
    bench.train(bench.supervised(), tmp_path / "off", steps=1, determinism="off")
    assert not torch.are_deterministic_algorithms_enabled()
    bench.train(bench.supervised(), tmp_path / "auto", steps=1)
    assert torch.are_deterministic_algorithms_enabled() and "determinism" not in caplog.text


def test_strict_on_a_gpu_says_what_it_costs(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        run,
        "choose_kernels",
        lambda determinism, device, say: choose_kernels(determinism, device=torch.device("cuda"), say=say),
    )
    bench.train(bench.supervised(), tmp_path, steps=1, determinism="strict")
    (message,) = [text for text in caplog.messages if text.startswith("determinism")]
    assert "2.9 times" in message and "cross-entropy on CUDA has none" in message and "auto trains faster" in message


def test_params_take_the_three_choices_and_no_other(tmp_path: Path) -> None:
    text, file = (ROOT / "params.yaml").read_text(), tmp_path / "params.yaml"
    for choice in ("auto", "strict", "off"):  # off is text in YAML 1.2, not false
        file.write_text(text.replace("determinism: auto", f"determinism: {choice}"))
        assert params.load(file, kinds=()).distill.determinism == choice
    file.write_text(
        text.replace("determinism: auto", "determinism: yes", 1).replace("log_every: null", "log_every: 0", 1)
    )
    with pytest.raises(UserError, match=r"determinism: got 'yes'[\s\S]*log_every: got 0"):
        params.load(file, kinds=())
