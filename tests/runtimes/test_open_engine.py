"""open_engine loads complete engines of this machine; its errors say what to do about all others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import artifact, runtimes
from pipeline.errors import UserError


@pytest.fixture
def engine(engine_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(engine_folder, tmp_path / "fp32"))


@pytest.fixture
def edit(engine: Path) -> Callable[..., None]:
    """Change keys of meta.json; None removes one."""

    def change(**values: Any) -> None:
        meta = json.loads((engine / "meta.json").read_text())
        meta.update(values)
        (engine / "meta.json").write_text(json.dumps({key: value for key, value in meta.items() if value is not None}))

    return change


def test_a_whole_engine_opens(engine: Path, student: Any, plain_run: Callable[..., Any], facts: Any) -> None:
    opened, source = runtimes.open_engine(engine)
    labels = opened.run(student.frames[1][None])
    assert (labels == plain_run(student.onnx.file("fp32.onnx"), student.frames[1][None])).mean() > 0.999
    assert source.labels.names == tuple("abcde")
    assert sorted(p.name for p in engine.iterdir()) == ["engine.onnx", "meta.json"]
    assert {key: source.meta[key] for key in facts} == facts
    assert (source.meta["runtime"], source.meta["runtime_options"]) == ("onnxruntime", {"threads": 1})
    assert source.meta["files"] == {"engine.onnx": artifact.sha256(engine / "engine.onnx")}
    text = (engine / "meta.json").read_text()
    assert str(engine.parent) not in text
    assert str(Path.home()) not in text


def test_options_can_be_overridden(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    build = runtimes.build
    monkeypatch.setattr(runtimes, "build", lambda name, options: seen.append(options) or build(name, options))
    runtimes.open_engine(engine, options={"threads": 2})
    runtimes.open_engine(engine)
    assert seen == [{"threads": 2}, {"threads": 1}]
    with pytest.raises(UserError, match="did you mean 'threads'"):
        runtimes.open_engine(engine, options={"thread": 2})


def test_a_changed_payload_is_refused(engine: Path) -> None:
    data = bytearray((engine / "engine.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (engine / "engine.onnx").write_bytes(data)
    with pytest.raises(UserError, match=r"(?s)'engine.onnx' was changed after it was written.*dvc repro"):
        runtimes.open_engine(engine)


def test_engines_know_the_labels_of_the_network_and_their_original_ids(student: Any, tmp_path: Path) -> None:
    options = {"threads": 1}
    runtime = runtimes.build("onnxruntime", options)
    built = runtimes.build_engines(runtime, student.onnx, student.int8, tmp_path, name="onnxruntime", options=options)
    assert student.labels.original_ids is not None
    labels = {precision: runtimes.open_engine(folder)[1].labels for precision, folder in built.items()}
    assert labels == dict.fromkeys(("fp32", "fp16", "int8"), student.labels)


@pytest.mark.parametrize(("real", "reliable"), [(True, False), (False, False), (True, True)])
def test_a_float16_file_that_disagrees_is_warned_of(
    student: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, real: bool, reliable: bool
) -> None:
    """Where the runtime computes in float16; a CPU computes the same file in float32."""
    options = {"threads": 1}
    runtime = runtimes.build("onnxruntime", options)
    runtime.real_float16 = real
    meta = {**student.onnx.meta, "float16": {"reliable": reliable, "float32_nodes": {}}}
    meta["parity"] = {**meta["parity"], "agreement": {"fp32": 1.0, "fp16": 0.4912}}
    source = artifact.Artifact(path=student.onnx.path, meta=meta)
    late = {} if reliable else {"float16": {"float32_nodes": {}, "fp16_overflows": {"x": "7e+04"}}}
    int8 = artifact.Artifact(path=student.int8.path, meta={**student.int8.meta, **late})
    runtimes.build_engines(runtime, source, int8, tmp_path, name="onnxruntime", options=options)
    warning = "fp16: warning: in float16 only 49.12% of pixels get the label of float32"
    assert (warning in caplog.text) == (real and not reliable)
    warning = "fp16: warning: in float16 it overflows on calibration frames, at x; use the fp32 or int8 engine"
    assert (warning in caplog.text) == (real and not reliable)


@pytest.mark.parametrize("name", ["engine.onnx", "meta.json"])
def test_a_missing_file_is_named(engine: Path, name: str) -> None:
    (engine / name).unlink()
    with pytest.raises(UserError, match=rf"(?s){name}.*dvc repro"):
        runtimes.open_engine(engine)
    with pytest.raises(UserError, match=r"has no meta.json"):
        runtimes.open_engine(engine.parent / "nowhere")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "\x00\ufffd", '{"kind": "engine"}'])
def test_a_broken_meta_file_is_refused(engine: Path, text: str) -> None:
    (engine / "meta.json").write_text(text)
    with pytest.raises(UserError, match=r"meta.json: (not JSON|missing: |holds a \w+ where).*dvc repro"):
        runtimes.open_engine(engine)


@pytest.mark.parametrize("key", ["kind", "files", "format", "runtime", "runtime_options", "fingerprint"])
def test_a_meta_file_without_a_key_is_refused(engine: Path, edit: Callable[..., None], key: str) -> None:
    edit(**{key: None})
    with pytest.raises(UserError, match=rf"meta.json: missing: {key}.*dvc repro"):
        runtimes.open_engine(engine)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"files": {}}, r"has no file 'engine.onnx'"),
        ({"files": {"engine.onnx": "0" * 64}}, r"'engine.onnx' was changed after it was written"),
        ({"format": 99}, r"got format 99; allowed: 1"),
        ({"kind": "onnx"}, r"got an artifact of kind 'onnx'; needed: 'engine'"),
        ({"runtime": "onnxruntim"}, r"no plugin 'onnxruntim'; did you mean 'onnxruntime'"),
        ({"runtime_options": {"thread": 1}}, r"thread: unknown option; did you mean 'threads'"),
    ],
)
def test_a_changed_meta_file_is_refused(
    engine: Path, edit: Callable[..., None], values: dict[str, Any], message: str
) -> None:
    edit(**values)
    with pytest.raises(UserError, match=message):
        runtimes.open_engine(engine)


def test_an_onnx_artifact_is_no_engine(student: Any) -> None:
    with pytest.raises(UserError, match=r"got an artifact of kind 'onnx'; needed: 'engine'"):
        runtimes.open_engine(student.onnx.path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("onnxruntime", "1.18.0"), ("machine", "aarch64"), ("cpu", "Cortex-A78AE"), ("gpu", "NVIDIA Orin")],
)
def test_an_engine_of_another_machine_is_refused(engine: Path, edit: Callable[..., None], key: str, value: str) -> None:
    here = json.loads((engine / "meta.json").read_text())["fingerprint"]
    edit(fingerprint={**here, key: value})
    has = here.get(key, "none")
    with pytest.raises(UserError) as raised:
        runtimes.open_engine(engine)
    message = str(raised.value)
    assert f"{key}: built for {value}, this machine has {has}" in message
    assert "engines do not move" in message
    assert "dvc repro -f convert" in message
    assert message.count("built for") == 1


def test_a_failed_build_leaves_nothing(tmp_path: Path, facts: Any) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"broken")
    runtime = runtimes.build("onnxruntime", {})
    with pytest.raises(UserError, match="cannot load it"):
        runtimes.build_engine(
            runtime, tmp_path / "broken.onnx", tmp_path / "e", name="onnxruntime", options={}, meta=facts
        )
    assert [p.name for p in tmp_path.iterdir()] == ["broken.onnx"]
