"""Checkpoints from elsewhere as plain tensors by name. Reading one never runs code that lies in it.

Read are ``.safetensors`` files, torch files as far as ``torch.load(weights_only=True)`` goes, folders as
``save_pretrained`` writes them (config.json beside model.safetensors) and network artifacts of segpress.
"""

from __future__ import annotations

import json
import logging
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pipeline import artifact
from pipeline.errors import Faults, UserError, closest
from pipeline.models._conversion import AVERAGES, CONTAINERS, FOLDER_FILES, conversion
from pipeline.models._normalisation import stated

log = logging.getLogger(__name__)

#: Containers inside containers, e.g. ``{"checkpoint": {"model": {...}}}``, as deep as they are looked for.
DEPTH = 4
#: Where files and configurations keep their class names, in id order or by id.
CLASS_KEYS = ("id2label", "classes", "CLASSES", "class_names", "categories")
#: Sections of a torch file that may have them, inside one another: OpenMMLab's and Lightning's.
CLASS_SECTIONS = (("meta",), ("meta", "dataset_meta"), ("hyper_parameters",))


@dataclass(frozen=True)
class Checkpoint:
    """What a file or folder holds.

    Attributes:
        source: what messages and meta.json call it: a file's name, not its path.
        sha256: of the file with the tensors.
        tensors: dense tensors on the CPU, by the names in the file.
        classes: class names in id order, where the file says them.
        normalisation: ``mean`` and ``std`` in 0..1 of its training, where the file or folder says them.
        names: of the tensors in the file, where they were renamed.
        config: config.json of a folder that ``save_pretrained`` wrote; empty elsewhere.
    """

    source: str
    sha256: str
    tensors: Mapping[str, Tensor]
    classes: tuple[str, ...] | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    normalisation: Mapping[str, Sequence[float]] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)


def read(path: Path, *, where: str, key: str | None = None) -> Checkpoint:
    """Read a checkpoint. What a file is shows in its first bytes; its suffix decides where they do not.

    Args:
        path: a file, or a folder that ``save_pretrained`` or segpress wrote.
        where: the option that named it, for messages.
        key: of the container in a torch file to take, such as ``model_ema``, or ``a.b`` for one in another; None: the
            first of ``CONTAINERS`` and ``AVERAGES`` that is there.

    Raises:
        UserError: nothing there, damaged, something else than a checkpoint, or one that only unpickling could read.
    """
    if path.is_dir():
        return _read_folder(path, where=where, key=key)
    if not path.is_file():
        raise UserError(f"{where}: {path}: no such file; a relative path counts from the project's root")
    if _is_safetensors(path):
        if key is not None:
            raise UserError(f"model.weights_key: {path} is a safetensors file, which has no keys; leave it out")
        tensors, facts = _read_safetensors(path, where)
    else:
        tensors, facts = _read_torch(path, where, key)
    _check_plain(tensors, f"{where}: {path}")
    return Checkpoint(
        source=path.name,
        sha256=artifact.sha256(path),
        tensors=tensors,
        classes=class_names(facts),
        normalisation=stated(facts),
    )


def _is_safetensors(path: Path) -> bool:
    start = _start(path)
    if start[4:9] == b"\0\0\0\0{":  # the length of a header in JSON, and the header
        return True
    return path.suffix == ".safetensors" and not start.startswith((b"PK", b"\x80"))  # torch's: zip, or old pickle


def _start(path: Path) -> bytes:
    """The first bytes of a file; none where it cannot be read."""
    try:
        with path.open("rb") as stream:
            return stream.read(200)
    except OSError:
        return b""


def _read_folder(path: Path, *, where: str, key: str | None) -> Checkpoint:
    if (path / artifact.META).is_file():
        found = artifact.load(path, kind="network")
        files = [name for name in found.meta["files"] if name.endswith(".safetensors")]
        if len(files) != 1:
            raise UserError(f"{where}: {path} holds {len(files)} safetensors files; a network has one")
        return read(found.file(files[0]), where=where, key=key)
    config = path / "config.json"
    file = next((path / name for name in FOLDER_FILES if (path / name).is_file()), None)
    if not config.is_file() or file is None:
        raise UserError(
            f"{where}: {path} is no folder of a network: config.json beside {' or '.join(FOLDER_FILES)} (as "
            "save_pretrained writes them, in one piece) is needed, or a network artifact of segpress"
        )
    facts = artifact.read_json(config, advice=f"{where} needs the folder as save_pretrained wrote it")
    loaded = read(file, where=where, key=key)
    classes, said = loaded.classes or class_names(facts), loaded.normalisation
    if (beside := path / "preprocessor_config.json").is_file():
        said = said or stated(artifact.read_json(beside, advice="restore or remove it"))
    return replace(
        loaded, source=f"{path.name}/{file.name}", classes=classes, config=facts, normalisation=said or stated(facts)
    )


