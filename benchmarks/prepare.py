"""What it costs to prepare a large data set: seconds, bytes, peak memory, and the time of the next `dvc repro`.

    python benchmarks/prepare.py                            # 20,000 JPEGs of 96x128
    python benchmarks/prepare.py --large                    # 500 JPEGs of 8 megapixels
    python benchmarks/prepare.py --frames 2000 --code ../before   # also with the code of another checkout
    python benchmarks/prepare.py --decode photo.jpg         # decoding in full and at reduced size

The frames are drawn here, in a temporary folder. Each checkout prepares the same files in a DVC project of its own,
with the stages ``raw_data`` and ``prepare`` and an empty cache. ``repro`` is the first `dvc repro`: hashing of the raw
files, preparing, and DVC's hashing and caching. ``again`` is the second one, in which nothing has changed. Peak memory
is that of the stage ``prepare``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table
from ruamel.yaml import YAML

from pipeline import artifact
from pipeline.errors import UserError, command
from pipeline.frames import write_png
from pipeline.preparation.survey import cores

ROOT = Path(__file__).parents[1]
MIB = 2**20
SMALL, LARGE = (96, 128), (2448, 3264)  # height, width
CLASSES = ["flat", "low", "high", "steep"]
TRAIN_SHARE = 0.9
REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
COLUMNS = ("prepare_s", "peak_mib", "raw_mib", "dataset_mib", "cache_mib", "repro_s", "again_s", "status_s")


def draw(root: Path, *, count: int, size: tuple[int, int]) -> None:
    """Write JPEGs of quality 90 and masks, every frame another picture with grain."""
    grain = np.random.default_rng(0).normal(0, 6, (*size, 3)).astype(np.int16)

    def one(index: int) -> None:
        rng = np.random.default_rng(index)
        coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        smooth = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
        frame = np.clip(smooth + np.roll(grain, int(rng.integers(size[1])), 1), 0, 255).astype(np.uint8)
        split = "train" if index < TRAIN_SHARE * count else "val"
        cv2.imwrite(str(root / "images" / split / f"{index:06}.jpg"), frame, [cv2.IMWRITE_JPEG_QUALITY, 90])
        write_png(root / "masks" / split / f"{index:06}.png", np.asarray(smooth[..., 0] >> 6, np.uint8))

    for split in ("train", "val"):
        (root / "images" / split).mkdir(parents=True)
    with ThreadPoolExecutor(cores()) as pool:
        for _ in pool.map(one, range(count)):
            pass


def project(folder: Path, raw: Path, code: Path) -> None:
    """A DVC project with the first two stages of a checkout."""
    folder.mkdir()
    yaml = YAML()
    values = yaml.load(code / "params.yaml")
    values["dataset"] = "folder"
    values["datasets"]["folder"] = {
        "root": str(raw), "classes": CLASSES, "palette": [[60 * index, 9, 9] for index in range(len(CLASSES))],
    }  # fmt: skip
    yaml.dump(values, folder / "params.yaml")
    python, own = sys.executable, Path(__file__).resolve()
    stages = {
        "raw_data": {
            "cmd": f"{python} {code}/stages/raw_data.py --out artifacts/raw_data.json", "always_changed": True,
            "outs": [{"artifacts/raw_data.json": {"persist": True}}],
        },
        "prepare": {
            "cmd": f"{python} {own} --stage cost.json {code}/stages/prepare.py --out artifacts/dataset",
            "deps": ["artifacts/raw_data.json"], "outs": ["artifacts/dataset"],
        },
    }  # fmt: skip
    yaml.dump({"stages": stages}, folder / "dvc.yaml")


def measure(folder: Path, raw: Path, code: Path) -> dict[str, float]:
    """Prepare with the code of a checkout, and run DVC again."""
    project(folder, raw, code)
    variables = {"PYTHONPATH": str(code), "XDG_CACHE_HOME": str(folder / "home"), "DVC_NO_ANALYTICS": "1"}

    def dvc(*arguments: str) -> float:
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *arguments], cwd=folder, env={**os.environ, **variables},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise UserError(f"dvc {' '.join(arguments)} failed in {folder}:\n{done.stdout}{done.stderr}")
        return time.perf_counter() - start

    dvc("init", "--no-scm", "--quiet")
    repro, again, status = dvc("repro"), dvc("repro"), dvc("status")
    cost = json.loads((folder / "cost.json").read_text())
    bytes_of = {
        "raw_mib": size_of(raw), "dataset_mib": size_of(folder / "artifacts" / "dataset"),
        "cache_mib": size_of(folder / ".dvc" / "cache"),
    }  # fmt: skip
    seconds = {"repro_s": repro, "again_s": again, "status_s": status}
    return {key: round(value, 1) for key, value in {**cost, **bytes_of, **seconds}.items()}


def size_of(folder: Path) -> float:
    """MiB of the files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / MIB


