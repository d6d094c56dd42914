"""DVC experiments in temporary folders: run one with changed params and read its outputs. The workspace is unchanged.

If the same data, code and params ran before, the result comes from DVC's run cache within seconds. Therefore no run is
forced: that would train again.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

TAIL = 15  # number of output lines that are printed after a failed run
KEYWORDS = ("true", "false", "null", "nan", "inf")
LOCK = ".dvc/tmp/exps/rwlock"  # DVC refuses to run if this file is damaged
GRACE = 60.0  # seconds that an interrupted run has for cleanup


def literal(value: Any) -> str:
    """A value in Hydra's grammar, which ``dvc exp run -S`` reads.

    Example:
        >>> literal({"kd": {}, "fitnet": {"weight": 5.0, "on": True, "of": None}})
        '{kd:{},fitnet:{weight:5.0,on:true,of:null}}'
        >>> literal(["kd", "it's"])
        "[kd,'it\\\\'s']"
    """
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{literal(key)}:{literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(literal, value)) + "]"
    if isinstance(value, str):
        return value if value.isidentifier() and value.lower() not in KEYWORDS else _quoted(value)
    return json.dumps(value)


def _quoted(text: str) -> str:
    """A text in Hydra's quotes, where backslashes are doubled only before a quote or the end."""
    return "'" + re.sub(r"(\\*)('|\Z)", lambda match: 2 * match[1] + ("\\'" if match[2] else ""), text) + "'"


def untracked(*folders: str) -> list[str]:
    """Files in these folders that git does not track: they would be missing in a temporary folder."""
    return _git("ls-files", "--others", "--exclude-standard", "--", *folders).splitlines()


def reproduce(target: str) -> None:
    """Run ``dvc repro`` for a stage in the workspace, with DVC's output on the screen.

    Experiments copy the workspace's dvc.lock. If it names outputs of another machine that are not in this machine's
    cache, DVC would compute them again in every experiment, without using the run cache.

    Raises:
        UserError: DVC or a stage failed.
    """
    status, _ = _call([sys.executable, "-m", "dvc", "repro", target], shown=True)
    if status:
        raise UserError(f"dvc repro {target}: failed with status {status}; fix the error above and run again")


def run(name: str, *, target: str, params: Mapping[str, Any]) -> tuple[str, bool]:
    """Run an experiment up to a stage. It replaces an older experiment of the same name on the same commit.

    Args:
        target: stage to reproduce, with all stages that it needs.
        params: from dotted key to value; each value replaces the one in params.yaml.

    Returns:
        the commit of the experiment, and whether the target had to run (False: it came from the run cache).

    Raises:
        UserError: DVC or a stage failed; the message ends with its last lines.
    """
    ref = _ref(name)
    if _git("for-each-ref", ref):
        _git("update-ref", "-d", ref)
    settings: list[str] = []
    for key, value in params.items():  # null first, because Hydra would merge a mapping into the old one
        settings += ["-S", f"{key}=null", "-S", f"{key}={literal(value)}"]
    command = [sys.executable, "-m", "dvc", "exp", "run", "--temp", "--name", name, *settings, target]
    status, output = _call(command)
    if status:
        lines = "\n".join(f"  {line}" for line in output.strip().splitlines()[-TAIL:])
        advice = f"\n  a killed run left {LOCK} damaged; delete this file" if LOCK in output else ""
        raise UserError(f"experiment {name}: failed with status {status}; its last lines:\n{lines}{advice}")
    commit = _git("rev-parse", "--verify", "--quiet", ref)
    if not commit:
        raise UserError(f"experiment {name}: DVC ran but recorded no experiment; list them with: dvc exp show")
    return commit, f"Running stage '{target}'" in output


def read(commit: str, path: str) -> dict[str, Any]:
    """A JSON object that an experiment wrote, from git or from DVC's cache."""
    value: dict[str, Any] = json.loads(read_text(commit, path))
    return value


def read_text(commit: str, path: str) -> str:
    """A text file that an experiment wrote, from git or from DVC's cache."""
    from dvc.api import DVCFileSystem  # type: ignore[import-untyped]  # noqa: PLC0415

    text: str = DVCFileSystem(rev=commit).read_text(path, encoding="utf-8")
    return text


def _ref(name: str) -> str:
    """The git reference of the experiment with this name on the commit that is checked out."""
    head = _git("rev-parse", "HEAD")
    return f"refs/exps/{head[:2]}/{head[2:]}/{name}"


def _call(command: list[str], *, shown: bool = False) -> tuple[int, str]:
    """Run a command and return its status and output. An interruption is sent on to it, and its cleanup awaited.

    Args:
        shown: the command writes to the screen instead, and the returned output is empty.
    """
    stream = None if shown else subprocess.PIPE
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    code = os.pathsep.join(filter(None, [".", os.environ.get("PYTHONPATH", "")]))  # ".": the folder in which it runs
    with subprocess.Popen(  # noqa: S603 - a list of arguments, no shell
        command,
        env={**os.environ, "PATH": path, "PYTHONPATH": code},
        stdout=stream,
        stderr=None if shown else subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate()
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.communicate(timeout=GRACE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, output or ""


def _git(*arguments: str) -> str:
    """Output of git without its final newline; empty if git prints nothing."""
    result = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)  # noqa: S603, S607
    if result.returncode and result.stderr:
        raise UserError(f"git {arguments[0]}: {result.stderr.strip()}; run from the project's root, in a git checkout")
    return result.stdout.strip()
