"""What an answer is that the service did not send, in every spelling that proxies use."""

from __future__ import annotations

import gzip
import random
import time
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.strangers import recognize

PAGE = "an HTML page of a proxy or portal"


@pytest.mark.parametrize(
    ("page", "title"),
    [
        ("<!DOCTYPE html><html><head><title>Sign in</title></head></html>", "Sign in"),
        ("\ufeff \r\n\t<!doctype HTML><TITLE lang=en>\n Sign\n in </TITLE>", "Sign in"),
        ("<!-- a --><!-- <html> --><html><title>Sign in</title>", "Sign in"),
        ('<?xml version="1.0"?><!DOCTYPE html><html><title>Sign in</title>', "Sign in"),
        (
            "<html><title>Caf&eacute; &amp; Hotel &#8211; Wi&#x2011;Fi</title>",
            "Café & Hotel – Wi‑Fi",
        ),
        ("<html><!-- <title>not this</title> --><title>Sign in</title>", "Sign in"),
        ("<html><title> </title><h1>Access <b>denied</b></h1>", "Access denied"),
        ("<head><title>never closed", "never closed"),
        ("<title>a < b</title>", "a < b"),
        ("<html><title>" + "x" * 500 + "</title>", "x" * 79 + "…"),
        ("<html><title>Sign in</title>" + "x" * 1_000_000, "Sign in"),
        ("<html><title>\x1b[2J&#27;[1mred\u202e</title>", "[2J[1mred"),
        ("<script>location.href='/login'</script>", None),
        ("<meta http-equiv=refresh content='0;url=/login'>", None),
        ("<html></html>", None),
        ("<html><script>w('<title>no</title>')</script><title>Sign in</title>", "Sign in"),
        (
            "<html><SVG id=a><title>no</title></SVG><style>a</style ><title>Sign in</title>",
            "Sign in",
        ),
        ("<html><template><title>no</title></template><svg/><svg></svg><h1>Bar</h1>", "Bar"),
        ("<html><script><title>never closed</title>", None),
    ],
)
@pytest.mark.parametrize("charset", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_page_is_known_by_its_title(page: str, title: str | None, charset: str) -> None:
    found = recognize(page.encode(charset))
    assert found is not None
    assert found.is_page
    named = str(found)
    if title is None:
        assert named == PAGE
    else:
        assert named.split() == f'{PAGE} titled "{title}"'.split()


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ("<html><title>Вход</title>".encode("cp1251"), "text/html; charset=windows-1251"),
        ('<meta charset="cp1251"><title>Вход</title>'.encode("cp1251"), "text/html"),
        ("<html><title>Вход</title>".encode(), "text/html; charset=no-such-charset"),
        ("<html><title>Вход</title>".encode(), "text/html; charset=base64"),
        ("<login><title>Вход</title></login>".encode(), "text/html"),
    ],
)
def test_a_page_is_read_in_its_charset(body: bytes, content_type: str) -> None:
    assert str(recognize(body, content_type)) == f'{PAGE} titled "Вход"'


@pytest.mark.parametrize("content_type", ["", "text/html"])
@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
def test_a_page_is_known_though_it_is_compressed(
    compress: Callable[[bytes], bytes], content_type: str
) -> None:
    page = "<html><title>Вход</title>".encode()
    rest = random.Random(1).randbytes(100_000).hex().encode()
    for body in (page, page + rest):
        assert str(recognize(compress(body), content_type)) == f'{PAGE} titled "Вход"'
    cut = recognize(compress(page)[:-1], content_type)
    assert str(cut) == (PAGE if content_type else "None")


def test_what_cannot_be_read_is_a_page_if_it_is_called_one() -> None:
    brotli = b"\x0b\x0c\x80<html>\xff\xfe\x80\x03"
    assert str(recognize(brotli, "text/html")) == PAGE
    assert str(recognize(brotli, "application/xhtml+xml")) == PAGE
    assert recognize(brotli, "application/json") is None
    assert recognize(gzip.compress(b'{"items": []}'), "text/html") is None


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b"\xef\xbb\xbf \r\n", "empty"),
        (b"upstream connect error", 'plain text: "upstream connect error"'),
        (b"not found", 'plain text: "not found"'),
        (b"x" * 5000, f'plain text: "{"x" * 99}…"'),
        (
            b"<?xml version='1.0'?><Error><Code>Denied</Code> No &amp; no</Error>",
            'XML: "Denied No & no"',
        ),
        (b"<Error/>", "XML"),
    ],
)
def test_what_is_no_page_is_called_what_it_is(body: bytes, words: str) -> None:
    found = recognize(body)
    assert str(found) == words
    assert found is not None
    assert not found.is_page


@pytest.mark.parametrize(
    "body",
    [b'{"items": [', b"[1, 2", b"null", b"12", b'"<html>"', b"\x1f\x8b\xff\xfe", b"\xff\xd8"],
)
def test_json_its_beginning_and_bytes_are_no_strangers(body: bytes) -> None:
    assert recognize(body) is None


def test_secrets_are_hidden_before_a_title_is_cut() -> None:
    secret = "s3cr3t-" * 10
    for body in (f"<html><title>hello {secret}{secret}</title>", f"hello {secret} bye"):
        found = recognize(body.encode(), hide=lambda text: text.replace(secret, "***"))
        assert "hello ***" in str(found)
        assert "s3cr3t" not in str(found)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>" + b"<!--" * 16_000,
        b"<html>" + b"<title><title>" * 5_000,
        b"<html>" + b"<title " * 10_000,
        b"<a" * 32_000,
        b"eyJ" * 21_000,
        b"\n" * 65_000,
        b"<html>" + b"<script>" * 8_000,
        b"<html>" + b"<svg></svg" * 6_000,
        gzip.compress(b" " * 100_000_000),
    ],
)
def test_a_body_made_to_be_searched_for_long_is_not(body: bytes) -> None:
    began = time.process_time()
    recognize(body)
    assert time.process_time() - began < 0.5


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode), st.text(max_size=40))
def test_no_body_is_too_odd(body: bytes, content_type: str) -> None:
    assert str(recognize(body, content_type)).isprintable()
    assert str(recognize(b"<html>" + body, content_type)).isprintable()
