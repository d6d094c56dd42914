"""Run a bundle on another machine over ssh: send it, start it, print its output, fetch its results.

The connection may break at any time. The other machine (the host) needs an ssh server, a POSIX shell, tar, sha256sum,
and the requirements of the bundle. The state of a run is in a folder on the host whose name is a hash of the bundle and
the arguments: the same command, started again, continues the same run.
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

ROOT = ".segpress"  # in the home folder of the host
CHUNK = 1 << 18  # bytes
LOST = 255  # exit status of ssh when the connection fails
#: Number of attempts before an error, and seconds before the second one; the pause then doubles.
ATTEMPTS, PAUSE = 5, 2.0
POLL = 1.0  # seconds between two queries of a run's state
ALIVE = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")


class LostError(Exception):
    """The connection broke, or could not be opened."""


@dataclass(frozen=True)
class Host:
    """A machine that ssh reaches without asking for a password.

    Attributes:
        name: ``user@host``, or an alias of the ssh configuration.
        options: further arguments of ssh, e.g. ``("-p", "2222")``.
    """

    name: str
    options: Sequence[str] = ()

    def command(self, script: str) -> list[str]:
        return ["ssh", *ALIVE, *self.options, "--", self.name, script]

    def run(self, script: str) -> str:
        """Run a shell script on the host and return its output.

        Raises:
            LostError: no connection.
            UserError: the script failed.
        """
        try:
            result = subprocess.run(self.command(script), capture_output=True, text=True, check=False, errors="replace")  # noqa: S603
        except FileNotFoundError:
            raise UserError("ssh is not installed; install an OpenSSH client") from None
        if result.returncode == LOST:
            raise LostError(result.stderr.strip() or "ssh failed")
        if result.returncode:
            message = result.stderr.strip() or result.stdout.strip()
            raise UserError(f"{self.name}: {message} (status {result.returncode})")
        return result.stdout

    def append(self, file: Path, place: str, *, start: int, progress: Callable[[int], object]) -> None:
        """Append a file's bytes from offset ``start`` to ``place`` on the host. Raises LostError or UserError."""
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
            with contextlib.suppress(BrokenPipeError):  # the exit status shows the reason
                while block := stream.read(CHUNK):
                    process.stdin.write(block)
                    process.stdin.flush()
                    progress(len(block))
                process.stdin.close()
            message = process.stderr.read().decode(errors="replace").strip()
            status = process.wait()
        if status == LOST:
            raise LostError(message or "ssh failed")
        if status:
            raise UserError(f"{self.name}: {place}: {message} (status {status})")


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
    """Run a bundle on a host, or continue an interrupted run, and fetch its results.

    Args:
        bundle: the tar.gz that ``segpress bundle`` wrote.
        arguments: of its run.sh.
        python: Python interpreter on the host, with numpy, OpenCV and the runtime.
        say: called with each line that the run prints on the host.
        progress: called with (bytes sent, bytes in total).
        pause: seconds before the second attempt after a lost connection; doubled for each further one.

    Returns:
        the content of its results.json, and its exit status: 1 if a budget is broken.

    Raises:
        UserError: no connection after several attempts (the run continues on the host: start the same command again to
            fetch its results), or the run failed.
    """
    digest = artifact.sha256(bundle)
    run = hashlib.sha256("\0".join((digest, python, *arguments)).encode()).hexdigest()[:16]
    folder, name = f"{ROOT}/{run}", bundle.name.removesuffix(".tar.gz")
    patient = Patience(host, pause=pause)
    patient.until_done(lambda: send(host, bundle, f"{ROOT}/{digest[:16]}.tar.gz", digest=digest, progress=progress))
    patient.until_done(lambda: host.run(starting(folder, f"{digest[:16]}.tar.gz", name, arguments, python=python)))
    printed = 0  # bytes of the log
    while True:
        text = patient.until_done(partial(host.run, looking(folder, printed)))
        status, _, log = text.partition("\n")
        printed += len(log.encode())
        for line in log.splitlines():
            say(line)
        if status:
            break
        time.sleep(POLL)
    content = patient.until_done(lambda: host.run(f"cat {folder}/{shlex.quote(name)}/results.json 2>/dev/null || true"))
    if not content:
        raise UserError(
            f"{host.name}: the run ended with status {status} and wrote no results; fix the error in the lines above"
        )
    try:
        results: dict[str, Any] = json.loads(content)
    except ValueError as error:
        raise UserError(f"{host.name}: {folder}/{name}/results.json is not JSON ({error})") from error
    patient.until_done(lambda: host.run(f"rm -rf {folder}"))  # so that the next start measures again
    return results, int(status)


@dataclass
class Patience:
    """Repeats an action while the connection is lost."""

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
            f"{self.host.name}: no connection ({last}); the sent data and the run stay on the host: start the same "
            "command again to continue"
        )


def send(host: Host, file: Path, place: str, *, digest: str, progress: Callable[[int, int], object]) -> None:
    """Send a file to ``place`` on the host; a transfer that broke continues.

    Raises:
        LostError: the connection broke; call again.
        UserError: the copy differs from the file; it was removed.
    """
    total, part = file.stat().st_size, f"{place}.part"
    query = f"if [ -f {place} ]; then echo done; elif [ -f {part} ]; then wc -c < {part}; else echo 0; fi"
    state = host.run(f"mkdir -p {ROOT} && {query}").strip()
    if state != "done":
        sent = int(state)
        if sent < total:

            def count(more: int) -> None:
                nonlocal sent
                sent += more
                progress(sent, total)

            host.append(file, part, start=sent, progress=count)
        received = host.run(f"sha256sum {part}").split()[0]
        if received != digest:
            host.run(f"rm -f {part}")
            raise UserError(f"{host.name}: {part} differs from {file} and was removed; run the same command again")
        host.run(f"mv {part} {place}")
    progress(total, total)


def starting(folder: str, archive: str, name: str, arguments: Sequence[str], *, python: str) -> str:
    """Shell script that unpacks the bundle and starts it in the background, unless it was started before."""
    quoted = " ".join(map(shlex.quote, arguments))
    start = f"PYTHON={shlex.quote(python)} sh {shlex.quote(name)}/run.sh {quoted}"
    inner = f"{start} > log 2>&1; echo $? > status.part; mv status.part status"
    return (
        f"mkdir -p {ROOT} && if mkdir {folder} 2>/dev/null; then cd {folder} && tar xzf ../{archive} && : > log && "
        f"(setsid nohup sh -c {shlex.quote(inner)} > /dev/null 2>&1 < /dev/null &) ; fi"
    )


def looking(folder: str, printed: int) -> str:
    """Shell script that prints the run's status (an empty line while it runs), then the log after ``printed`` bytes."""
    return f"(cat {folder}/status 2>/dev/null || echo) && tail -c +{printed + 1} {folder}/log"
