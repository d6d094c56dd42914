"""A bundle on another machine over ssh: sent, run, followed and answered, also through a connection that breaks.

Needs nothing there but an ssh server, a POSIX shell, tar, sha256sum, and what the bundle needs. All state of a run lies
there in a folder named after the bundle's hash and the arguments: whoever starts the same run again goes on with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline import artifact
from pipeline.errors import UserError

ROOT = ".segpress"  # below the home folder there
CHUNK = 1 << 18
LOST = 255  # exit status of ssh itself
#: Attempts in a row that may fail, and seconds before the next one.
ATTEMPTS, PAUSE = 5, 2.0
POLL = 1.0  # seconds between two looks at a run
ALIVE = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")


class LostError(Exception):
    """The connection broke, or could not be made."""


@dataclass(frozen=True)
class Host:
    """A machine that ssh reaches without asking for anything.

    Attributes:
        name: ``user@host``, or an alias of the ssh configuration.
        options: further arguments of ssh, e.g. ``("-p", "2222")``.
    """

    name: str
    options: Sequence[str] = ()

    def command(self, script: str) -> list[str]:
        return ["ssh", *ALIVE, *self.options, "--", self.name, script]

    def run(self, script: str) -> str:
        """Output of a shell script there.

        Raises:
            LostError: no connection.
            UserError: the script failed.
        """
        try:
            done = subprocess.run(self.command(script), capture_output=True, text=True, check=False, errors="replace")  # noqa: S603
        except FileNotFoundError:
            raise UserError("ssh is not installed; install an OpenSSH client") from None
        if done.returncode == LOST:
            raise LostError(done.stderr.strip() or "ssh failed")
        if done.returncode:
            raise UserError(f"{self.name}: {done.stderr.strip() or done.stdout.strip()} (status {done.returncode})")
        return done.stdout

    def append(self, file: Path, place: str, *, start: int, progress: Callable[[int], object]) -> None:
        """Send the rest of a file from an offset to the end of a file there. Raises LostError or UserError."""
        with (
            file.open("rb") as stream,
            subprocess.Popen(  # noqa: S603 - a list of arguments
                self.command(f"cat >> {shlex.quote(place)}"),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            ) as process,
        ):
            assert process.stdin is not None and process.stderr is not None
            stream.seek(start)
            with contextlib.suppress(BrokenPipeError):  # the status tells why
                while block := stream.read(CHUNK):
                    process.stdin.write(block)
                    process.stdin.flush()
                    progress(len(block))
                process.stdin.close()
            said = process.stderr.read().decode(errors="replace").strip()
            status = process.wait()
        if status == LOST:
            raise LostError(said or "ssh failed")
        if status:
            raise UserError(f"{self.name}: {place}: {said} (status {status})")


def check(
    host: Host,
    bundle: Path,
    *,
    arguments: Sequence[str] = (),
    python: str = "python3",
    say: Callable[[str], object] = lambda text: None,
    progress: Callable[[int, int], object] = lambda sent, total: None,
    pause: float = PAUSE,
) -> tuple[dict[str, Any], int]:
    """Run a bundle on a host, or go on with a run that was interrupted, and fetch its results.

    Args:
        bundle: the tar.gz that ``segpress bundle`` wrote.
        arguments: of its run.sh.
        python: interpreter there, with numpy, OpenCV and the runtime.
        say: called with each line that the run prints there.
        progress: called with (bytes sent, bytes in all).
        pause: seconds before another attempt after a lost connection; they double.

    Returns:
        what its results.json holds, and its exit status: 1 when a budget is broken.

    Raises:
        UserError: no connection after several attempts (the run goes on there: start again to fetch it), or it failed.
    """
    digest = artifact.sha256(bundle)
    run = hashlib.sha256("\0".join((digest, python, *arguments)).encode()).hexdigest()[:16]
    folder, name = f"{ROOT}/{run}", bundle.name.removesuffix(".tar.gz")
    patient = Patience(host, pause=pause)
    patient.until_done(lambda: send(host, bundle, f"{ROOT}/{digest[:16]}.tar.gz", digest=digest, progress=progress))
    patient.until_done(lambda: host.run(starting(folder, f"{digest[:16]}.tar.gz", name, arguments, python=python)))
    seen = 0
    while True:
        text = patient.until_done(partial(host.run, looking(folder, seen)))
        status, _, fresh = text.partition("\n")
        seen += len(fresh.encode())
        for line in fresh.splitlines():
            say(line)
        if status:
            break
        time.sleep(POLL)
    content = patient.until_done(lambda: host.run(f"cat {folder}/{shlex.quote(name)}/results.json 2>/dev/null || true"))
    if not content:
        raise UserError(f"{host.name}: the run ended with status {status} and no results; its last lines are above")
    try:
        results: dict[str, Any] = json.loads(content)
    except ValueError as error:
        raise UserError(f"{host.name}: {folder}/{name}/results.json is not JSON ({error})") from error
    patient.until_done(lambda: host.run(f"rm -rf {folder}"))  # so that the next start measures anew
    return results, int(status)


@dataclass
class Patience:
    """Tries again when the connection is lost."""

    host: Host
    pause: float = PAUSE

    def until_done(self, action: Callable[[], Any]) -> Any:
        for attempt in range(ATTEMPTS):
            try:
                return action()
            except LostError as error:
                last = error
                time.sleep(self.pause * 2**attempt)
        raise UserError(
            f"{self.host.name}: no connection ({last}); what was sent and what runs there stays: "
            "start the same command again to go on"
        )


def send(host: Host, file: Path, place: str, *, digest: str, progress: Callable[[int, int], object]) -> None:
    """Bring a file to a place there, from where an earlier attempt ended.

    Raises:
        LostError: the connection broke; call again.
        UserError: the copy differs from the file; it was removed.
    """
    total, part = file.stat().st_size, f"{place}.part"
    look = f"if [ -f {place} ]; then echo done; elif [ -f {part} ]; then wc -c < {part}; else echo 0; fi"
    there = host.run(f"mkdir -p {ROOT} && {look}").strip()
    if there != "done":
        sent = int(there)
        if sent < total:

            def count(more: int) -> None:
                nonlocal sent
                sent += more
                progress(sent, total)

            host.append(file, part, start=sent, progress=count)
        found = host.run(f"sha256sum {part}").split()[0]
        if found != digest:
            host.run(f"rm -f {part}")
            raise UserError(f"{host.name}: {part} is not what was sent; it was removed: start again")
        host.run(f"mv {part} {place}")
    progress(total, total)


def starting(folder: str, archive: str, name: str, arguments: Sequence[str], *, python: str) -> str:
    """Script that unpacks and starts a run in the background, unless it was started before."""
    quoted = " ".join(map(shlex.quote, arguments))
    start = f"PYTHON={shlex.quote(python)} sh {shlex.quote(name)}/run.sh {quoted}"
    inner = f"{start} > log 2>&1; echo $? > status.part; mv status.part status"
    return (
        f"mkdir -p {ROOT} && if mkdir {folder} 2>/dev/null; then cd {folder} && tar xzf ../{archive} && : > log && "
        f"(setsid nohup sh -c {shlex.quote(inner)} > /dev/null 2>&1 < /dev/null &) ; fi"
    )


def looking(folder: str, seen: int) -> str:
    """Script that prints the status on the first line, empty while it runs, and what is new in the log."""
    return f"(cat {folder}/status 2>/dev/null || echo) && tail -c +{seen + 1} {folder}/log"
