"""Checkpoints from elsewhere as plain tensors by name. Reading one never runs code that lies in it.

Read are ``.safetensors`` files, torch files as far as ``torch.load(weights_only=True)`` goes, folders as
``save_pretrained`` writes them (config.json beside model.safetensors) and network artifacts of segpress.
"""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pipeline import artifact
from pipeline.errors import Faults, UserError

log = logging.getLogger(__name__)

#: Keys under which training code keeps a state dict, the first that is there is taken.
CONTAINERS = ("state_dict", "model_state_dict", "model_state", "model", "network", "net", "module", "weights")
#: Containers inside containers, e.g. ``{"checkpoint": {"model": {...}}}``, as deep as they are looked for.
DEPTH = 4
#: Where files and configurations keep their class names, in id order or by id.
CLASS_KEYS = ("id2label", "classes", "CLASSES", "class_names", "categories")
#: Sections of a torch file that may have them, inside one another: OpenMMLab's and Lightning's.
CLASS_SECTIONS = (("meta",), ("meta", "dataset_meta"), ("hyper_parameters",))
FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")
CONVERT = (
    'convert it where you trust it: python -c "import torch, sys; from safetensors.torch import save_file; '
    "save_file({k: v.contiguous() for k, v in torch.load(sys.argv[1], map_location='cpu', weights_only=False)"
    "['state_dict'].items()}, sys.argv[2])\" IN.pth OUT.safetensors"
)


@dataclass(frozen=True)
class Checkpoint:
    """What a file or folder holds.

    Attributes:
        source: what messages and meta.json call it: a file's name, not its path.
        sha256: of the file with the tensors.
        tensors: dense tensors on the CPU, by the names in the file.
        classes: class names in id order, where the file says them.
        config: config.json of a folder that ``save_pretrained`` wrote; empty elsewhere.
    """

    source: str
    sha256: str
    tensors: Mapping[str, Tensor]
    classes: tuple[str, ...] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)


def read(path: Path, *, where: str) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: a file, or a folder that ``save_pretrained`` or segpress wrote.
        where: the option that named it, for messages.

    Raises:
        UserError: nothing there, damaged, something else than a checkpoint, or one that only unpickling could read.
    """
    if path.is_dir():
        return _read_folder(path, where=where)
    if not path.is_file():
        raise UserError(f"{where}: {path}: no such file; a relative path counts from the project's root")
    reader = _read_safetensors if path.suffix == ".safetensors" else _read_torch
    tensors, classes = reader(path, where)
    _check_plain(tensors, f"{where}: {path}")
    return Checkpoint(source=path.name, sha256=artifact.sha256(path), tensors=tensors, classes=classes)


def _read_folder(path: Path, *, where: str) -> Checkpoint:
    if (path / artifact.META).is_file():
        found = artifact.load(path, kind="network")
        files = [name for name in found.meta["files"] if name.endswith(".safetensors")]
        if len(files) != 1:
            raise UserError(f"{where}: {path} holds {len(files)} safetensors files; a network has one")
        return read(found.file(files[0]), where=where)
    config = path / "config.json"
    file = next((path / name for name in FOLDER_FILES if (path / name).is_file()), None)
    if not config.is_file() or file is None:
        raise UserError(
            f"{where}: {path} is no folder of a network: config.json beside {' or '.join(FOLDER_FILES)} (as "
            "save_pretrained writes them, in one piece) is needed, or a network artifact of segpress"
        )
    facts = artifact.read_json(config, advice=f"{where} needs the folder as save_pretrained wrote it")
    loaded = read(file, where=where)
    classes = loaded.classes or class_names(facts)
    return Checkpoint(f"{path.name}/{file.name}", loaded.sha256, loaded.tensors, classes, config=facts)


def _read_safetensors(path: Path, where: str) -> tuple[dict[str, Tensor], tuple[str, ...] | None]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            header = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{where}: {path} is not a readable safetensors file ({error}){_looks(path)}") from error
    facts: dict[str, Any] = {}
    for key, text in header.items():
        if key in (*CLASS_KEYS, "segpress"):
            try:
                facts[key] = json.loads(text)
            except (ValueError, RecursionError):
                log.info("%s: '%s' in its header is not JSON and not used", path.name, key)
    ours = facts.pop("segpress", None)
    return tensors, class_names(ours if isinstance(ours, dict) else facts)


def _read_torch(path: Path, where: str) -> tuple[dict[str, Tensor], tuple[str, ...] | None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in any way
        raise UserError(f"{where}: {path}: {_why_unreadable(path, error)}") from error
    found, unwrapped = content, []
    for _ in range(DEPTH):
        inner = next((key for key in CONTAINERS if isinstance(found, dict) and isinstance(found.get(key), dict)), None)
        if inner is None:
            break
        found = found[inner]
        unwrapped.append(inner)
    tensors = {str(key): value for key, value in found.items() if isinstance(value, Tensor)} if _is_dict(found) else {}
    if not tensors:
        holds = f"a mapping of {', '.join(map(str, list(found)[:8]))}" if _is_dict(found) else f"a {_kind(found)}"
        raise UserError(
            f"{where}: {path} holds {holds}; tensors by name are needed (a state dict), by themselves or under "
            f"{', '.join(CONTAINERS)}"
        )
    if unwrapped:
        beside = [str(key) for key in content if key != unwrapped[0]]
        log.info("%s: read %s; not used: %s", path.name, ".".join(unwrapped), ", ".join(beside[:8]) or "nothing else")
    if ignored := [str(key) for key, value in found.items() if not isinstance(value, Tensor)]:
        log.info("%s: %d entries are no tensors and not used: %s", path.name, len(ignored), ", ".join(ignored[:3]))
    return tensors, class_names(content)


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def _kind(value: Any) -> str:
    return type(value).__name__


def _why_unreadable(path: Path, error: Exception) -> str:
    """What torch.load's refusal means to a user, and what to do."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror})"
    if "TorchScript" in text:
        return f"is a TorchScript archive, which holds code; save the state_dict of its module instead: {CONVERT}"
    if named := re.search(r"GLOBAL ([\w.]+)", text):
        return f"only unpickling could read it (it asks for {named[1]}): that runs code and is never done; {CONVERT}"
    if looks := _looks(path):
        return f"not a checkpoint{looks}"
    first = text.strip().splitlines()[0][:200] if text.strip() else _kind(error)
    return f"not a readable torch file ({first}); it is damaged or something else: fetch it again, compare its sha256"