def run_stage(result: Path, arguments: Sequence[str]) -> int:
    """Run a stage in a process of its own; write its seconds and its peak memory to a file."""
    start = time.perf_counter()
    status = subprocess.run([sys.executable, *arguments], check=False).returncode
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (MIB if sys.platform == "darwin" else 1024)
    result.write_text(json.dumps({"prepare_s": time.perf_counter() - start, "peak_mib": peak}), encoding="utf-8")
    return status


def decoding(file: Path, *, rounds: int = 9) -> list[dict[str, Any]]:
    """Milliseconds to decode an image in full and at reduced size, as JPEG and as PNG, and how much the reduced image
    differs from the area average of the full one, which training and the deployed path compute.
    """
    data = np.fromfile(file, np.uint8)
    full = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if full is None:
        raise UserError(f"{file}: not a readable image")
    png = cv2.imencode(".png", full, [cv2.IMWRITE_PNG_COMPRESSION, 3])[1]
    rows: list[dict[str, Any]] = [
        {"decoded": name, "ms": milliseconds(partial(cv2.imdecode, encoded, cv2.IMREAD_COLOR), rounds)}
        for name, encoded in (("jpeg", data), ("png", png))
    ]
    for factor, flag in REDUCED.items():
        reduced = cv2.imdecode(data, flag)
        averaged = cv2.resize(full, reduced.shape[1::-1], interpolation=cv2.INTER_AREA)
        difference = cv2.absdiff(reduced, averaged)
        rows.append(
            {
                "decoded": f"jpeg, 1/{factor}", "ms": milliseconds(partial(cv2.imdecode, data, flag), rounds),
                "mean_difference": round(float(difference.mean()), 2), "largest_difference": int(difference.max()),
            }
        )  # fmt: skip
    return rows


def milliseconds(work: Callable[[], Any], rounds: int) -> float:
    """Median over some rounds."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return round(1000 * float(np.median(seconds)), 1)


def show(title: str, rows: Sequence[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*(str(row.get(column, "")) for column in columns))
    Console().print(table)


@command
def main() -> int | None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, help="number of frames; 20000, or 500 with --large")
    parser.add_argument("--large", action="store_true", help="frames of 2448x3264 instead of 96x128")
    parser.add_argument("--code", type=Path, action="append", default=[], help="another checkout to measure first")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is created, such as another disk")
    parser.add_argument("--decode", type=Path, metavar="JPEG", help="measure only how this file is decoded")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--stage", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = parser.parse_args()

    if args.stage:
        return run_stage(Path(args.stage[0]), args.stage[1:])
    if args.decode:
        rows, title = decoding(args.decode), f"decoding of {args.decode.name}"
    else:
        size = LARGE if args.large else SMALL
        count = args.frames or (500 if args.large else 20_000)
        title = f"{count} frames of {size[0]}x{size[1]}, {cores()} threads"
        rows = []
        with tempfile.TemporaryDirectory(dir=args.folder and args.folder.resolve()) as scratch:
            draw(Path(scratch) / "raw", count=count, size=size)
            for number, code in enumerate((*args.code, ROOT)):
                facts = measure(Path(scratch) / f"project{number}", Path(scratch) / "raw", code.resolve())
                rows.append({"code": code.resolve().name, **{column: facts[column] for column in COLUMNS}})
    show(title, rows)
    if args.json:
        known = json.loads(args.json.read_text(encoding="utf-8")) if args.json.exists() else {}
        artifact.write_text(args.json, artifact.dump_json({**known, title: rows}))
    return None


if __name__ == "__main__":
    sys.exit(main())
