"""The stage `raw_data`: the fingerprint changes if `prepare` would read other data, and only then."""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline import datasets
from pipeline.datasets.streets import Streets
from pipeline.provenance import digests
from pipeline.provenance.raw_files import fingerprint

ROOT = Path(__file__).parents[2]
STREETS: dict[str, Any] = {"train": 1, "val": 1, "sequence": 0, "size": (64, 96), "seed": 0}
Makers = dict[str, Callable[[Path], dict[str, Any]]]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def fingerprint_of(plugin: str, options: dict[str, Any]) -> dict[str, Any]:
    return fingerprint(datasets.build(plugin, options))


@pytest.mark.parametrize("plugin", ["camvid", "cityscapes", "voc2012", "ade20k", "pascal_context", "folder"])
def test_every_file_that_is_read_counts(tmp_path: Path, plugin: str, makers: Makers) -> None:
    options = makers[plugin](tmp_path / "raw")
    before = fingerprint_of(plugin, options)
    assert before["missing"] == (4 if plugin == "cityscapes" else 0)  # masks of train ids are not there
    read = [file for file in (tmp_path / "raw").rglob("*") if file.suffix in (".png", ".jpg")]
    assert before["files"] == len(read) + before["missing"]
    for file in read:
        content = file.read_bytes()
        file.write_bytes(content + b"\0")
        assert fingerprint_of(plugin, options) != before, file
        file.write_bytes(content)
        assert fingerprint_of(plugin, options) == before
    read[0].unlink()
    assert fingerprint_of(plugin, options) != before


def test_times_place_and_unused_files_do_not_count(tmp_path: Path, makers: Makers) -> None:
    options = makers["folder"](tmp_path / "raw")
    before = fingerprint_of("folder", options)
    for file in (tmp_path / "raw").rglob("*.png"):
        os.utime(file, (1, 1))
    (tmp_path / "raw/notes.txt").write_text("x")
    (tmp_path / "raw/images/.hidden.jpg").write_text("x")
    assert fingerprint_of("folder", options) == before
    shutil.copytree(tmp_path / "raw", tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for place in ("elsewhere", "link"):
        assert fingerprint_of("folder", {**options, "root": str(tmp_path / place)}) == before
    shutil.copy(
        tmp_path / "raw/images/a/1.jpg", tmp_path / "raw/images/a/2.jpg"
    )  # an image without a mask is a problem
    assert fingerprint_of("folder", options) != before


def test_lists_count_by_what_they_list(tmp_path: Path, makers: Makers) -> None:
    options = makers["camvid"](tmp_path / "raw")
    before, listing = fingerprint_of("camvid", options), tmp_path / "raw/train.txt"
    lines = listing.read_text().splitlines()
    listing.write_text("\n\n".join(lines))
    assert fingerprint_of("camvid", options) == before
    for other in (lines[1:], lines[::-1], [*lines, "nonsense"]):
        listing.write_text("\n".join(other))
        assert fingerprint_of("camvid", options) != before


def test_the_default_is_every_file_below_the_root(tmp_path: Path) -> None:
    class Whole(Streets):
        root = tmp_path / "raw"

    dataset = Whole(**STREETS)
    (tmp_path / "raw/below").mkdir(parents=True)
    (tmp_path / "raw/below/loop").symlink_to(tmp_path / "raw")
    (tmp_path / "raw/below/annotations.json").write_text("[]")
    before = fingerprint(dataset)
    assert before["files"] == 1
    (tmp_path / "raw/below/annotations.json").write_text("[1]")
    assert fingerprint(dataset)["sha256"] != before["sha256"]
    assert fingerprint_of("streets", STREETS)["files"] == 0


def test_only_what_changed_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / f"{number}.png" for number in range(600)]
    for file in files:
        file.write_bytes(file.name.encode())
    read: list[Path] = []
    original = digests._read
    monkeypatch.setattr(digests, "_read", lambda file: (read.append(file), original(file))[1])
    monkeypatch.setattr(digests, "SETTLED_NS", 0)
    first = digests.of(files, remembered="x")
    assert len(read) == 600 and None not in first.values()
    read.clear()
    assert digests.of(files, remembered="x") == first and not read
    stamp = files[7].stat()
    time.sleep(0.02)
    files[7].write_bytes(b"8.png")  # as long as before, and with its time put back
    os.utime(files[7], ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    files[9].unlink()
    second = digests.of([*files, tmp_path / "none", tmp_path], remembered="x")
    assert {file for file in first if first[file] != second[file]} == {files[7], files[9]}
    assert second[files[9]] is second[tmp_path / "none"] is second[tmp_path] is None
    assert set(read) == {files[7], files[9], tmp_path / "none", tmp_path}
    for memory in (tmp_path / "cache").rglob("*.json"):
        memory.write_text("{")
    assert digests.of(files, remembered="x")[files[0]] == first[files[0]]


def test_a_file_written_just_now_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"one")
    before = digests.of([file], remembered="x")[file]
    frozen = file.stat()
    file.write_bytes(b"two")
    monkeypatch.setattr(digests.os, "stat", lambda path: frozen)  # a clock too coarse to tell them apart
    assert digests.of([file], remembered="x")[file] != before


def test_a_cache_that_cannot_be_written_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file")
    (tmp_path / "a.png").write_bytes(b"one")
    monkeypatch.setattr(digests, "SETTLED_NS", 0)
    expected = {tmp_path / "a.png": hashlib.sha256(b"one").hexdigest()}
    assert digests.of([tmp_path / "a.png"], remembered="x") == expected


def test_without_raw_data_the_last_fingerprint_is_kept(
    tmp_path: Path, makers: Makers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    params = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    params["dataset"], params["datasets"]["folder"] = "folder", makers["folder"](tmp_path / "raw")
    YAML().dump(params, tmp_path / "params.yaml")
    out = tmp_path / "raw_data.json"
    monkeypatch.setattr("sys.argv", ["raw_data.py", "--params", str(tmp_path / "params.yaml"), "--out", str(out)])

    def run() -> int:
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "stages/raw_data.py"), run_name="__main__")
        return int(ended.value.code or 0)

    assert run() == 0 and json.loads(out.read_text())["files"] == 12
    before = out.read_bytes()
    (tmp_path / "raw").rename(tmp_path / "away")
    assert run() == 0 and out.read_bytes() == before
    warning = capsys.readouterr().err
    assert "raw is not a folder; set it to" in warning and "the raw data count as unchanged" in warning
    out.unlink()
    assert run() == 1 and not out.exists() and "raw is not a folder" in capsys.readouterr().err