def _looks(path: Path) -> str:
    """What a file is that was mistaken for a checkpoint, as far as its first bytes tell; empty otherwise."""
    try:
        with path.open("rb") as stream:
            start = stream.read(200).lstrip().lower()
    except OSError:
        return ""
    if not start:
        return "; it is empty"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "; it is a web page: the download went wrong, fetch the file itself"
    if start.startswith(b"version https://git-lfs"):
        return "; it is a pointer of Git LFS: fetch the file with git lfs pull"
    return ""


def _check_plain(tensors: Mapping[str, Tensor], subject: str) -> None:
    """Refuse what is no dense array of real numbers: subclasses, sparse, quantised, complex and meta tensors."""
    faults = Faults(subject, limit=5)
    for name, tensor in tensors.items():
        if type(tensor) not in (Tensor, nn.Parameter):
            faults.add(f"{name}: a tensor of class {_kind(tensor)}")
        elif tensor.layout != torch.strided or tensor.is_nested:
            faults.add(f"{name}: a sparse or nested tensor")
        elif tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
            faults.add(f"{name}: a {'meta' if tensor.is_meta else tensor.dtype} tensor")
    faults.raise_if_any(advice="dense float tensors are needed; save the float network's state_dict")


def class_names(facts: Any) -> tuple[str, ...] | None:
    """Class names in id order from a configuration or the top of a torch file; None where it says none.

    Example:
        >>> class_names({"id2label": {"1": "car", "0": "road"}})
        ('road', 'car')
        >>> class_names({"meta": {"CLASSES": ("road", "car")}})
        ('road', 'car')
        >>> class_names({"classes": 19})  # a number is no name
    """
    for section in ((), *CLASS_SECTIONS):
        found = facts
        for key in section:
            found = found.get(key) if isinstance(found, dict) else None
        for key in CLASS_KEYS if isinstance(found, dict) else ():
            value = found.get(key)
            if isinstance(value, dict):
                value = _by_id(value)
            names = tuple(value) if isinstance(value, (list, tuple)) else ()
            unnamed = all(isinstance(name, str) and re.fullmatch(r"LABEL_\d+", name) for name in names)  # transformers'
            if not unnamed and all(isinstance(name, str) for name in names):
                return names
    return None


def _by_id(names: Mapping[Any, Any]) -> list[Any] | None:
    """``{0: "road", 1: "car"}`` as a list, when every id from 0 has a name."""
    by_id = {str(key): name for key, name in names.items()}
    return [by_id[str(i)] for i in range(len(by_id))] if all(str(i) in by_id for i in range(len(by_id))) else None
