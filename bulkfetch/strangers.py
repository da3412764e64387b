"""What an answer is that the service did not send: a web page, XML, text, or nothing."""

from __future__ import annotations

import codecs
import html
import json
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from bulkfetch.words import printable

_LOOKED_AT_BYTES = 64 << 10
"""How much of an answer is looked at: the title of a page is near its start."""
_MAX_TITLE, _MAX_WORDS = 80, 100
_MAX_QUOTED_FROM = 4 << 10
"""How much of a text is searched for secrets, before it is cut to be shown."""
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""Byte-order marks; that of UTF-32 begins with one of UTF-16."""
_CHARSET = re.compile(rb"(?:charset|encoding) ?= ?[\"']?([\w.:-]{1,40})", re.IGNORECASE)
_HTML = re.compile(
    r"<(?:!doctype\s+html|(?:html|head|body|title|meta|link|base|script|style|noscript|iframe"
    r"|frameset|form|center|table|div|p|br|hr|h[1-6]|font|a|b|img)(?=[\s/>]|$))",
    re.IGNORECASE,
)
_TITLES = ("title", "h1")
"""The elements that name a page."""
_OTHERS = ("script", "style", "svg", "template")
"""Elements whose content may have a title that is not that of the page."""
_ZIPPED = (b"\x1f\x8b", b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
"""What gzip and deflate begin with."""
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_LONGEST_TITLE = 2000
_EMPTY, _XML, _PAGE = "empty", "XML", "an HTML page of a proxy or portal"
_TAG = re.compile(r"<[^<>]{0,500}>")


@dataclass(frozen=True, slots=True)
class Stranger:
    """An answer that the service did not send."""

    kind: str
    """What it is, in words that follow "the answer is"."""
    quoted: str = ""
    """Its title or its first words in quotes, or "" if there are none."""
    is_page: bool = False
    """Whether it is HTML, as proxies and portals send."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing at all."""
        return self.kind == _EMPTY

    @property
    def is_xml(self) -> bool:
        """Whether it is markup, and not a web page."""
        return self.kind == _XML

    def __str__(self) -> str:
        between = " titled " if self.is_page else ": "
        return self.kind + (between + self.quoted if self.quoted else "")


def recognize(
    body: bytes, content_type: str = "", *, hide: Callable[[str], str] = str
) -> Stranger | None:
    """Return what a body is, or None if it is JSON, the beginning of JSON, or not text.

    What cannot be read is a page if `content_type` says so: portals compress in ways that nobody
    asked for, or say that they do. `hide` removes secrets from what is quoted of it.
    """
    text = _decode(_unzip(body)[:_LOOKED_AT_BYTES], content_type)
    # without the NULs of UTF-16 that has no mark, whose words nothing would recognise
    text = text.replace("\0", "").lstrip("\ufeff \t\r\n\f")
    if not text:
        return Stranger(_EMPTY)
    markup = _skip_prologue(text)
    if _HTML.match(markup) or (page_by_type(content_type) and markup.startswith("<")):
        return Stranger(_PAGE, _title_of(markup, hide), is_page=True)
    if text.startswith("<"):
        words = html.unescape(_TAG.sub(" ", markup[:4096]))
        return Stranger(_XML, _quote(words, _MAX_WORDS, hide))
    if "\ufffd" in text[:200]:
        return page_by_type(content_type)
    if text[0] in '{["' or _is_json(text):
        return None
    return Stranger("plain text", _quote(text, _MAX_WORDS, hide))


def page_by_type(content_type: str) -> Stranger | None:
    """Return what the headers say of a body that cannot be read: a page, or None."""
    if "html" in content_type.casefold():
        return Stranger(_PAGE, is_page=True)
    return None


def _unzip(body: bytes) -> bytes:
    """Return the beginning of what was compressed, whatever the headers say of it.

    A stream that is cut or damaged is left as it is: half of a secret would not be recognised.
    """
    if not body.startswith(_ZIPPED):
        return body
    inflater = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        head = inflater.decompress(body, _LOOKED_AT_BYTES)
    except zlib.error:
        return body
    if inflater.eof or len(head) == _LOOKED_AT_BYTES:
        return head
    return body


def _decode(head: bytes, content_type: str) -> str:
    """Return text, in the charset that its mark, its first characters, or the headers name."""
    for mark, charset in _MARKS:
        if head.startswith(mark):
            return head[len(mark) :].decode(charset, errors="replace")
    at = head.find(b"<")  # a mark may be missing, but each character has two bytes
    if at >= 0 and b"\0" in (head[at + 1 : at + 2], head[at - 1 : at]):
        charset = "utf-16-le" if at % 2 == 0 else "utf-16-be"
        return head.decode(charset, errors="replace")
    named = _CHARSET.search(content_type.encode(errors="replace")) or _CHARSET.search(head[:2048])
    try:
        return head.decode(named[1].decode() if named else "utf-8", errors="replace")
    except (LookupError, ValueError):  # no such charset, or one that is not for text
        return head.decode(errors="replace")


def _skip_prologue(text: str) -> str:
    """Return markup from its first element or its document type on, without comments before it."""
    while text.startswith(("<?", "<!--")):
        _, _, text = text.partition("?>" if text.startswith("<?") else "-->")
        text = text.lstrip()
    return text


def _title_of(markup: str, hide: Callable[[str], str]) -> str:
    """Return the title of a page in quotes, or else its first heading, or ""."""
    markup = _without_comments(markup)
    for name in _OTHERS:
        markup = _without_elements(name, markup)
    titles = (
        _quote(html.unescape(_content_of(name, markup)), _MAX_TITLE, hide) for name in _TITLES
    )
    return next(filter(None, titles), "")


def _content_of(name: str, markup: str) -> str:
    """Return the text of the first element of this name, or ""."""
    begin = re.search(rf"<{name}(?:\s[^>]{{0,500}})?>", markup, re.IGNORECASE)
    if begin is None:
        return ""
    text = markup[begin.end() : begin.end() + _LONGEST_TITLE]
    end = re.search(f"</{name}", text, re.IGNORECASE)
    return _TAG.sub(" ", text[: end.start()] if end else text)


def _without_comments(markup: str) -> str:
    first, *others = markup.split("<!--")
    return first + "".join(other.partition("-->")[2] for other in others)


def _without_elements(name: str, markup: str) -> str:
    first, *others = re.split(rf"<{name}(?=[\s/>])", markup, flags=re.IGNORECASE)
    rests = (re.split(f"</{name}", other, maxsplit=1, flags=re.IGNORECASE) for other in others)
    return first + "".join(rest[-1] for rest in rests if len(rest) > 1)


def _quote(text: str, most: int, hide: Callable[[str], str]) -> str:
    """Return text in quotes, safe to show, or "" if there is none.

    It is cut last: half of a secret would not be recognised.
    """
    text = " ".join(text[:_MAX_QUOTED_FROM].split())
    shown = ""
    if text:
        shown = " ".join(printable(hide(text)).split())
    if len(shown) > most:
        shown = f"{shown[: most - 1].rstrip()}…"
    if shown:
        return f'"{shown}"'
    return ""


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
