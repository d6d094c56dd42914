"""A problem that a user can fix is one message and one exit status; every other exception keeps its traceback."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import Problems, UserError, closest, command


def problems(count: int, *, limit: int = 50) -> Problems:
    collected = Problems("file.yaml", limit=limit)
    for index in range(count):
        collected.add(f"problem {index}")
    return collected


def raiser(error: BaseException) -> Callable[[], int | None]:
    def main() -> int | None:
        raise error

    return main


def test_no_problem_raises_nothing() -> None:
    problems(0).raise_if_any(advice="never read")


@pytest.mark.parametrize(("count", "first_line"), [(1, "1 problem\n"), (2, "2 problems\n")])
def test_problems_are_counted_and_end_with_the_advice(count: int, first_line: str) -> None:
    with pytest.raises(UserError) as caught:
        problems(count).raise_if_any(advice="fix them")
    lines = str(caught.value).split("\n")
    assert lines == ["file.yaml: " + first_line.strip(), *(f"  problem {index}" for index in range(count)), "fix them"]


def test_only_the_limit_is_printed_and_the_rest_is_counted() -> None:
    with pytest.raises(UserError) as caught:
        problems(5, limit=2).raise_if_any()
    assert str(caught.value).split("\n") == ["file.yaml: 5 problems", "  problem 0", "  problem 1", "  ... and 3 more"]


def test_closest_names_one_or_lists_all() -> None:
    assert closest("temprature", ["weight", "temperature"]) == "did you mean 'temperature'?"
    assert closest("xyz", ["b", "a"]) == "allowed: a, b"
    assert closest("xyz", []) == "allowed: nothing"


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (0, 0), (3, 3)])
def test_command_passes_the_status_on(returned: int | None, status: int) -> None:
    assert command(lambda: returned)() == status


def test_a_user_error_is_one_message_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(raiser(UserError("params.yaml: seed: missing")))() == 1
    assert capsys.readouterr().err == "error: params.yaml: seed: missing\n"


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOSPC, errno.ENOTDIR])
def test_a_blocked_path_is_a_user_error_too(code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(raiser(OSError(code, os.strerror(code), "/mnt/out")))() == 1
    assert capsys.readouterr().err == f"error: /mnt/out: {os.strerror(code)}; fix this and run the command again\n"


@pytest.mark.parametrize("error", [RuntimeError("bug"), ValueError("bug"), FileNotFoundError(errno.ENOENT, "bug")])
def test_our_own_bugs_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error), match="bug"):
        command(raiser(error))()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_status_130_and_a_second_one_does_not_stop_the_cleanup(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    steps: list[str] = []

    def main() -> None:
        try:
            os.kill(os.getpid(), number)
            steps.append("not stopped")
        finally:
            os.kill(os.getpid(), number)
            steps.append("cleaned up")

    assert command(main)() == 130
    assert steps == ["cleaned up"]
    assert capsys.readouterr().err.startswith("interrupted: no partial files remain")
    assert signal.getsignal(number) == before


def test_a_background_job_keeps_ignoring_sigint() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert command(lambda: os.kill(os.getpid(), signal.SIGINT))() == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_wrapped_function_is_still_there(tmp_path: Path) -> None:
    def main() -> None:
        """What it does."""

    assert command(main).__doc__ == "What it does."


def test_the_first_of_several_processes_prints_the_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others wait, and print nothing if their launcher ends them before."""
    waited: list[float] = []
    monkeypatch.setattr("pipeline.errors.time.sleep", waited.append)
    monkeypatch.setenv("RANK", "0")
    assert command(raiser(UserError("fix it")))() == 1 and not waited
    assert capsys.readouterr().err == "error: fix it\n"
    monkeypatch.setenv("RANK", "1")
    assert command(raiser(UserError("mine alone")))() == 1 and len(waited) == 1
    assert capsys.readouterr().err == "error: mine alone\n"

    def ended(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.errors.time.sleep", ended)
    assert command(raiser(UserError("fix it")))() == 1
    assert capsys.readouterr().err == ""
