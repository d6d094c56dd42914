"""Checkpoints of other projects, as plain tensors by name. Reading a checkpoint never runs code in it.

segpress reads ``.safetensors`` files, torch files that ``torch.load(weights_only=True)`` accepts, folders as
``save_pretrained`` writes them (config.json beside model.safetensors) and its own network artifacts.
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

from pipeline import artifact, licence
from pipeline.errors import Problems, UserError, closest
from pipeline.models.weights.conversion import AVERAGES, CONTAINERS, FOLDER_FILES, conversion
from pipeline.models.weights.normalisation import stated

log = logging.getLogger(__name__)

#: Depth of the search in containers that contain others, such as ``{"checkpoint": {"model": {...}}}``.
DEPTH = 4
#: File in a network artifact with its weights, see ``network_artifact``; of a training the best ones, not the last.
WEIGHTS = "weights.safetensors"
#: Keys of class names in files and configurations, in id order or by id.
CLASS_KEYS = ("id2label", "classes", "CLASSES", "class_names", "categories")
#: Sections of a torch file that may have these keys, as paths: OpenMMLab's and Lightning's.
CLASS_SECTIONS = (("meta",), ("meta", "dataset_meta"), ("hyper_parameters",))


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file or folder.

    Attributes:
        source: its name in messages and meta.json: a file's name, not its path.
        sha256: of the file with the tensors.
        tensors: dense tensors on the CPU, by the names in the file.
        classes: class names in id order; None: the file has none.
        normalisation: ``mean`` and ``std`` in 0..1 of its training; empty: the file or folder has none.
        names: name here -> name in the file, of renamed tensors.
        config: config.json of a folder that ``save_pretrained`` wrote; else empty.
        package: ``package`` and ``version`` of the installed package that the file is in; else empty.
        licence: its facts, see ``pipeline.licence``; empty: the file does not state it.
    """

    source: str
    sha256: str
    tensors: Mapping[str, Tensor]
    classes: tuple[str, ...] | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    normalisation: Mapping[str, Sequence[float]] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    package: Mapping[str, str] = field(default_factory=dict)
    licence: Mapping[str, Any] = field(default_factory=dict)