def _read_safetensors(path: Path, where: str) -> tuple[dict[str, Tensor], Any]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            header = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{where}: {path} is not a readable safetensors file ({error}){_looks(path)}{_cut(path, str(error))}"
        ) from error
    facts: dict[str, Any] = {}
    for key, text in header.items():
        if key in (*CLASS_KEYS, "segpress"):
            try:
                facts[key] = json.loads(text)
            except (ValueError, RecursionError):
                log.info("%s: '%s' in its header is not JSON and not used", path.name, key)
    ours = facts.pop("segpress", None)
    return tensors, ours if isinstance(ours, dict) else facts


def _read_torch(path: Path, where: str, key: str | None) -> tuple[dict[str, Tensor], Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with path.open("rb") as stream:  # of a path, torch looks at the suffix
                content = torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in any way
        raise UserError(f"{where}: {path}: {_why_unreadable(path, error, key)}") from error
    found, unwrapped = _named(content, key, path), [key] if key else []
    for _ in range(DEPTH):
        there = [name for name in (*CONTAINERS, *AVERAGES) if _is_dict(found) and _is_dict(found.get(name))]
        if not there:
            break
        if others := there[1:]:
            log.warning(
                "%s holds several sets of weights; %s is used, not %s: choose with model.weights_key",
                path.name, ".".join([*unwrapped, there[0]]), ", ".join(others),
            )  # fmt: skip
        found = found[there[0]]
        unwrapped.append(there[0])
    tensors = (
        {str(name): value for name, value in found.items() if isinstance(value, Tensor)} if _is_dict(found) else {}
    )
    if not tensors:
        holds = f"a mapping of {', '.join(map(str, list(found)[:8]))}" if _is_dict(found) else f"a {_kind(found)}"
        raise UserError(
            f"{where}: {path} holds {holds}; tensors by name are needed (a state dict), by themselves or under "
            f"{', '.join((*CONTAINERS, *AVERAGES))}; model.weights_key names another key"
        )
    if unwrapped:
        beside = [str(name) for name in content if name != unwrapped[0].split(".")[0]]
        log.info("%s: read %s; not used: %s", path.name, ".".join(unwrapped), ", ".join(beside[:8]) or "nothing else")
    if ignored := [str(name) for name, value in found.items() if not isinstance(value, Tensor)]:
        log.info("%s: %d entries are no tensors and not used: %s", path.name, len(ignored), ", ".join(ignored[:3]))
    return tensors, content


def _named(content: Any, key: str | None, path: Path) -> Any:
    """What lies under a key of a torch file."""
    found = content
    for part in [] if key is None else key.split("."):
        if not _is_dict(found) or not _is_dict(found.get(part)):
            keys = [str(name) for name, value in found.items() if _is_dict(value)] if _is_dict(found) else []
            raise UserError(f"model.weights_key: {path} has no tensors by name under '{key}'; {closest(part, keys)}")
        found = found[part]
    return found


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def _kind(value: Any) -> str:
    return type(value).__name__


def _why_unreadable(path: Path, error: Exception, key: str | None) -> str:
    """What torch.load's refusal means to a user, and what to do."""
    text, convert = str(error), conversion(path, key)
    if isinstance(error, OSError) and error.strerror and not _start(path):
        return f"cannot be read ({error.strerror})"
    if "TorchScript" in text:
        return f"is a TorchScript archive, which holds code; save the state_dict of its module: {convert}"
    if named := re.search(r"GLOBAL ([\w.]+)", text):
        return f"only unpickling could read it (it asks for {named[1]}): that runs code and is never done; {convert}"
    if looks := _looks(path):
        return f"not a checkpoint{looks}"
    first = text.strip().splitlines()[0][:200] if text.strip() else _kind(error)
    if first.startswith("Weights only load failed"):  # torch's message advises to run the code in the file
        first = "no format of torch"
    what = _cut(path, first) or "; it is damaged or has another format: download it again and compare its sha256"
    return f"not a readable torch file ({first}){what}"


def _cut(path: Path, reason: str) -> str:
    """Says that a file is cut short, as far as its bytes and what its reader said tell; empty otherwise."""
    start = _start(path)
    archive_without_end = start.startswith(b"PK") and not zipfile.is_zipfile(path)
    header = int.from_bytes(start[:8], "little") if start[4:9] == b"\0\0\0\0{" else 0
    ended = any(word in reason.lower() for word in ("eof", "truncated", "ran out of input", "incomplete metadata"))
    if not start or not (archive_without_end or ended or header + 8 > path.stat().st_size):
        return ""
    return f"; it is cut short, at {path.stat().st_size} bytes: download or copy it again and compare its sha256"


def _looks(path: Path) -> str:
    """What a file is that was mistaken for a checkpoint, as far as its first bytes tell; empty otherwise."""
    start = _start(path).lstrip().lower()
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
