"""The decoded file has the bytes that decoding gives, for many processes, while it is filled and after a kill."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import pytest
import torch

from pipeline import artifact
from pipeline.errors import UserError
from pipeline.frames import write_png
from pipeline.prepared import Prepared, Split
from pipeline.settings.param_types import StoreMode
from pipeline.training import data, free_memory, store


def same(split: Split, other: Split) -> bool:
    return list(split.names) == list(other.names) and all(
        np.array_equal(a, c) and np.array_equal(b, d) for (a, b), (c, d) in zip(split, other, strict=True)
    )


def test_frames_and_labels_are_the_decoded_ones(prepared: Prepared, tmp_path: Path) -> None:
    messages: list[str] = []
    for name in ("train", "val"):
        split = store.open_split(prepared, name, mode="decoded", folder=tmp_path, say=messages.append)
        assert isinstance(split, store.Stored) and same(split, prepared.split(name))
        assert same(split, prepared.split(name)), "and from the file"
    pixels = 64 * 96
    assert (tmp_path / prepared.artifact.hash[:16] / "train.raw").stat().st_size == 10 * (4 * pixels + 1)
    assert len(messages) == 2 and "10 frames" in messages[0] and "0 MiB" in messages[0]
    store.open_split(prepared, "train", mode="decoded", folder=tmp_path, say=messages.append)
    assert len(messages) == 2, "the file is not begun again"
    part = dataclasses.replace(split, names=split.names[1:])
    assert same(part, dataclasses.replace(prepared.split("val"), names=prepared.split("val").names[1:]))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the frames that are decoded."""
    names: list[str] = []
    read = Split.frame

    def frame(self: Split, index: int) -> Any:
        names.append(self.names[index])
        return read(self, index)

    monkeypatch.setattr(Split, "frame", frame)
    return names


def test_a_frame_is_decoded_once_when_it_is_drawn(prepared: Prepared, tmp_path: Path, decoded: list[str]) -> None:
    split = store.open_split(prepared, "train", mode="decoded", folder=tmp_path)
    assert decoded == [], "training starts at once"
    with (tmp_path / prepared.artifact.hash[:16] / "train.raw").open("rb") as stream:
        assert os.lseek(stream.fileno(), 0, os.SEEK_DATA) > 0, "only the bytes `complete` are on the disk"
    other = store.open_split(prepared, "train", mode="decoded", folder=tmp_path)
    for index in (3, 5, 3, 5):
        _ = split[index], other.frame(index), other.label(index)
    assert decoded == [split.names[3], split.names[5]]
    list(other)
    assert sorted(decoded) == sorted(split.names)
    assert same(split, prepared.split("train"))