def read(path: Path, *, where: str, key: str | None = None) -> Checkpoint:
    """Read a checkpoint. The first bytes of a file give its format; if they do not, its suffix does.

    Args:
        path: a file, or a folder that ``save_pretrained`` or segpress wrote.
        where: the option that named it, for messages.
        key: of the container in a torch file, such as ``model_ema``, or ``a.b`` for a container in another; None: the
            first of ``CONTAINERS`` and ``AVERAGES`` in the file.

    Raises:
        UserError: the file is missing or damaged, is not a checkpoint, or only unpickling can read it.
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
        source=path.name, sha256=artifact.sha256(path), tensors=tensors, classes=class_names(facts),
        normalisation=stated(facts), licence=licence.of_checkpoint(facts),
    )  # fmt: skip


def _is_safetensors(path: Path) -> bool:
    start = _start(path)
    if start[4:9] == b"\0\0\0\0{":  # the length of a header in JSON, and the header
        return True
    return path.suffix == ".safetensors" and not start.startswith((b"PK", b"\x80"))  # torch's: zip, or old pickle


def _start(path: Path) -> bytes:
    """The first bytes of a file; none if it cannot be read."""
    try:
        with path.open("rb") as stream:
            return stream.read(200)
    except OSError:
        return b""


def _read_folder(path: Path, *, where: str, key: str | None) -> Checkpoint:
    if (path / artifact.META).is_file():
        return read(artifact.load(path, kind="network").file(WEIGHTS), where=where, key=key)
    config = path / "config.json"
    file = next((path / name for name in FOLDER_FILES if (path / name).is_file()), None)
    if not config.is_file() or file is None:
        raise UserError(
            f"{where}: {path} is not the folder of a network; allowed: a network artifact of segpress, or config.json "
            f"beside {' or '.join(FOLDER_FILES)} as save_pretrained writes them, with all tensors in one file"
        )
    facts = artifact.read_json(config, advice=f"{where} needs the folder as save_pretrained wrote it")
    checkpoint = read(file, where=where, key=key)
    normalisation = checkpoint.normalisation
    if (preprocessor := path / "preprocessor_config.json").is_file():
        normalisation = normalisation or stated(artifact.read_json(preprocessor, advice="restore or remove it"))
    classes, normalisation = checkpoint.classes or class_names(facts), normalisation or stated(facts)
    return replace(
        checkpoint, source=f"{path.name}/{file.name}", classes=classes, config=facts, normalisation=normalisation,
        licence=checkpoint.licence or licence.of_checkpoint(facts),
    )  # fmt: skip


def _read_safetensors(path: Path, where: str) -> tuple[dict[str, Tensor], Any]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            header = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{where}: {path} is not a readable safetensors file ({error}){_not_weights(path)}{_cut(path, str(error))}"
        ) from error
    facts: dict[str, Any] = {key: text for key, text in header.items() if key == "license"}
    for key, text in header.items():
        if key in (*CLASS_KEYS, "segpress"):
            try:
                facts[key] = json.loads(text)
            except (ValueError, RecursionError):
                log.info("%s: '%s' in its header is not JSON and not used", path.name, key)
    own = facts.pop("segpress", None)
    return tensors, own if isinstance(own, dict) else facts


def _read_torch(path: Path, where: str, key: str | None) -> tuple[dict[str, Tensor], Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with path.open("rb") as stream:  # torch.load of a path would depend on its suffix
                content = torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise any exception
        raise UserError(f"{where}: {path}: {_why_unreadable(path, error, key)}") from error
    state, keys = _container(content, key, path), [key] if key else []
    for _ in range(DEPTH):
        containers = [name for name in (*CONTAINERS, *AVERAGES) if _is_dict(state) and _is_dict(state.get(name))]
        if not containers:
            break
        if others := containers[1:]:
            log.warning(
                "%s holds several sets of weights; %s is used, not %s: choose with model.weights_key",
                path.name, ".".join([*keys, containers[0]]), ", ".join(others),
            )  # fmt: skip
        state = state[containers[0]]
        keys.append(containers[0])
    tensors = (
        {str(name): value for name, value in state.items() if isinstance(value, Tensor)} if _is_dict(state) else {}
    )
    if not tensors:
        holds = f"a mapping of {', '.join(map(str, list(state)[:8]))}" if _is_dict(state) else f"a {_kind(state)}"
        raise UserError(
            f"{where}: {path} holds {holds}; tensors by name are needed (a state dict), at the top or under "
            f"{', '.join((*CONTAINERS, *AVERAGES))}; for another key set model.weights_key"
        )
    if keys:
        unused = [str(name) for name in content if name != keys[0].split(".")[0]]
        log.info("%s: read %s; not used: %s", path.name, ".".join(keys), ", ".join(unused[:8]) or "nothing else")
    if ignored := [str(name) for name, value in state.items() if not isinstance(value, Tensor)]:
        log.info("%s: %d entries are not tensors and not used: %s", path.name, len(ignored), ", ".join(ignored[:3]))
    return tensors, content


def _container(content: Any, key: str | None, path: Path) -> Any:
    """The mapping under a key of a torch file; the whole content if the key is None."""
    state = content
    for part in [] if key is None else key.split("."):
        if not _is_dict(state) or not _is_dict(state.get(part)):
            keys = [str(name) for name, value in state.items() if _is_dict(value)] if _is_dict(state) else []
            raise UserError(f"model.weights_key: {path} has no tensors by name under '{key}'; {closest(part, keys)}")
        state = state[part]
    return state


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def _kind(value: Any) -> str:
    return type(value).__name__


def _why_unreadable(path: Path, error: Exception, key: str | None) -> str:
    """Why torch.load cannot read a file, and what to do."""
    text, convert = str(error), conversion(path, key)
    if isinstance(error, OSError) and error.strerror and not _start(path):
        return f"cannot be read ({error.strerror})"
    if "TorchScript" in text:
        return f"is a TorchScript archive, which holds code; save the state_dict of its module: {convert}"
    if match := re.search(r"GLOBAL ([\w.]+)", text):
        return (
            f"only unpickling can read it (it needs {match[1]}): that runs code, which segpress never does; {convert}"
        )
    if kind := _not_weights(path):
        return f"not a checkpoint{kind}"
    first = text.strip().splitlines()[0][:200] if text.strip() else _kind(error)
    if first.startswith("Weights only load failed"):  # torch's message advises to run the code in the file
        first = "no format of torch"
    problem = _cut(path, first) or "; it is damaged or has another format: download it again and compare its sha256"
    return f"not a readable torch file ({first}){problem}"


def _cut(path: Path, reason: str) -> str:
    """A message if a file is cut short, judged by its bytes and its reader's error; else empty."""
    start = _start(path)
    archive_without_end = start.startswith(b"PK") and not zipfile.is_zipfile(path)
    header = int.from_bytes(start[:8], "little") if start[4:9] == b"\0\0\0\0{" else 0
    ended = any(word in reason.lower() for word in ("eof", "truncated", "ran out of input", "incomplete metadata"))
    if not start or not (archive_without_end or ended or header + 8 > path.stat().st_size):
        return ""
    return f"; it is cut short, at {path.stat().st_size} bytes: download or copy it again and compare its sha256"


