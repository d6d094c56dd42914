"""DVC experiments in temporary folders: run one with changed params, read what it made. The workspace stays as it is.

A run that was made before, of the same data, code and params, comes from DVC's run cache within seconds. Nothing is
forced, since that would train again.
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

TAIL = 15  # lines of a failed run that are shown
KEYWORDS = ("true", "false", "null", "nan", "inf")
LOCK = ".dvc/tmp/exps/rwlock"  # DVC refuses to go on when it is damaged
GRACE = 60.0  # seconds for an interrupted run to clean up


def literal(value: Any) -> str:
    """A value as Hydra's grammar, which ``dvc exp run -S`` speaks, writes it.

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
    """In Hydra's quotes a backslash is itself, but before a quote."""
    return "'" + re.sub(r"(\\*)('|\Z)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), text) + "'"


def untracked(*folders: str) -> list[str]:
    """Files in these folders that git does not know: a run in a temporary folder would lack them."""
    return _git("ls-files", "--others", "--exclude-standard", "--", *folders).splitlines()


def reproduce(target: str) -> None:
    """Bring a stage up to date in the workspace, with the output of DVC on the screen.

    Experiments take the workspace's dvc.lock along. Where it names outputs that another machine made and that are not
    in the cache here, DVC would make them anew in every experiment without a look at the run cache.

    Raises:
        UserError: DVC or a stage failed.
    """
    status, _ = _call([sys.executable, "-m", "dvc", "repro", target], shown=True)
    if status:
        raise UserError(f"{target}: failed with status {status}; see above")


def run(name: str, *, target: str, params: Mapping[str, Any]) -> tuple[str, bool]:
    """Run an experiment up to a stage; an older one of that name on the same commit is replaced.

    Args:
        target: stage to reproduce, with all that it needs.
        params: dotted key to value; each replaces what stands there.

    Returns:
        the commit of the experiment, and whether the target had to run (False: it came from the run cache).

    Raises:
        UserError: DVC or a stage failed; the message ends with its last lines.
    """
    ref = _ref(name)
    if _git("for-each-ref", ref):
        _git("update-ref", "-d", ref)
    settings: list[str] = []
    for key, value in params.items():  # first null: Hydra would merge a mapping into the one that is there
        settings += ["-S", f"{key}=null", "-S", f"{key}={literal(value)}"]
    command = [sys.executable, "-m", "dvc", "exp", "run", "--temp", "--name", name, *settings, target]
    status, output = _call(command)
    if status:
        lines = "\n".join(f"  {line}" for line in output.strip().splitlines()[-TAIL:])
        advice = f"\n  a killed run left it half-written; delete it: {LOCK}" if LOCK in output else ""
        raise UserError(f"experiment {name}: failed with status {status}; its last lines:\n{lines}{advice}")
    commit = _git("rev-parse", "--verify", "--quiet", ref)
    if not commit:
        raise UserError(f"experiment {name}: DVC left none; look with: dvc exp show")
    return commit, f"Running stage '{target}'" in output


def read(commit: str, path: str) -> dict[str, Any]:
    """A JSON object that an experiment made, from git or from DVC's cache."""
    from dvc.api import DVCFileSystem  # type: ignore[import-untyped]  # noqa: PLC0415

    value: dict[str, Any] = json.loads(DVCFileSystem(rev=commit).read_text(path, encoding="utf-8"))
    return value


def _ref(name: str) -> str:
    """Where DVC keeps the experiment of this name on the commit that is checked out."""
    head = _git("rev-parse", "HEAD")
    return f"refs/exps/{head[:2]}/{head[2:]}/{name}"


def _call(command: list[str], *, shown: bool = False) -> tuple[int, str]:
    """Status and output of a command; an interruption is passed on, and its cleaning up waited for.

    Args:
        shown: let it write to the screen instead; the output is then empty.
    """
    stream = None if shown else subprocess.PIPE
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    code = os.pathsep.join(filter(None, [".", os.environ.get("PYTHONPATH", "")]))  # of the folder that it runs in
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
    """Output of git without its final newline; empty when git has nothing to say."""
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)  # noqa: S603, S607
    if done.returncode and done.stderr:
        raise UserError(f"git {arguments[0]}: {done.stderr.strip()}; run from the project's root, in a git checkout")
    return done.stdout.strip()
