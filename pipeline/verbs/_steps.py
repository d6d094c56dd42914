"""Steps that write artifacts into one folder; a step runs again when one of its inputs has changed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import artifact
from pipeline.errors import UserError
from pipeline.verbs._repository import ROOT, folder_of

#: File in the folder with the inputs and outputs of each finished step.
RECORD = "steps.json"
#: Seconds that an interrupted stage has to remove its temporary files.
GRACE_S = 60.0
#: Exit status of a stage that was stopped at its time (EX_TEMPFAIL of sysexits.h).
TIME_OVER = 75


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: for people and for the record.
        outputs: the artifact folders or files that it writes.
        inputs: its dependencies by name: a path means the content there, other values mean themselves.
        run: writes the outputs; returns the exit status.
        always: run it each time, because it depends on facts outside files, such as those of this machine.
    """

    name: str
    outputs: Sequence[Path]
    inputs: Mapping[str, Any]
    run: Callable[[], int]
    always: bool = False


def perform(steps: Sequence[Step], folder: Path, *, of: str, say: Callable[[str], object]) -> int:
    """Run steps in order; a finished step whose inputs and outputs are unchanged is skipped.

    Args:
        folder: of the outputs and the record.
        of: name of the network; a folder of another network is refused.
        say: called with a line per step.

    Returns:
        the exit status of the first step that failed, else 0.

    Raises:
        UserError: the folder is not empty and has no record, or belongs to another network.
    """
    finished = _record(folder, of=of)
    _write(folder, finished, of=of)
    for number, step in enumerate(steps, start=1):
        inputs = {name: digest(value) for name, value in step.inputs.items()}
        before = finished.get(step.name, {"inputs": inputs, "outputs": []})
        changed = sorted(name for name, value in inputs.items() if before["inputs"].get(name) != value)
        places = ", ".join(map(str, step.outputs))
        title = f"[{number}/{len(steps)}] {step.name}"
        present = _outputs(step)
        if present and present == before["outputs"] and not changed and not step.always:
            say(f"{title}: unchanged, {places}")
            continue
        say(f"{title} -> {places}" + (f" (changed: {', '.join(changed)})" if changed else ""))
        if status := step.run():
            return status
        finished[step.name] = {"inputs": inputs, "outputs": _outputs(step)}
        _write(folder, finished, of=of)
    return 0


def run_stage(name: str, *arguments: str | Path, folder: Path | None = None, until: float | None = None) -> int:
    """Run ``stages/<name>.py`` as a process of its own.

    Args:
        folder: in which it runs; None: this process's own.
        until: time (``time.monotonic``) at which it is stopped.

    Returns:
        its exit status, or ``TIME_OVER``.
    """
    command = [sys.executable, str(folder_of("stages") / f"{name}.py"), *map(str, arguments)]
    search = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": search}
    with subprocess.Popen(command, env=environment, cwd=folder) as process:  # noqa: S603 - no shell
        try:
            return process.wait(None if until is None else max(0.0, until - time.monotonic()))
        except (KeyboardInterrupt, subprocess.TimeoutExpired) as reason:
            process.send_signal(signal.SIGTERM)  # Ctrl-C in a terminal has reached it already; `kill` has not
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
            if isinstance(reason, KeyboardInterrupt):
                raise
            return TIME_OVER


def section(values: Mapping[Any, Any], keys: Iterable[str]) -> dict[str, Any]:
    """The values of params.yaml at dotted keys, as the ``params`` of a stage in dvc.yaml lists them."""
    chosen: dict[str, Any] = {}
    for key in keys:
        value: Any = values
        for part in key.split("."):
            value = value.get(part, {})
        chosen[key] = value
    return chosen


def digest(value: Any) -> str:
    """A sha256: of a file; of all JSON files below a folder and the sizes of other files; of the JSON of a value."""
    if not isinstance(value, Path):
        return artifact.files_hash({"value": artifact.dump_json(value)})
    if value.is_file():
        return artifact.sha256(value)
    files = {file.relative_to(value).as_posix(): file for file in value.rglob("*") if file.is_file()}
    return artifact.files_hash(
        {
            name: artifact.sha256(file) if file.suffix == ".json" else str(file.stat().st_size)
            for name, file in files.items()
        }
    )


def _outputs(step: Step) -> list[str]:
    """:func:`digest` of each output; empty where one is missing."""
    return [digest(path) for path in step.outputs] if all(path.exists() for path in step.outputs) else []


def _write(folder: Path, steps: Mapping[str, Any], *, of: str) -> None:
    artifact.write_text(folder / RECORD, artifact.dump_json({"of": of, "steps": steps}))


def _record(folder: Path, *, of: str) -> dict[str, Any]:
    advice = "name another folder: --out"
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return {}
    if not (folder / RECORD).is_file():
        raise UserError(f"{folder} is there and holds no {RECORD}, so this command did not write it; {advice}")
    record = artifact.read_json(folder / RECORD, advice=f"delete the folder, or {advice}")
    if record.get("of") != of:
        raise UserError(f"{folder} belongs to {record.get('of')}, not to {of}; {advice}")
    return dict(record["steps"])
