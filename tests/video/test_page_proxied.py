"""The page with a proxy, and inside another page."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.video.outputs import Outputs
from pipeline.video.sinks._base import Result
from pipeline.video.sinks._figures import PageSettings
from pipeline.video.sinks.page import PageSink
from tests.video.fakes import Bars
from tests.video.viewers import connect, get

MakeResult = Callable[..., Result]
Serve = Callable[..., PageSink]
PATHS = ("/", "/state", "/events", "/stream", "/page.js")


def head_of(sink: PageSink, path: str, *lines: str, method: str = "HEAD") -> tuple[str, dict[str, str]]:
    """Status line and headers; nothing may follow them."""
    request = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()
    with connect(sink, request, timeout=2) as connection:
        whole = b"".join(iter(lambda: connection.recv(4096), b"")) if method == "HEAD" else connection.recv(4096)
    head, _, body = whole.partition(b"\r\n\r\n")
    assert method != "HEAD" or not body
    status, *fields = head.decode().split("\r\n")
    return status, dict(field.split(": ", 1) for field in fields)


@pytest.mark.parametrize("path", PATHS)
def test_head_is_the_head_of_get(serve: Serve, make_result: MakeResult, path: str) -> None:
    sink = serve()
    sink.write(make_result(0))
    status, headers = head_of(sink, path)
    assert status == "HTTP/1.1 200 OK"
    # a proxy that collects data would delay events
    assert headers["X-Accel-Buffering"] == "no"
    same_status, same = head_of(sink, path, method="GET")
    changing = ("Date", "Content-Length")
    assert same_status == status
    assert {k: v for k, v in same.items() if k not in changing} == {
        k: v for k, v in headers.items() if k not in changing
    }


def test_a_refused_host_has_a_warning_with_the_option_that_allows_it(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    sink = serve()
    for _ in range(3):
        assert get(sink, "/", Host="Robot.lan:8090")[0] == 403
    warnings = [text for text in caplog.messages if "refused" in text]
    assert warnings == ["page: refused a request for the host robot.lan; if that is you: --allow-host robot.lan"]
    caplog.clear()
    assert get(sink, "/", Host="x;rm -rf")[0] == 403
    assert "rm -rf" not in caplog.text, "a header is repeated only if it is a name"
    for number in range(100):
        get(sink, "/state", Host=f"n{number}.lan")
    assert len(caplog.messages) < 30


def test_hosts_that_are_allowed(serve: Serve) -> None:
    sink = serve(hosts=["Robot.lan", "192.0.2.7", "2001:db8::7"])
    for host in ("robot.lan", "ROBOT.lan:80", "192.0.2.7", "[2001:db8::7]:80", "localhost"):
        assert get(sink, "/state", Host=host)[0] == 200, host
    assert get(sink, "/state", Host="other.lan")[0] == 403


def test_embedding_is_for_named_origins(serve: Serve, make_result: MakeResult) -> None:
    origins = ["https://dashboard.lan", "http://10.0.0.2:3000"]
    sink = serve(embed=origins)
    sink.write(make_result(0))
    for path in PATHS:
        _, headers = head_of(sink, path)
        assert headers["Content-Security-Policy"].endswith("frame-ancestors https://dashboard.lan http://10.0.0.2:3000")
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        for line in ("Origin: https://dashboard.lan", "Referer: https://dashboard.lan/view/7?x=1"):
            _, headers = head_of(sink, path, line)
            assert headers["Cross-Origin-Resource-Policy"] == "cross-origin"
            assert headers["Access-Control-Allow-Origin"] == "https://dashboard.lan"
            assert headers["Vary"] == "Origin, Referer"
        for line in ("Origin: https://evil.example", "Referer: https://dashboard.lan.evil.example/", "Origin: null"):
            _, headers = head_of(sink, path, line)
            assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
            assert "Access-Control-Allow-Origin" not in headers


def test_without_origins_no_site_embeds_it(serve: Serve) -> None:
    _, headers = head_of(serve(), "/", "Origin: https://dashboard.lan")
    assert headers["Content-Security-Policy"].endswith("frame-ancestors 'none'")
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hosts": ["robot.lan:80"]}, r"--allow-host: got 'robot\.lan:80'; allowed: a name without a port"),
        ({"hosts": ["a b"]}, "--allow-host: got 'a b'"),
        ({"hosts": ["*"]}, r"--allow-host: got '\*'"),
        ({"embed": ["*"]}, r"--embed: got '\*'; allowed: SCHEME://HOST"),
        ({"embed": ["dashboard.lan"]}, "--embed: got 'dashboard.lan'"),
        ({"embed": ["https://dashboard.lan/"]}, "--embed: got 'https://dashboard.lan/'"),
        ({"embed": ["https://a; script-src *"]}, "--embed: got"),
        ({"embed": ["https://a\r\nX: y"]}, "--embed: got"),
    ],
)
def test_invalid_names_and_origins(labels: LabelSpec, options: dict[str, list[str]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PageSink(PageSettings(labels, "x"), host="127.0.0.1", port=0, **options)


def test_both_options_need_the_page(labels: LabelSpec) -> None:
    for options in ({"allow_hosts": ["robot.lan"]}, {"embed": ["https://dashboard.lan"]}):
        with pytest.raises(UserError, match="--allow-host and --embed are for the page; add --serve PORT"):
            Outputs(**options).sinks(Bars(), labels=labels, engine="e")
        (sink,) = Outputs(serve="0", **options).sinks(Bars(), labels=labels, engine="e")
        assert isinstance(sink, PageSink)
