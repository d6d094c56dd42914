from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.video.sinks._base import Result
from pipeline.video.sinks.lines import LinesSink, PrintedLinesSink, line_of

#: Writes lines for ever, a thousand a second: to a file, or to standard output.
PROGRAM = """
import sys, time
from pathlib import Path
import numpy as np
from pipeline.labels import LabelSpec
from pipeline.video.drawing.picture import Box
from pipeline.video.sinks._base import Result, Stop
from pipeline.video.sinks.lines import LinesSink, PrintedLinesSink
labels = LabelSpec(names=tuple(f"class {i}" for i in range(200)), palette=((0, 0, 0),) * 200)
sink = LinesSink(Path(sys.argv[1]), labels=labels) if sys.argv[1:] else PrintedLinesSink(labels=labels)
label_map = np.zeros((1, 256), np.uint8)
with sink:
    try:
        for index in range(10**9):
            box = Box(0, 0, 1, 256)
            pixels = np.ones(256, np.int64)
            sink.write(Result(index, "x", None, time.perf_counter(), (1, 256), box, label_map, pixels, 1.0, 0, None))
            time.sleep(0.001)
    except Stop:
        pass
"""


def test_a_line(make_result: Callable[..., Result], labels: LabelSpec) -> None:
    result = make_result(7, name='ünï "quoted"', arrived=time.perf_counter() - 0.5, infer_ms=4.00049, dropped=3)
    line = line_of(result, labels)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    values = json.loads(line.decode("ascii"))
    age = values.pop("age_ms")
    assert 500 <= age < 1500
    assert values == {
        "index": 7,
        "frame": 'ünï "quoted"',
        "time_s": 0.28,
        "infer_ms": 4.0,
        "dropped": 3,
        "shares": {"road": 0.5, "car": 0.25, "sky": 0.125, "tree": 0.0},
        "other": 0.125,
    }
    assert list(values["shares"]) == list(labels.names)
    assert json.loads(line_of(make_result(timestamp=None), labels))["time_s"] is None


def test_a_file_has_its_name_at_the_end(make_result: Callable[..., Result], labels: LabelSpec, tmp_path: Path) -> None:
    path = tmp_path / "new" / "frames.jsonl"
    with LinesSink(path, labels=labels) as sink:
        for index in range(3):
            sink.write(make_result(index))
            (partial,) = path.parent.iterdir()
            assert partial.name.startswith("frames.partial-")
            assert len(partial.read_bytes().splitlines(keepends=True)) == index + 1, "each line is written at once"
    assert [json.loads(line)["index"] for line in path.read_text().splitlines()] == [0, 1, 2]
    assert list(path.parent.iterdir()) == [path]
    assert sink.written == path


def test_a_failed_run_leaves_the_old_file(
    make_result: Callable[..., Result], labels: LabelSpec, tmp_path: Path
) -> None:
    path = tmp_path / "frames.jsonl"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), LinesSink(path, labels=labels) as sink:
        sink.write(make_result())
        raise ZeroDivisionError
    assert path.read_text() == "old"
    (left,) = set(tmp_path.iterdir()) - {path}
    assert left.name.startswith("frames.partial-")
    assert len(left.read_text().splitlines()) == 1, "written lines are kept in a partial file"


def test_a_full_disk_is_one_error(make_result: Callable[..., Result], labels: LabelSpec, tmp_path: Path) -> None:
    path = tmp_path / "frames.jsonl"
    message = r"frames\.jsonl: cannot be written \(No space left"
    with (
        Path("/dev/full").open("wb") as full,
        pytest.raises(UserError, match=message),
        LinesSink(path, labels=labels) as sink,
    ):
        assert sink._file is not None
        sink._file.close()
        sink._file = full
        sink.write(make_result())
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="is a folder"):
        LinesSink(tmp_path, labels=labels).__enter__()


def start(*arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_killed_run_leaves_whole_lines(tmp_path: Path) -> None:
    with start(tmp_path / "frames.jsonl") as process:
        try:
            until = time.monotonic() + 20
            while not any(path.stat().st_size > 100_000 for path in tmp_path.iterdir()):
                assert time.monotonic() < until
                assert process.poll() is None
                time.sleep(0.005)
        finally:
            process.send_signal(signal.SIGKILL)
    (partial,) = tmp_path.iterdir()
    data = partial.read_bytes()
    assert data.endswith(b"}\n")
    assert [json.loads(line)["index"] for line in data.splitlines()] == list(range(data.count(b"\n")))


def test_a_reader_of_lines_may_leave() -> None:
    with start() as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            assert [json.loads(process.stdout.readline())["index"] for _ in range(3)] == [0, 1, 2]
            process.stdout.close()
            assert process.wait(timeout=20) == 0
            assert process.stderr.read() == b""
        finally:
            process.kill()


def test_printing(
    make_result: Callable[..., Result], labels: LabelSpec, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    with PrintedLinesSink(labels=labels) as sink:
        sink.write(make_result(5))
    assert json.loads(capfdbinary.readouterr().out)["index"] == 5
    assert sink.written is None
