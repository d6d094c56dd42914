"""Checkpoints are read as data: containers are opened, no code runs, and other files give one clear message."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline import artifact
from pipeline.errors import UserError
from pipeline.models.weights.checkpoint import read
from pipeline.models.weights.conversion import conversion

STATE = {"conv.weight": torch.arange(6.0).reshape(2, 3, 1, 1), "conv.bias": torch.tensor([1.0, 2.0])}


def save(file: Path, content: Any) -> Path:
    torch.save(content, file)
    return file


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3, "optimizer": {"state": {}}},
        {"model": {"state_dict": STATE}, "best": 0.5},
        {"model_state_dict": STATE, "classes": ["a", "b"]},
        {**STATE, "version": 2},
    ],
    ids=["bare", "state_dict", "nested", "model_state_dict", "beside a number"],
)
def test_containers_are_opened(tmp_path: Path, content: Any) -> None:
    file = save(tmp_path / "x.pth", content)
    checkpoint = read(file, where="model.weights")
    assert checkpoint.source == "x.pth" and checkpoint.sha256 == artifact.sha256(file)
    assert checkpoint.tensors.keys() == STATE.keys()
    assert all(torch.equal(checkpoint.tensors[name], value) for name, value in STATE.items())
    assert checkpoint.classes == (("a", "b") if "classes" in content else None)


def test_the_log_names_the_container_and_unused_entries(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    read(save(tmp_path / "x.pth", {"model": {"state_dict": {**STATE, "n": 1}}, "epoch": 3}), where="model.weights")
    assert "x.pth: read model.state_dict; not used: epoch" in caplog.text
    assert "1 entries are not tensors and not used: n" in caplog.text


def test_class_names_of_safetensors_headers(tmp_path: Path) -> None:
    headers = [
        ({"segpress": json.dumps({"classes": ["a", "b"]})}, ("a", "b")),
        ({"id2label": json.dumps({"1": "b", "0": "a"})}, ("a", "b")),
        ({"classes": "not json"}, None),
        ({"id2label": json.dumps({"0": "LABEL_0", "1": "LABEL_1"})}, None),
        ({"id2label": json.dumps({"0": "a", "2": "c"})}, None),
    ]
    for header, names in headers:
        save_file(STATE, tmp_path / "x.safetensors", metadata=header)
        assert read(tmp_path / "x.safetensors", where="model.weights").classes == names


def test_class_names_of_openmmlab_and_lightning(tmp_path: Path) -> None:
    for beside in (
        {"meta": {"CLASSES": ("a", "b")}},
        {"meta": {"dataset_meta": {"classes": ("a", "b")}}},
        {"hyper_parameters": {"class_names": ["a", "b"]}},
    ):
        file = save(tmp_path / "x.pth", {"state_dict": STATE, **beside})
        assert read(file, where="model.weights").classes == ("a", "b")


class Malicious:
    """Runs a command where it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["x.pth", "x.pt", "x.ckpt", "pytorch_model.bin"])
def test_code_in_a_pickle_is_never_run(tmp_path: Path, name: str, zipped: bool) -> None:
    proof = tmp_path / "proof"
    content = {"state_dict": {**STATE, "x": Malicious(f"touch '{proof}'")}}
    torch.save(content, tmp_path / name, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"only unpickling can read it \(it needs (posix|nt)\.system\)") as caught:
        read(tmp_path / name, where="model.weights")
    assert conversion(tmp_path / name) in str(caught.value) and not proof.exists()
    torch.load(tmp_path / name, weights_only=False)  # the file does run its command if it is unpickled
    assert proof.exists()


def test_an_environment_variable_does_not_allow_unpickling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    proof = tmp_path / "proof"
    with pytest.raises(UserError, match="only unpickling"):
        read(save(tmp_path / "x.pth", {"x": Malicious(f"touch '{proof}'")}), where="model.weights")
    assert not proof.exists()


def zip_of_text(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "hello")


def truncated(file: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"state_dict": {"w": torch.zeros(1000)}}, buffer)
    file.write_bytes(buffer.getvalue()[:900])


def torchscript(file: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Conv2d(1, 1, 1)), file)