def test_an_index_is_noted_as_complete_and_then_survives_a_crash_of_the_machine(
    prepared: Prepared, tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(boot: str) -> store.Stored:
        monkeypatch.setattr(store, "_boot", lambda: boot)
        split = store.open_split(prepared, "train", mode="decoded", folder=tmp_path)
        assert isinstance(split, store.Stored)
        return split

    list(opened("1"))
    _ = opened("2")[0]
    assert len(decoded) == 11, "after a crash the file is begun again: a byte might be stored, and its pixels not"
    list(opened("2"))
    assert len(decoded) == 20
    assert json.loads(opened("2").file.with_suffix(".json").read_text())["boot"] is None
    list(opened("3"))
    assert len(decoded) == 20
    assert same(opened("3"), prepared.split("train"))


def test_a_full_disk_or_a_file_of_another_user_costs_time_only(
    prepared: Prepared, tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    split = store.open_split(prepared, "train", mode="decoded", folder=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(store, "_write_all", mock.Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
        _ = split[2], split[2]
    assert decoded == [split.names[2]] * 2
    real = Path.open
    for index, error in ((4, errno.EACCES), (6, errno.EROFS)):

        def refused(self: Path, mode: str = "r", *arguments: Any, error: int = error, **options: Any) -> Any:
            if mode == "r+b":
                raise OSError(error, os.strerror(error))
            return real(self, mode, *arguments, **options)

        monkeypatch.setattr(Path, "open", refused)
        other = pickle.loads(pickle.dumps(split))
        decoded.clear()
        _ = other[index], other[index]
        assert decoded == [split.names[index]] * 2 and same(other, prepared.split("train"))


def test_a_complete_file_is_used_where_nothing_can_be_written(
    prepared: Prepared, tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    list(store.open_split(prepared, "train", mode="decoded", folder=tmp_path))
    decoded.clear()
    refused = mock.Mock(side_effect=OSError(errno.EROFS, "Read-only file system"))
    monkeypatch.setattr(artifact, "write_text", refused)
    split = store.open_split(prepared, "train", mode="decoded", folder=tmp_path)
    assert len(list(split)) == 10 and refused.called and not decoded


def test_a_file_that_another_machine_fills_is_not_replaced(
    prepared: Prepared, tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes with one folder: the second one must not take away the file of the first one."""
    first = store.open_split(prepared, "train", mode="decoded", folder=tmp_path)
    _ = first[0]
    monkeypatch.setattr(store, "_boot", lambda: "another machine")
    messages: list[str] = []
    second = store.open_split(prepared, "train", mode="decoded", folder=tmp_path, say=messages.append)
    assert type(second) is Split and "another run fills" in messages.pop()
    decoded.clear()
    view = first[0][0]
    assert not decoded
    del first
    assert type(store.open_split(prepared, "train", mode="auto", folder=tmp_path)) is Split, "the view is in use"
    del view
    assert type(store.open_split(prepared, "train", mode="auto", folder=tmp_path)) is store.Stored


def test_a_file_that_is_begun_again_may_take_the_place_of_the_old_one(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(store.open_split(prepared, "train", mode="decoded", folder=tmp_path))
    (tmp_path / prepared.artifact.hash[:16] / "train.json").unlink()
    monkeypatch.setattr(shutil, "disk_usage", lambda place: mock.Mock(free=100))
    assert type(store.open_split(prepared, "train", mode="decoded", folder=tmp_path)) is store.Stored
    with pytest.raises(UserError, match="free some, or set store: none"):
        store.open_split(prepared, "val", mode="decoded", folder=tmp_path)


def test_jpegs_and_frames_of_several_sizes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sizes = [(5, 7), (32, 16), (1, 1)]
    names = [f"f{index}" for index in range(len(sizes))]
    for name, size in zip(names, sizes, strict=True):
        write_png(tmp_path / "train/images" / f"{name}.png", rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        write_png(tmp_path / "train/labels" / f"{name}.png", rng.integers(0, 9, size, dtype=np.uint8))
    cv2.imwrite(str(tmp_path / "train/images/f1.jpg"), rng.integers(0, 256, (32, 16, 3), dtype=np.uint8))
    split = Split(root=tmp_path, name="train", names=names, jpegs=frozenset({"f1"}))
    places, size = store._layout(split)
    store._begin(tmp_path / "x.raw", split, places=places, size=size, digest="d", say=lambda text: None)
    index = store._ready(tmp_path / "x.raw", "d")
    assert index == places and size == 4 * (35 + 512 + 1) + 3

    def opened() -> store.Stored:
        return store.Stored(
            root=tmp_path, name="train", names=names, jpegs=split.jpegs, file=tmp_path / "x.raw", places=places
        )

    stored = opened()
    assert same(stored, split) and same(stored, split)
    for view in stored[1]:  # in a private copy of a page, samples that are added later would be missing
        with pytest.raises(ValueError, match="read-only"):
            view[:] = 0


def test_crops_do_not_depend_on_the_store_nor_on_workers(prepared: Prepared, tmp_path: Path) -> None:
    augment = data.augmentation(
        crop=(64, 64), input_size=(64, 96), scale=(0.5, 2.0), colour=0.5, labels=prepared.labels
    )
    stored = store.open_split(prepared, "train", mode="decoded", folder=tmp_path)
    _ = stored[0], stored[0]
    assert len(pickle.dumps(stored)) < 4000, "workers that are not forked get the path, not the pixels"
    draws = data.Draws(length=len(stored), steps=3, images=4, seed=1)
    batches: list[list[Any]] = [
        list(data.batches(data.Crops(split, augment, seed=0), draws, workers=workers))
        for split, workers in (
            (prepared.split("train"), 0), (stored, 2), (stored, 0), (pickle.loads(pickle.dumps(stored)), 2),
        )
    ]  # fmt: skip
    for batch in zip(*batches, strict=True):
        for other in batch[1:]:
            assert torch.equal(batch[0][0], other[0]) and torch.equal(batch[0][1], other[1])


def test_several_threads_write_one_file(prepared: Prepared, tmp_path: Path) -> None:
    messages: list[str] = []

    def open_train(_: int) -> Split:
        return store.open_split(prepared, "train", mode="decoded", folder=tmp_path, say=messages.append)

    with ThreadPoolExecutor(8) as pool:
        splits = list(pool.map(open_train, range(8)))
    assert len(messages) == 1 and all(isinstance(split, store.Stored) for split in splits)
    assert same(splits[-1], prepared.split("train"))


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.prepared import Prepared, Split
from pipeline.training import store
def frame(self, index, read=Split.frame):
    if index == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(self, index)
Split.frame = frame
split = store.open_split(Prepared(Path(sys.argv[1])), "train", mode="decoded", folder=Path(sys.argv[2]))
for index in range(len(split)):
    split[index]
"""


def test_frames_of_a_killed_process_are_kept(prepared: Prepared, tmp_path: Path, decoded: list[str]) -> None:
    root = Path(__file__).parents[2]
    process = subprocess.run(
        [sys.executable, "-c", KILLED, str(prepared.artifact.path), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(root)},
        check=False,
    )
    assert process.returncode == -signal.SIGKILL
    folder = tmp_path / prepared.artifact.hash[:16]
    split = store.open_split(prepared, "train", mode="decoded", folder=tmp_path)
    assert [index for index in range(10) if split[index] and split.names[index] in decoded] == [7, 8, 9]
    assert same(split, prepared.split("train"))
    assert sorted(file.name for file in folder.iterdir()) == ["train.json", "train.lock", "train.raw"]


def test_an_incomplete_file_or_one_of_other_data_is_written_again(prepared: Prepared, tmp_path: Path) -> None:
    folder = tmp_path / prepared.artifact.hash[:16]

    def spoil_size() -> None:
        os.truncate(folder / "train.raw", 100)

    def spoil_index() -> None:
        (folder / "train.json").write_text("{")

    def spoil_fact(**fact: Any) -> None:
        index = json.loads((folder / "train.json").read_text())
        (folder / "train.json").write_text(json.dumps({**index, **fact}))

    spoils: list[Callable[[], None]] = [
        spoil_size, spoil_index, partial(spoil_fact, dataset="another"), partial(spoil_fact, format=1),
        partial(spoil_fact, places={"a": [1, 2, 3]}),
    ]  # fmt: skip
    for spoil in spoils:
        split = store.open_split(prepared, "train", mode="decoded", folder=tmp_path)
        assert split[0]
        del split
        spoil()
        messages: list[str] = []
        split = store.open_split(prepared, "train", mode="decoded", folder=tmp_path, say=messages.append)
        assert len(messages) == 1 and same(split, prepared.split("train"))


def test_auto_checks_memory_and_disk_and_never_fails(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    size = 10 * (4 * 64 * 96 + 1)

    def opened(mode: StoreMode, folder: str) -> Split:
        return store.open_split(prepared, "train", mode=mode, folder=tmp_path / folder, say=messages.append)

    assert type(opened("none", "a")) is Split and not messages and not list(tmp_path.iterdir())
    monkeypatch.setattr(store, "free_memory", lambda device: 4 * size - 4)
    assert type(opened("auto", "a")) is Split and "a quarter of the free memory" in messages.pop()
    monkeypatch.setattr(store, "free_memory", lambda device: 4 * size)
    monkeypatch.setattr(store, "_free_disk", lambda place: size)
    assert type(opened("auto", "a")) is Split and "half of the free disk" in messages.pop()
    monkeypatch.setattr(store, "_free_disk", lambda place: 2 * size)
    assert type(opened("auto", "a")) is store.Stored
    (tmp_path / "file").write_text("in the way")
    assert type(opened("auto", "file")) is Split and "cannot be written" in messages.pop()
    with pytest.raises(UserError, match=r"cannot be written \(.*store: none"):
        opened("decoded", "file")
    monkeypatch.setattr(store, "_free_disk", lambda place: size - 1)
    with pytest.raises(UserError, match="free some, or set store: none"):
        opened("decoded", "b")


def test_a_file_that_is_no_image_is_named(prepared: Prepared, tmp_path: Path) -> None:
    (tmp_path / "train/images").mkdir(parents=True)
    (tmp_path / "train/images/a.png").write_bytes(b"JFIF" * 10)
    split = Split(root=tmp_path, name="train", names=["a", "b"])
    with pytest.raises(UserError, match=r"a\.png: no image file.* dvc repro -f prepare$"):
        store._layout(split)
    with pytest.raises(UserError, match=r"b\.png: cannot be read.* dvc repro -f prepare_unlabelled$"):
        store._layout(dataclasses.replace(split, names=["b"], ignored=255))


def test_free_memory_is_the_least_of_the_machine_and_its_control_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable: 5000 kB\n")
    monkeypatch.setattr(free_memory, "MEMINFO", meminfo)
    monkeypatch.setattr(free_memory, "CGROUP", tmp_path)
    cpu = torch.device("cpu")
    assert free_memory.free_memory(cpu) == 5000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("3000000\n")
    (tmp_path / "memory.stat").write_text("anon 100\ninactive_file 500000\n")
    assert free_memory.free_memory(cpu) == 5000 * 1024
    (tmp_path / "memory.max").write_text("4000000\n")
    assert free_memory.free_memory(cpu) == 4000000 - 3000000 + 500000
    meminfo.unlink()
    (tmp_path / "memory.max").unlink()
    assert free_memory.free_memory(cpu) is None
