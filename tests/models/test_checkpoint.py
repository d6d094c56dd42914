"""Checkpoints are read as data: containers opened, nothing run, one clear message for what cannot be read."""

from __future__ import annotations

import io
import json
import logging
import os
import shlex
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
from pipeline.models._checkpoint import CONVERT, read

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
    found = read(file, where="model.weights")
    assert found.source == "x.pth" and found.sha256 == artifact.sha256(file)
    assert found.tensors.keys() == STATE.keys()
    assert all(torch.equal(found.tensors[name], value) for name, value in STATE.items())
    assert found.classes == (("a", "b") if "classes" in content else None)


def test_the_log_says_what_was_opened(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    read(save(tmp_path / "x.pth", {"model": {"state_dict": {**STATE, "n": 1}}, "epoch": 3}), where="model.weights")
    assert "x.pth: read model.state_dict; not used: epoch" in caplog.text
    assert "1 entries are no tensors and not used: n" in caplog.text


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
    with pytest.raises(UserError, match=r"only unpickling could read it \(it asks for (posix|nt)\.system\)") as caught:
        read(tmp_path / name, where="model.weights")
    assert CONVERT in str(caught.value) and not proof.exists()
    torch.load(tmp_path / name, weights_only=False)  # the file does what it is meant to do
    assert proof.exists()


def test_an_environment_variable_does_not_open_the_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    ("x.pth", lambda file: file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0"), "git lfs pull"),
    ("x.pth", torchscript, "TorchScript archive"),
    ("x.pth", lambda file: torch.save(nn.Conv2d(1, 1, 1), file), r"it asks for torch\.nn\.modules\.conv\.Conv2d"),
    ("x.pth", lambda file: torch.save({"miou": np.float64(3), **STATE}, file), "it asks for numpy"),
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
    ("x.pth", lambda file: file.mkdir(), "no folder of a network"),
    ("x.pth", lambda file: None, "no such file; a relative path counts from the project's root"),
]


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize(("name", "write", "said"), BAD)
def test_what_is_no_checkpoint_gives_one_message(
    tmp_path: Path, name: str, write: Callable[[Path], object], said: str
) -> None:
    write(tmp_path / name)
    with pytest.raises(UserError, match=f"(?s)model.weights: .*{said}"):
        read(tmp_path / name, where="model.weights")


def test_a_container_in_itself_ends(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    content["model"] = content
    with pytest.raises(UserError, match="holds a mapping of model"):
        read(save(tmp_path / "x.pth", content), where="model.weights")


def test_a_section_in_itself_names_no_classes(tmp_path: Path) -> None:
    content: dict[str, Any] = {"state_dict": STATE}
    content["meta"] = content
    assert read(save(tmp_path / "x.pth", content), where="model.weights").classes is None


def test_the_conversion_that_is_advised_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program in the message, run on a file that it is meant for, gives one that is read."""
    save(tmp_path / "IN.pth", {"state_dict": STATE, "miou": np.float64(3)})
    _, _, program, *files = shlex.split(CONVERT[CONVERT.index("python -c") :])
    monkeypatch.setattr("sys.argv", ["-c", *(str(tmp_path / file) for file in files)])
    exec(program, {})
    found = read(tmp_path / "OUT.safetensors", where="model.weights")
    assert all(torch.equal(found.tensors[name], value) for name, value in STATE.items())
