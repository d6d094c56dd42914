"""Downloads resume, and leave a complete file or none; CamVid is downloaded, checked and cached."""

from __future__ import annotations

import hashlib
import io
import os
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline import artifact
from pipeline.datasets._download import fetch
from pipeline.datasets.camvid import content, downloaded
from pipeline.errors import UserError

PAYLOAD = os.urandom(300_000)


class Server(ThreadingHTTPServer):
    """Serves ``payload`` at /file; tests set its errors."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.payload = PAYLOAD
        self.supports_range = True
        self.cut_after: int | None = None  # bytes of the body before the connection is closed
        self.chunked = False
        self.ranges: list[str | None] = []  # the Range header of every request

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        if self.path != "/file":
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.supports_range else 0
        if start >= len(self.server.payload):
            self.send_error(416)
            return
        body = self.server.payload[start:]
        sent = body[: self.server.cut_after]
        self.send_response(206 if start else 200)
        if self.server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            sent = b"%x\r\n%s\r\n" % (len(sent), sent) + (b"" if len(sent) < len(body) else b"0\r\n\r\n")
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(sent)
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Log nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as http_server:
        thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield http_server
        http_server.shutdown()
        thread.join(30)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "file.zip"


def files_left(target: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in target.parent.iterdir()} if target.parent.exists() else {}


def test_a_file_is_fetched_once(server: Server, target: Path) -> None:
    for _ in range(2):
        assert fetch(server.url, target, sha256=hashlib.sha256(PAYLOAD).hexdigest()).read_bytes() == PAYLOAD
    assert server.ranges == [None] and files_left(target) == {"file.zip": len(PAYLOAD)}


def test_a_partial_download_is_resumed(server: Server, target: Path) -> None:
    target.parent.mkdir()
    (target.parent / "file.zip.part").write_bytes(PAYLOAD[:1000])
    assert fetch(server.url, target).read_bytes() == PAYLOAD
    assert server.ranges == ["bytes=1000-"] and files_left(target) == {"file.zip": len(PAYLOAD)}


def test_a_server_without_ranges_starts_over(server: Server, target: Path) -> None:
    server.supports_range = False
    target.parent.mkdir()
    (target.parent / "file.zip.part").write_bytes(b"of another file")
    assert fetch(server.url, target).read_bytes() == PAYLOAD
    assert server.ranges == ["bytes=15-"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_cut_connection_keeps_the_part_and_the_next_call_completes(
    server: Server, target: Path, chunked: bool
) -> None:
    server.cut_after, server.chunked = 100_000, chunked
    with pytest.raises(UserError, match=f"{server.url}: .*; run again to resume the download"):
        fetch(server.url, target)
    assert list(files_left(target)) == ["file.zip.part"]
    size = files_left(target)["file.zip.part"]
    assert 0 < size <= 100_000
    server.cut_after = None
    assert fetch(server.url, target).read_bytes() == PAYLOAD
    assert server.ranges == [None, f"bytes={size}-"] and files_left(target) == {"file.zip": len(PAYLOAD)}


def test_a_part_that_does_not_fit_is_removed(server: Server, target: Path) -> None:
    target.parent.mkdir()
    (target.parent / "file.zip.part").write_bytes(PAYLOAD + b"more")
    with pytest.raises(UserError, match=r"file\.zip\.part is not a part of this file; it was removed; run again"):
        fetch(server.url, target)
    assert files_left(target) == {}
    assert fetch(server.url, target).read_bytes() == PAYLOAD


@pytest.mark.parametrize("exists", [False, True])
def test_a_wrong_sha256_is_removed(server: Server, target: Path, exists: bool) -> None:
    if exists:
        fetch(server.url, target)
    with pytest.raises(UserError, match=f"sha256 is {hashlib.sha256(PAYLOAD).hexdigest()}, expected 00; the file was"):
        fetch(server.url, target, sha256="00")
    assert files_left(target) == {}


def test_an_unknown_address_leaves_nothing(server: Server, target: Path) -> None:
    with pytest.raises(UserError, match="the server answered 404 Not Found; check the address"):
        fetch(server.url + "s", target)
    assert files_left(target) == {}


def test_no_server_and_no_http(target: Path) -> None:
    with Server() as gone:
        url = gone.url
    with pytest.raises(UserError, match=r"Connection refused.*; run again"):
        fetch(url, target)
    with pytest.raises(UserError, match="file:///etc/passwd: allowed: http and https"):
        fetch("file:///etc/passwd", target)
    assert files_left(target) == {}


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as bundle:
        for name, data in files.items():
            bundle.writestr(name, data)
    return stream.getvalue()


@pytest.fixture
def cache(server: Server, camvid_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache; the server has a CamVid archive as GitHub packs it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    files = {f"Tutorial-1/CamVid/{p.relative_to(camvid_root)}": p.read_bytes() for p in camvid_root.rglob("*.*")}
    server.payload = zipped({"Tutorial-1/README.md": b"", **files})
    return tmp_path / "xdg" / "segpress"


def test_camvid_is_fetched_checked_and_kept(server: Server, camvid_root: Path, cache: Path) -> None:
    expected = artifact.files_hash(content(camvid_root))
    for _ in range(2):
        assert downloaded(server.url, expected) == cache / "camvid"
    assert len(server.ranges) == 1
    assert content(cache / "camvid") == content(camvid_root)
    assert [path.name for path in cache.iterdir()] == ["camvid"]


def test_camvid_of_other_content_is_refused_and_removed(server: Server, cache: Path) -> None:
    with pytest.raises(UserError, match=r"content is not the CamVid that segpress expects .*datasets\.camvid\.root"):
        downloaded(server.url, "0" * 64)
    assert list(cache.iterdir()) == []


def test_an_archive_without_camvid_is_refused_and_removed(server: Server, cache: Path) -> None:
    server.payload = zipped({"x": b""})
    with pytest.raises(UserError, match="no CamVid/ folder"):
        downloaded(server.url)
    assert list(cache.iterdir()) == []
