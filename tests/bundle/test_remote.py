"""Bundles over ssh, against a real server on the loopback interface; killing its processes cuts the connections."""

from __future__ import annotations

import io
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import artifact
from pipeline.bundle import remote
from pipeline.errors import UserError

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
pytestmark = pytest.mark.skipif(
    not (SSHD and shutil.which("ssh") and shutil.which("ssh-keygen")), reason="no OpenSSH server and client here"
)


class Server:
    """An sshd for the test, with its own key, port and home folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir()
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (folder / "config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\n"
            f"PidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin yes\nSetEnv HOME={self.home}\n"
            f'ForceCommand cd {self.home} && sh -c "$SSH_ORIGINAL_COMMAND"\n'
        )
        Path("/run/sshd").mkdir(exist_ok=True)  # where this server separates privileges
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        assert SSHD
        process = subprocess.Popen([SSHD, "-D", "-f", str(self.folder / "config")], stderr=subprocess.DEVNULL)
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return process
            time.sleep(0.05)
        process.kill()
        raise AssertionError("sshd did not start")

    @property
    def host(self) -> remote.Host:
        known = ("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR")
        return remote.Host("127.0.0.1", ("-p", str(self.port), "-i", str(self.folder / "user"), *known))

    def cut(self) -> None:
        """Kill every process that serves a connection; the server itself keeps running."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    if os.geteuid() != 0:
        pytest.skip("starting an sshd needs root")
    started = Server(tmp_path)
    yield started
    started.cut()
    started.process.kill()
    started.process.wait(timeout=30)


def bundle(folder: Path, script: str, *, padding: int = 0) -> Path:
    """An archive with a run.sh of the test."""
    out = folder / "some.tar.gz"
    with tarfile.open(out, "w:gz", compresslevel=0) as archive:
        for name, content in (("some/run.sh", script.encode()), ("some/padding", os.urandom(padding))):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out


OK = (
    'cd "$(dirname "$0")"; echo "hello $*" $PYTHON; sleep 1; echo done; '
    'echo "{\\"miou\\": 50}" > results.json; exit 1\n'
)


def test_a_run_prints_its_lines_and_returns_its_results(server: Server, tmp_path: Path) -> None:
    lines: list[str] = []
    sent: list[tuple[int, int]] = []
    file = bundle(tmp_path, OK, padding=1_000_000)
    arguments = ["--options", '{"threads": 1}', "a'b; touch /tmp/never"]
    for _ in range(2):  # the second run measures again, but sends no data
        results, status = remote.check(
            server.host,
            file,
            arguments=arguments,
            python="/opt/my python",
            say=lines.append,
            progress=lambda *done: sent.append(done),
        )
        assert (results, status) == ({"miou": 50}, 1)
    assert lines == [f"hello {' '.join(arguments)} /opt/my python", "done"] * 2
    total = file.stat().st_size
    assert sent[-2:] == [(total, total)] * 2 and len(sent) >= 5
    assert [path.name for path in (server.home / remote.ROOT).iterdir()] == [f"{artifact.sha256(file)[:16]}.tar.gz"]


def test_a_cut_transfer_resumes(server: Server, tmp_path: Path) -> None:
    file = bundle(tmp_path, OK, padding=30_000_000)
    cuts: list[int] = []
    offsets: list[int] = []

    def progress(sent: int, total: int) -> None:
        offsets.append(sent)
        if len(cuts) < 2 and sent > (len(cuts) + 1) * 8_000_000 and sent < total:
            cuts.append(sent)
            server.cut()

    results, _ = remote.check(server.host, file, progress=progress, pause=0.1)
    assert results == {"miou": 50} and len(cuts) == 2
    restarts = [after for before, after in itertools.pairwise(offsets) if after < before]
    assert len(restarts) == 2 and min(restarts) > 1_000_000  # transfers do not start at 0 again


def test_a_cut_during_the_run_loses_no_line(server: Server, tmp_path: Path) -> None:
    script = OK.replace("sleep 1", "sleep 3")
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        if line.startswith("hello"):
            server.cut()

    results, _ = remote.check(server.host, bundle(tmp_path, script), say=say, pause=0.1)
    assert results == {"miou": 50}
    assert lines == ["hello  python3", "done"]


def test_an_interrupted_client_continues_the_same_run(server: Server, tmp_path: Path) -> None:
    """The run is not started twice, and its results are fetched."""
    script = OK.replace("sleep 1", f"echo started >> {tmp_path}/starts; sleep 2")
    file = bundle(tmp_path, script)

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        remote.check(server.host, file, say=interrupt)
    results, _ = remote.check(server.host, file)
    assert results == {"miou": 50}
    assert (tmp_path / "starts").read_text() == "started\n"


def test_errors_of_the_run_and_of_the_connection(server: Server, tmp_path: Path) -> None:
    lines: list[str] = []
    with pytest.raises(UserError, match="the run ended with status 3 and wrote no results"):
        remote.check(server.host, bundle(tmp_path, "echo no runtime; exit 3\n"), say=lines.append)
    assert lines == ["no runtime"]
    nowhere = remote.Host("127.0.0.1", ("-p", "1"))
    with pytest.raises(UserError, match=r"127\.0\.0\.1: no connection \(.*refused.*start the same command again"):
        remote.check(nowhere, bundle(tmp_path, OK), pause=0.01)


def test_a_copy_that_differs_is_removed(server: Server, tmp_path: Path) -> None:
    file = bundle(tmp_path, OK, padding=1000)
    part = server.home / remote.ROOT / f"{artifact.sha256(file)[:16]}.tar.gz.part"
    part.parent.mkdir()
    part.write_bytes(b"something else")
    with pytest.raises(UserError, match=r"some\.tar\.gz and was removed; run the same command again"):
        remote.check(server.host, file)
    assert not part.exists()
    assert remote.check(server.host, file)[0] == {"miou": 50}
