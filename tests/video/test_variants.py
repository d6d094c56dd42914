"""A folder with variants of an engine: the recorded one runs; without a valid record INT8, and the log says so."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import artifact, runtimes
from pipeline.errors import UserError
from pipeline.evaluation import fastest
from pipeline.video.engines import chosen, open_engines
from pipeline.video.segmenter import Segmenter

PRECISIONS = ("fp32", "fp16", "int8")


def record(engines: Path, variant: str | None) -> None:
    """The record of a check of these engines that chose ``variant``."""
    choice = {"variant": variant, "what": f"{variant} is the fastest"}
    fastest.write(engines, {"fastest": choice, "device": {"name": "CPU X"}})


@pytest.fixture
def fakes(tmp_path: Path) -> Path:
    """Three artifacts that look like engines."""
    for name in PRECISIONS:
        with artifact.create(tmp_path / "kd" / name, kind="engine", meta={}) as folder:
            (folder / "engine.onnx").write_text(name)
    return tmp_path / "kd"


@pytest.mark.parametrize("variant", PRECISIONS)
def test_the_recorded_variant_is_chosen(fakes: Path, caplog: pytest.LogCaptureFixture, variant: str) -> None:
    record(fakes, variant)
    with caplog.at_level(logging.INFO):
        assert chosen(fakes) == fakes / variant
    assert caplog.messages == [f"{fakes / variant} is used: {variant} is the fastest ({fakes}.json)"]
    assert caplog.records[0].levelno == logging.INFO


@pytest.mark.parametrize(
    ("case", "variant", "why"),
    [
        (
            "no record",
            "int8",
            "kd.json does not exist, so the fastest variant is not known; measure it with: dvc repro",
        ),
        ("none kept its budgets", "int8", "None is the fastest ("),
        ("engines were built again", "int8", "kd.json is about other engines, so the fastest variant is not known"),
        ("the fastest was deleted", "int8", "kd.json names fp16 as the fastest variant, and "),
        ("no int8", "fp16", "kd.json does not exist"),
    ],
)
def test_without_a_valid_record_the_log_says_what_is_used(
    fakes: Path, caplog: pytest.LogCaptureFixture, case: str, variant: str, why: str
) -> None:
    if case == "none kept its budgets":
        record(fakes, None)
    elif case == "engines were built again":
        record(fakes, "fp16")
        with artifact.create(fakes / "fp32", kind="engine", meta={}) as folder:
            (folder / "engine.onnx").write_text("another")
    elif case == "the fastest was deleted":
        record(fakes, "fp16")
        shutil.rmtree(fakes / "fp16")
    elif case == "no int8":
        shutil.rmtree(fakes / "int8")
    assert chosen(fakes) == fakes / variant
    (line,) = caplog.messages
    assert line.startswith(f"{fakes / variant} is used: ") and why in line
    assert caplog.records[0].levelno == logging.WARNING, "a program that embeds segpress shows it"


def test_other_folders_are_left_as_they_are(fakes: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    record(fakes, "fp16")
    for place in (fakes / "int8", tmp_path, tmp_path / "nowhere"):
        assert chosen(place) == place
    assert not caplog.messages
    with pytest.raises(UserError, match=r"has no meta\.json, so it is no artifact"):
        open_engines(tmp_path)


def test_damage_is_an_error(fakes: Path) -> None:
    fastest.record_of(fakes).write_text("[]")
    with pytest.raises(UserError, match=r"kd\.json: holds a list where a JSON object is needed; delete it, or measure"):
        chosen(fakes)
    (fakes / "fp32/engine.onnx").unlink()
    with pytest.raises(UserError, match=r"payload 'engine\.onnx' is missing"):
        chosen(fakes)


def test_the_segmenter_runs_the_recorded_variant(student: Any, tmp_path: Path) -> None:
    options = {"threads": 1}
    runtime = runtimes.build("onnxruntime", options)
    engines = tmp_path / "kd"
    runtimes.build_engines(runtime, student.onnx, student.int8, engines, name="onnxruntime", options=options)
    frame = student.frames[0]
    expected = {name: runtimes.open_engine(engines / name)[0].run(frame[None])[0] for name in ("fp32", "int8")}
    assert (expected["fp32"] != expected["int8"]).any(), "the labels tell which one ran"
    for variant, labels in expected.items():
        record(engines, variant)
        assert json.loads((tmp_path / "kd.json").read_text())["variant"] == variant
        with Segmenter(engines) as segmenter:
            assert np.array_equal(segmenter.mask(frame), labels)
        opened, facts = open_engines(engines)
        assert facts.path == engines / variant
        for engine in opened:
            engine.close()