BAD: list[tuple[str, Callable[[Path], object], str]] = [
    ("x.pth", zip_of_text, "not a readable torch file"),
    ("x.pth", truncated, "not a readable torch file"),
    ("x.pth", lambda file: file.write_bytes(b"\n <!DOCTYPE html><html>not found</html>"), "it is a web page"),
    ("x.safetensors", lambda file: file.write_bytes(b"<html>"), "not a readable safetensors file.*it is a web page"),
    ("x.pth", lambda file: file.write_bytes(b""), "it is empty"),
    ("x.pth", lambda file: file.write_bytes(bytes(range(256)) * 8), "not a readable torch file"),
    (
        "x.pth",
        lambda file: file.write_bytes(b"\x1f\x8b" + bytes(50)),
        r"not a readable torch file \(no format of torch\)",
    ),
    ("x.pth", lambda file: file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0"), "git lfs pull"),
    ("x.pth", torchscript, "TorchScript archive"),
    ("x.pth", lambda file: torch.save(nn.Conv2d(1, 1, 1), file), r"it needs torch\.nn\.modules\.conv\.Conv2d"),
    ("x.pth", lambda file: torch.save({"miou": np.float64(3), **STATE}, file), "it needs numpy"),
    ("x.pth", lambda file: torch.save(torch.zeros(3), file), "holds a Tensor; tensors by name are needed"),
    ("x.pth", lambda file: torch.save({"epoch": 3}, file), "holds a mapping of epoch; tensors by name"),
    ("x.pth", lambda file: torch.save({"w": torch.zeros(2, 2).to_sparse()}, file), "w: a sparse or nested tensor"),
    ("x.pth", lambda file: torch.save({"w": torch.zeros(2, dtype=torch.complex64)}, file), "w: a torch.complex64"),
    ("x.pth", lambda file: torch.save({"w": torch.zeros(2, device="meta")}, file), "w: a meta tensor"),
    (
        "x.pth",
        lambda file: torch.save({"w": torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8)}, file),
        "w: a torch.qint8 tensor",
    ),
    ("x.pth", lambda file: file.mkdir(), "is not the folder of a network"),
    ("x.pth", lambda file: None, "no such file; a relative path counts from the project's root"),
]


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize(("name", "write", "message"), BAD)
def test_other_files_give_one_message(tmp_path: Path, name: str, write: Callable[[Path], object], message: str) -> None:
    write(tmp_path / name)
    with pytest.raises(UserError, match=f"(?s)model.weights: .*{message}"):
        read(tmp_path / name, where="model.weights")