def _not_weights(path: Path) -> str:
    """The kind of a file, if its first bytes show that it is not a checkpoint; else empty."""
    start = _start(path).lstrip().lower()
    if not start:
        return "; it is empty"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "; it is a web page: the download failed, download the file itself"
    if start.startswith(b"version https://git-lfs"):
        return "; it is a pointer of Git LFS: download the file with git lfs pull"
    return ""


def _check_plain(tensors: Mapping[str, Tensor], subject: str) -> None:
    """Check that tensors are dense arrays of real numbers: no subclasses, sparse, quantised, complex or meta tensors.

    Raises:
        UserError: all other tensors at once.
    """
    problems = Problems(subject, limit=5)
    for name, tensor in tensors.items():
        if type(tensor) not in (Tensor, nn.Parameter):
            problems.add(f"{name}: a tensor of class {_kind(tensor)}")
        elif tensor.layout != torch.strided or tensor.is_nested:
            problems.add(f"{name}: a sparse or nested tensor")
        elif tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
            problems.add(f"{name}: a {'meta' if tensor.is_meta else tensor.dtype} tensor")
    problems.raise_if_any(advice="dense float tensors are needed; save the float network's state_dict")


def class_names(facts: Any) -> tuple[str, ...] | None:
    """Class names in id order from a configuration or the top of a torch file; None: it has none.

    Example:
        >>> class_names({"id2label": {"1": "car", "0": "road"}})
        ('road', 'car')
        >>> class_names({"meta": {"CLASSES": ("road", "car")}})
        ('road', 'car')
        >>> class_names({"classes": 19})  # a number is not a name
    """
    for path in ((), *CLASS_SECTIONS):
        section = facts
        for key in path:
            section = section.get(key) if isinstance(section, dict) else None
        for key in CLASS_KEYS if isinstance(section, dict) else ():
            value = section.get(key)
            if isinstance(value, dict):
                value = _by_id(value)
            names = tuple(value) if isinstance(value, (list, tuple)) else ()
            unnamed = all(isinstance(name, str) and re.fullmatch(r"LABEL_\d+", name) for name in names)  # transformers'
            if not unnamed and all(isinstance(name, str) for name in names):
                return names
    return None


def _by_id(names: Mapping[Any, Any]) -> list[Any] | None:
    """``{0: "road", 1: "car"}`` as a list; None: an id from 0 on has no name."""
    by_id = {str(key): name for key, name in names.items()}
    return [by_id[str(i)] for i in range(len(by_id))] if all(str(i) in by_id for i in range(len(by_id))) else None
