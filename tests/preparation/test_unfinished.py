"""An interrupted preparation resumes: complete samples are not read again, and the bytes are those of one run."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import pytest

from pipeline import datasets
from pipeline.errors import UserError
from pipeline.frames import Array, write_png
from pipeline.preparation.prepare import prepare
from pipeline.preparation.unfinished import RECORD

ROOT = Path(__file__).parents[2]
CODE = {"stages/prepare.py": "0"}
COUNT = 12  # samples; every third image is a grey PNG, which prepare encodes anew, the others are JPEG


def raw(root: Path) -> dict[str, Any]:
    """Options of a folder data set that is written here."""
    rng = np.random.default_rng(0)
    for index in range(COUNT):
        split = "val" if index >= COUNT - 3 else "train"
        image = cv2.resize(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8), (41, 27))
        (root / "images" / split).mkdir(parents=True, exist_ok=True)
        if index % 3:
            cv2.imwrite(str(root / "images" / split / f"{index:02}.jpg"), image)
        else:
            write_png(root / "images" / split / f"{index:02}.png", np.asarray(image[..., 1], np.uint8))
        write_png(root / "masks" / split / f"{index:02}.png", np.asarray(image[..., 0] > 99, np.uint8))
    return {"root": str(root), "classes": ["dark", "bright"], "palette": [[0, 0, 0], [255, 0, 0]]}


def run(
    options: dict[str, Any], out: Path, *, stop: Callable[[int], object] = lambda samples: None,
    code: dict[str, str] | None = CODE,
) -> list[str]:  # fmt: skip
    """Prepare; the numbers of the samples that were read.

    Args:
        stop: called with the number of samples so far; it may raise.
    """
    dataset = datasets.build("folder", options)
    read, names, done = dataset.read, [], [0]

    def counted(split: str, name: str) -> tuple[Array, Array]:
        names.append(name.removeprefix(f"{split}__"))
        return read(split, name)

    def progress(split: str, total: int) -> None:
        done[0] += 1
        stop(done[0])

    dataset.read = counted  # type: ignore[method-assign]
    prepare(dataset, out, name="folder", options=options, progress=progress, code=code)
    return sorted(names)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def interrupted(after: int, error: BaseException | None = None) -> Callable[[int], None]:
    def stop(samples: int) -> None:
        if samples == after:
            raise error or KeyboardInterrupt

    return stop


ALL = [f"{index:02}" for index in range(COUNT)]


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    return raw(tmp_path / "raw")


@pytest.fixture
def whole(options: dict[str, Any], tmp_path: Path) -> dict[str, bytes]:
    """The data set of a run that was not interrupted."""
    assert run(options, tmp_path / "whole" / "dataset") == ALL
    assert [path.name for path in (tmp_path / "whole").iterdir()] == ["dataset"]
    files = snapshot(tmp_path / "whole" / "dataset")
    assert len(files) == 1 + 2 * COUNT and len([name for name in files if name.endswith(".jpg")]) == 2 * COUNT // 3
    return files


def test_interrupted_twice(options: dict[str, Any], whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "work" / "dataset"
    for after in (3, 7):
        with pytest.raises(KeyboardInterrupt):
            run(options, out, stop=interrupted(after))
        assert [path.name for path in out.parent.iterdir()] == [".dataset.unfinished"]
    read = run(options, out)
    assert snapshot(out) == whole and [path.name for path in out.parent.iterdir()] == ["dataset"]
    assert 1 <= len(read) <= COUNT - 6, "the seventh may have been half written"
    assert set(ALL[9:]) & set(read)


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline import datasets
from pipeline.datasets._pairs import PairDataset
from pipeline.preparation.prepare import prepare
options, out, code = eval(sys.argv[1]), Path(sys.argv[2]), eval(sys.argv[3])
read = PairDataset.read
def killed(self, split, name):
    if name == "train__07":
        os.kill(os.getpid(), signal.SIGKILL)
    return read(self, split, name)
PairDataset.read = killed
prepare(datasets.build("folder", options), out, name="folder", options=options, progress=lambda *_: None, code=code)
"""