def test_a_container_that_contains_itself_is_refused(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    content["model"] = content
    with pytest.raises(UserError, match="holds a mapping of model"):
        read(save(tmp_path / "x.pth", content), where="model.weights")


def test_a_section_that_contains_itself_names_no_classes(tmp_path: Path) -> None:
    content: dict[str, Any] = {"state_dict": STATE}
    content["meta"] = content
    assert read(save(tmp_path / "x.pth", content), where="model.weights").classes is None


EMA = {**{f"module.{name}": value + 1 for name, value in STATE.items()}, "n_averaged": torch.tensor(3)}


def converted(file: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    """Run the conversion program of the error message about ``file``, and read the tensors of its result."""
    with pytest.raises(UserError) as caught:
        read(file, where="model.weights", **options)
    _, _, program, *files = shlex.split(str(caught.value)[str(caught.value).index("python -c") :])
    assert files[0] == str(file) and not Path(files[1]).exists()
    monkeypatch.setattr("sys.argv", ["-c", *files])
    exec(program, {})
    return read(Path(files[1]), where="model.weights").tensors


@pytest.mark.parametrize(
    "content",
    [
        {
            "model": STATE,
            "optimizer": {"state": {}},
            "args": argparse.Namespace(lr=1),
            "model_ema": EMA,
        },  # torchvision's
        {"state_dict": STATE, "miou": np.float64(3)},
        {**STATE, "miou": np.float64(3)},
        {"checkpoint": 1, "model": {"state_dict": STATE}, "args": argparse.Namespace()},
        {"model": {name: value.numpy() for name, value in STATE.items()}},  # Detectron2's
        {"state_dict": {**STATE, "conv.bias": nn.Parameter(STATE["conv.bias"])}, "x": np.float32(1)},
    ],
    ids=["model", "state_dict", "bare", "nested", "numpy", "parameter"],
)
def test_the_conversion_that_is_advised_works(tmp_path: Path, content: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = converted(save(tmp_path / "a file's.pth", content), monkeypatch)
    assert tensors.keys() == STATE.keys() and all(torch.equal(tensors[name], value) for name, value in STATE.items())


def test_the_conversion_opens_modules_and_takes_the_named_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = nn.Conv2d(1, 1, 1)
    for number, content in enumerate((module, {"model": module, "epoch": 3})):
        assert torch.equal(converted(save(tmp_path / f"{number}.pth", content), monkeypatch)["bias"], module.bias)
    file = save(tmp_path / "x.pth", {"model": STATE, "model_ema": EMA, "args": argparse.Namespace()})
    assert torch.equal(converted(file, monkeypatch, key="model_ema")["module.conv.bias"], EMA["module.conv.bias"])
    shared = torch.ones(2)
    file = save(tmp_path / "pytorch_model.bin", {"a": shared, "b": shared, "c": argparse.Namespace()})
    assert converted(file, monkeypatch).keys() == {"a", "b"} and (tmp_path / "model.safetensors").is_file()


def test_the_conversion_runs_in_a_shell(tmp_path: Path) -> None:
    file = save(tmp_path / "a $file.pth", {"model": STATE, "args": argparse.Namespace()})
    line = conversion(file)[len("if you trust the file, convert it: python") :]
    process = subprocess.run(f"'{sys.executable}'{line}", shell=True, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert read(tmp_path / "a $file.safetensors", where="model.weights").tensors.keys() == STATE.keys()


def test_averages_are_named_and_used_on_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = save(tmp_path / "x.pth", {"model": STATE, "model_ema": EMA, "outer": {"inner": {"w": torch.ones(1)}}})
    assert read(file, where="model.weights").tensors.keys() == STATE.keys()
    assert (
        "x.pth holds several sets of weights; model is used, not model_ema: choose with model.weights_key"
        in caplog.text
    )
    assert read(file, where="model.weights", key="model_ema").tensors.keys() == EMA.keys()
    assert read(file, where="model.weights", key="outer.inner").tensors.keys() == {"w"}
    with pytest.raises(
        UserError, match=r"weights_key: .* no tensors by name under 'model_emma'; did you mean 'model_ema'"
    ):
        read(file, where="model.weights", key="model_emma")
    alone = save(tmp_path / "y.pth", {"state_dict_ema": STATE, "epoch": 3})
    assert read(alone, where="model.weights").tensors.keys() == STATE.keys()
    save_file(STATE, tmp_path / "z.safetensors")
    with pytest.raises(UserError, match=r"weights_key: .* is a safetensors file"):
        read(tmp_path / "z.safetensors", where="model.weights", key="model_ema")


def test_the_content_of_a_checkpoint_counts_and_not_its_suffix(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "x.pth", metadata={"classes": json.dumps(["a", "b"])})
    save(tmp_path / "y.safetensors", {"state_dict": STATE})
    torch.save(STATE, tmp_path / "z.safetensors", _use_new_zipfile_serialization=False)
    for name in ("x.pth", "y.safetensors", "z.safetensors"):
        checkpoint = read(tmp_path / name, where="model.weights")
        assert all(torch.equal(checkpoint.tensors[key], value) for key, value in STATE.items()), name
        assert checkpoint.classes == (("a", "b") if name == "x.pth" else None)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("part", [0.3, 0.9, 0.999])
def test_the_error_says_that_a_file_was_cut_short(tmp_path: Path, kind: str, part: float) -> None:
    file = tmp_path / "x.pth"
    state = {"w": torch.arange(1000.0), "v": torch.ones(100)}
    if kind == "safetensors":
        save_file(state, file)
    else:
        torch.save(state, file, _use_new_zipfile_serialization=kind == "zip")
    whole = file.read_bytes()
    file.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(UserError, match=r"it is cut short, at [0-9]+ bytes: download or copy it again"):
        read(file, where="model.weights")
