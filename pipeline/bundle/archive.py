"""Write a bundle: one archive that builds and checks engines on a device. It holds ONNX files, frames and code."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import artifact
from pipeline.artifact import Artifact
from pipeline.bundle.on_device import DATASET, FACTS, INT8, ONNX
from pipeline.errors import UserError
from pipeline.evaluation.matching import require_same_classes
from pipeline.frames import write_png
from pipeline.prepared import Prepared

#: Files and packages of `pipeline` that run on a device; a test compares them with their imports.
CODE = (
    "__init__.py", "errors.py", "labels.py", "artifact.py", "plugins.py", "frames.py", "licence.py", "prepared.py",
    "runtimes", "evaluation", "bundle/__init__.py", "bundle/on_device.py",
    "verbs/__init__.py", "verbs/__main__.py", "verbs/check_bundle.py", "verbs/doctor.py",
)  # fmt: skip
CARD = "MODEL_CARD.md"
RUN = """\
#!/bin/sh
# Builds the engines on this machine, checks them and writes results.json. Needs Python 3.10 or newer with numpy,
# OpenCV (cv2) and one runtime: --runtime names it. Options, and the names of the runtimes: sh run.sh --help
# What this machine has and lacks: python3 -m pipeline.verbs doctor. Another Python: PYTHON=python3.12 sh run.sh
cd "$(dirname "$0")" || exit 1
exec "${PYTHON:-python3}" -m pipeline.verbs check-bundle "$@"
"""


def write(
    out: Path, *, onnx: Artifact, int8: Artifact, prepared: Prepared, split: str, images: int, facts: Mapping[str, Any],
    card: str | None = None,
) -> None:  # fmt: skip
    """Write the bundle as a tar.gz, under a temporary name first; equal contents give equal bytes.

    Args:
        onnx, int8: artifacts of the same student.
        split: split from which evenly spaced frames are taken.
        images: number of frames.
        facts: for bundle.json: ``student``, ``runtime``, ``runtime_options``, ``check``, ``budgets``, and, if this
            machine has measured it, the record ``fastest``.
        card: the model card in Markdown; None: the bundle has none.

    Raises:
        UserError: the artifacts belong to different networks, the data set has other classes, or ``out`` cannot be
            written.
    """
    if int8.meta["parents"]["onnx"] != onnx.hash:
        raise UserError(f"{int8.path} is of another network than {onnx.path}; run dvc repro quantize")
    require_same_classes(prepared, onnx)
    frames = prepared.split(split)
    step = max(1.0, len(frames) / images)
    chosen = sorted({int(index * step) for index in range(min(images, len(frames)))})
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / out.name.removesuffix(".tar.gz")
        folder.mkdir()
        shutil.copytree(onnx.path, folder / ONNX)
        shutil.copytree(int8.path, folder / INT8)
        names = [frames.names[index] for index in chosen]
        meta = {**prepared.labels.to_meta(), "dataset": prepared.name, "splits": {split: names}}
        meta["licence"] = prepared.artifact.meta.get("licence")
        with artifact.create(folder / DATASET, kind="dataset", meta=meta) as data:
            for index, name in zip(chosen, names, strict=True):
                write_png(data / split / "images" / f"{name}.png", frames.frame(index))
                write_png(data / split / "labels" / f"{name}.png", frames.label(index))
        code = Path(__file__).parents[1]
        for name in CODE:
            if (code / name).is_dir():
                shutil.copytree(code / name, folder / "pipeline" / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                (folder / "pipeline" / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(code / name, folder / "pipeline" / name)
        content = {**facts, "split": split, "dataset_sha256": prepared.artifact.hash}
        artifact.write_text(folder / FACTS, artifact.dump_json(content))
        artifact.write_text(folder / "run.sh", RUN)
        if card is not None:
            artifact.write_text(folder / CARD, card)
        _pack(folder, out)


def _pack(folder: Path, out: Path) -> None:
    """Write a folder as tar.gz without owners and dates."""
    try:
        with (
            artifact.replacing(out) as scratch,
            scratch.open("wb") as raw,
            gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w") as archive,
        ):
            for file in _files(folder):
                entry = tarfile.TarInfo(file.relative_to(folder.parent).as_posix())
                content = file.read_bytes()
                entry.size, entry.mode = len(content), 0o755 if file.suffix == ".sh" else 0o644
                archive.addfile(entry, io.BytesIO(content))
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); fix this or choose another path") from error


def _files(folder: Path) -> Sequence[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