def test_killed(options: dict[str, Any], whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "work" / "dataset"
    process = subprocess.run(
        [sys.executable, "-c", KILLED, repr(options), str(out), repr(CODE)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert process.returncode == -signal.SIGKILL
    assert [path.name for path in out.parent.iterdir()] == [".dataset.unfinished"]
    assert run(options, out) == ALL[7:]
    assert snapshot(out) == whole and [path.name for path in out.parent.iterdir()] == ["dataset"]


def test_damaged_files_and_records_are_prepared_again(
    options: dict[str, Any], whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "work" / "dataset"
    unfinished = tmp_path / "work" / ".dataset.unfinished"

    def stop(samples: int) -> None:  # when the last sample, which a thread may still write, has its record
        until = time.monotonic() + 20
        while samples == COUNT and time.monotonic() < until:
            if (unfinished / "records").stat().st_size == COUNT * RECORD.itemsize:
                raise KeyboardInterrupt
            time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        run(options, out, stop=stop)
    cut = unfinished / "files" / "train" / "images" / "train__01.jpg"
    cut.write_bytes(cut.read_bytes()[:-1])
    (unfinished / "files" / "train" / "labels" / "train__02.png").unlink()
    records = bytearray((unfinished / "records").read_bytes())
    assert len(records) == COUNT * RECORD.itemsize
    records[3 * RECORD.itemsize + 40] ^= 1
    records[4 * RECORD.itemsize : 5 * RECORD.itemsize] = bytes(RECORD.itemsize)
    (unfinished / "records").write_bytes(records[:-1])
    assert run(options, out) == ["01", "02", "03", "04", ALL[-1]]
    assert snapshot(out) == whole


def test_a_run_of_other_data_options_or_code_begins_again(options: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "work" / "dataset"

    def interrupt() -> None:
        with pytest.raises(KeyboardInterrupt):
            run(options, out, stop=interrupted(COUNT))
        assert (out.parent / ".dataset.unfinished" / "records").stat().st_size

    interrupt()
    assert run(options, out, code={"stages/prepare.py": "1"}) == ALL
    interrupt()
    assert run({**options, "classes": ["dark", "light"]}, out) == ALL
    interrupt()
    image = tmp_path / "raw" / "images" / "train" / "01.jpg"
    cv2.imwrite(str(image), np.full((27, 41, 3), 7, np.uint8))
    assert run(options, out) == ALL
    assert (out / "train" / "images" / "train__01.jpg").read_bytes() == image.read_bytes()


def test_what_stays_after_an_exception(options: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "work" / "dataset"
    full = OSError(errno.ENOSPC, "No space left on device")
    for error, code, left in (
        (full, CODE, [".dataset.unfinished"]), (full, None, []), (UserError("wrong"), CODE, []),
        (KeyboardInterrupt(), None, []),
    ):  # fmt: skip
        with pytest.raises(type(error)):
            run(options, out, stop=interrupted(5, error), code=code)
        assert [path.name for path in out.parent.iterdir()] == left
    assert full.filename == str(out.parent / ".dataset.unfinished" / "files"), "the message names the disk"


def test_a_folder_that_was_locked_when_it_was_removed_is_not_used(
    options: dict[str, Any], whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that had the lock ends between `mkdir` and `flock` of this one."""
    out, locks = tmp_path / "work" / "dataset", []

    def flock(handle: int, operation: int) -> None:
        locks.append(handle)
        if len(locks) == 1:
            shutil.rmtree(out.parent / ".dataset.unfinished")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert run(options, out) == ALL
    assert len(locks) == 2 and snapshot(out) == whole


def test_a_file_system_without_locks(
    options: dict[str, Any], whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", mock.Mock(side_effect=OSError(errno.ENOLCK, "No locks available")))
    assert run(options, tmp_path / "work" / "dataset") == ALL
    assert snapshot(tmp_path / "work" / "dataset") == whole


def test_two_processes_do_not_write_the_same_data_set(options: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "work" / "dataset"

    def second(samples: int) -> None:
        if samples == 1:
            with pytest.raises(UserError, match=r"\.dataset\.unfinished: another process prepares this data set"):
                run(options, out)

    assert run(options, out, stop=second) == ALL
    assert (out / "meta.json").is_file()
