"""What answers instead of the service, and how each command says so."""

from __future__ import annotations

import gzip
import http.server
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bulkfetch.cli import main

TOKEN = "s3cr3t-t0ken-of-24-signs"
PAGE = b"<!DOCTYPE html><html><head><title>Hotel &amp; Bar</title></head></html>"
UNNAMED = "an HTML page of a proxy or portal"
NAMED = 'an HTML page of a proxy or portal titled "Hotel & Bar"'


@contextmanager
def portal(status: int, body: bytes, **headers: str) -> Iterator[tuple[str, list[str]]]:
    """Serve one answer to everything; yield the base URL and the paths that were asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()
            self.wfile.write(body)

        def answer(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=served.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{served.server_address[1]}/v1", asked
    finally:
        served.shutdown()
        thread.join()
        served.server_close()


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("BULKFETCH_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)


COMMANDS = [
    ["invoices", "list"],
    ["invoices", "get", "D1"],
    ["line-items", "D1", "office", "billing_line_items"],
    ["invoices", "document", "D1"],
    ["export", "lake", "--quiet"],
]
HTML = {"Content_Type": "text/html; charset=utf-8"}


@pytest.mark.parametrize("words", COMMANDS)
@pytest.mark.parametrize("status", [200, 403, 404])
def test_a_page_of_a_portal_is_named_by_every_command(
    words: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with portal(status, PAGE, **HTML) as (base_url, asked):
        code = main([*words, "--base-url", base_url])
    err = capsys.readouterr().err
    assert code == 1
    named = NAMED.partition(" titled")[0] if words[1] == "document" else NAMED
    assert named in err
    assert err.count("sign in to the network in a browser") == 1
    assert "is the base URL that of" not in err
    assert "Admin agent" not in err
    assert len(asked) <= 3


@pytest.mark.parametrize(
    ("status", "body", "headers", "said"),
    [
        (200, PAGE.decode().encode("utf-16"), {}, NAMED),
        (200, gzip.compress(PAGE, mtime=0), {"Content_Encoding": "gzip"}, NAMED),
        (403, gzip.compress(PAGE, mtime=0), {"Content_Encoding": "gzip"}, NAMED),
        (200, PAGE, {"Content_Encoding": "gzip"}, NAMED),
        (200, PAGE, {"Content_Encoding": "br", **HTML}, NAMED),
        (200, gzip.compress(PAGE, mtime=0), HTML, NAMED),
        (200, zlib.compress(PAGE), {"Content_Encoding": "deflate", **HTML}, NAMED),
        (200, b"\x0b\x80\xff", {"Content_Encoding": "br", **HTML}, UNNAMED),
        (403, PAGE, {"Content_Encoding": "gzip"}, NAMED),
        (403, gzip.compress(PAGE, mtime=0), HTML, NAMED),
        (403, zlib.compress(PAGE), {"Content_Encoding": "deflate"}, NAMED),
        (403, b"\x0b\x80\xff", {"Content_Encoding": "br", **HTML}, UNNAMED),
        (403, PAGE + b"x" * 1_000_000, HTML, NAMED),
        (511, PAGE, HTML, f"the network asks for a sign-in, with {NAMED}"),
        (407, PAGE, HTML, f"a proxy asks for credentials, with {NAMED}"),
        (407, b"no entry", {}, 'a proxy asks for credentials, with "no entry"'),
        (511, b"", {}, "the network asks for a sign-in"),
        (407, b"", {}, "a proxy asks for credentials"),
        (200, b"", {}, "the body is empty"),
        (200, b"Blocked by policy", {}, 'the answer is plain text: "Blocked by policy"'),
        (200, b"<Error><Code>Denied</Code></Error>", {}, 'the answer is XML: "Denied"'),
        (
            302,
            PAGE,
            {"Location": f"http://login.hotel.test/?back={TOKEN}"},
            "redirects elsewhere (status 302, to login.hotel.test), which is never followed",
        ),
        (302, b"", {"Location": "http://[bad"}, "redirects elsewhere (status 302), which"),
    ],
)
def test_what_answers_instead_of_the_service_is_called_what_it_is(
    status: int,
    body: bytes,
    headers: dict[str, str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with portal(status, body, **headers) as (base_url, _):
        assert main(["invoices", "list", "--base-url", base_url]) == 1
    err = capsys.readouterr().err
    assert said in err
    assert TOKEN not in err


def test_a_title_that_repeats_the_token_is_shown_without_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    body = f"<html><title>no entry for {TOKEN}</title>".encode()
    for status in (200, 403):
        with portal(status, body, **HTML) as (base_url, _):
            assert main(["invoices", "list", "--base-url", base_url]) == 1
        err = capsys.readouterr().err
        assert "no entry for ***" in err
        assert TOKEN[:8] not in err


@pytest.mark.parametrize("body", [b"", b"no entry", PAGE])
def test_a_proxy_that_asks_for_credentials_is_told_them_not_signed_in_to(
    body: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["invoices", "list"], ["export", "lake", "--quiet"]):
        with portal(407, body, **HTML) as (base_url, _):
            assert main([*words, "--base-url", base_url]) == 1
        err = capsys.readouterr().err
        assert err.count("a proxy asks for credentials") == 1
        assert err.count("http://user:password@host:port") == 1
        assert "in a browser" not in err


def test_a_gateway_that_fails_with_a_page_is_tried_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with portal(502, PAGE, **HTML) as (base_url, asked):
        words = ["invoices", "list", "--base-url", base_url, "--max-attempts", "2"]
        assert main(words) == 1
    assert len(asked) == 2
    captured = capsys.readouterr()
    assert NAMED in captured.err
    assert "a proxy or gateway on the way to the service fails" in captured.err


STORES = {"s3": "s3://bucket/lake", "azure": "az://bucket/lake"}


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("command", ["verify", "show"])
def test_a_page_of_a_portal_is_no_object_of_a_store(
    command: str,
    store: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It comes with all that an object has: a tag, a time and a length."""
    for name, value in {
        "BULKFETCH_STORAGE_ACCOUNT": "account",
        "BULKFETCH_STORAGE_KEY": "bm90IGEga2V5",
        "BULKFETCH_STORAGE_KEY_ID": "id",
        "BULKFETCH_STORAGE_REGION": "us-east-1",
        "BULKFETCH_STORAGE_PATIENCE_S": "1",
    }.items():
        monkeypatch.setenv(name, value)
    if store == "azure":
        monkeypatch.delenv("BULKFETCH_STORAGE_KEY_ID")
    of_object = {"ETag": '"1"', "Last_Modified": "Sat, 28 Nov 2026 10:00:00 GMT"}
    with portal(200, PAGE, **HTML, **of_object) as (base_url, asked):
        monkeypatch.setenv("BULKFETCH_STORAGE_ENDPOINT", base_url.removesuffix("/v1"))
        assert main([command, STORES[store]]) in (1, 2)
    said = "".join(capsys.readouterr())
    assert asked
    assert NAMED in said
    assert "Traceback" not in said
