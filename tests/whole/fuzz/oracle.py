"""What bytes mean, worked out without the code under test: bodies, links, gzip streams and whole
HTTP answers.

Each reader raises ValueError for what must be refused.
"""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
from support.reference import Obj, is_text, read

MAX_DEPTH = 256
_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BEYOND_ORJSON = re.compile(r"\\u[dD][89a-fA-F]|[0-9.]{200}|[eE][+-]?[0-9]{3}")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_SIZE_LINE = re.compile(rb"[ \t]*([0-9a-fA-F]+)[ \t]*(?:;[^\n]*)?\r?\n")
_LAST_CHUNK = re.compile(rb"(?:[^\r\n]+\r?\n)*\r?\n")
_TABBED = re.compile(rb"(?i)chunked *\t[ \t]*\r?\n")
"""aiohttp shows this as `chunked` and reads to the end of the connection; chunks and all, that is
no JSON."""
_SOUND = re.compile(
    rb"HTTP/1\.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ([0-9]{1,7})\r\n\r\n"
)


def text_of(body: bytes) -> str:
    """Return the text of a body: its mark decides, and without one it is UTF-8."""
    for mark, charset in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ):
        if body.startswith(mark):
            return body.removeprefix(mark).decode(charset)
    return body.decode()


def json_of(body: bytes) -> Any:
    """Read a body as strict JSON; a second reader has to agree wherever it can read the text at
    all."""
    text = text_of(body)
    try:
        value = read(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if _depth(text) > MAX_DEPTH:
        raise ValueError("nested too deeply")
    if not _BEYOND_ORJSON.search(text):
        orjson.loads(text)
    return value


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in re.findall(r"[\[{\]}]", _TEXT.sub("", text)):
        depth += 1 if character in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def collection_of(body: bytes) -> tuple[Obj, list[Any]]:
    """Read a page: an object whose keys do not repeat, with a list of items and links that say
    where it goes on."""
    top = json_of(body)
    if not isinstance(top, Obj) or len({key for key, _ in top}) != len(top):
        raise ValueError("not an object, or a key is repeated at its top")
    telling = [
        key.casefold()
        for key, _ in top
        if key.casefold() in ("totalcount", "continuationtoken", "links")
    ]
    if len(set(telling)) != len(telling):
        raise ValueError("the envelope says something twice")
    items = dict(top).get("items")
    if not isinstance(items, list):
        raise ValueError("no items")
    continuation_of(top)
    return top, items


def page_of(body: bytes) -> tuple[Obj, list[Obj]]:
    """Read a page of line items, each of which is an object."""
    top, items = collection_of(body)
    if not all(isinstance(item, Obj) for item in items):
        raise ValueError("an item that is not an object")
    return top, items


def continuation_of(top: Obj) -> str | None:
    """Return the target of the next page, or None; whatever leaves that open must be refused."""
    links = _spelled(top, "links")
    if len(links) > 1 or not all(isinstance(each, Obj) or each is None for each in links):
        raise ValueError("links that are not one object")
    if _repeats_a_key(links):
        raise ValueError("links that say something twice")
    nexts = [
        following for each in links if each is not None for following in _spelled(each, "next")
    ]
    if len(nexts) > 1:
        raise ValueError("more than one next link")
    if (
        not nexts
        or nexts[0] is None
        or (isinstance(nexts[0], Obj) and all(value is None for _, value in nexts[0]))
    ):
        return None
    uris = _spelled(nexts[0], "uri") if isinstance(nexts[0], Obj) else []
    if len(uris) != 1 or type(uris[0]) is not str:
        raise ValueError("a next link without one target")
    return uris[0]


def _repeats_a_key(value: Any) -> bool:
    keys = [key.casefold() for key, _ in value] if isinstance(value, Obj) else []
    inner = (
        [inner for _, inner in value]
        if isinstance(value, Obj)
        else value
        if isinstance(value, list)
        else []
    )
    return len(set(keys)) != len(keys) or any(map(_repeats_a_key, inner))


def _spelled(pairs: Obj, name: str) -> list[Any]:
    """Return the values of a key, in whatever case it is spelled and however often."""
    return [value for key, value in pairs if key.casefold() == name.casefold()]


def invoices_of(value: Any) -> Iterator[tuple[Obj, str | None]]:
    """Yield the headers in an invoice and its amendments, and the id of the invoice each came
    in."""
    yield from _invoices_of(value, None)


def _invoices_of(value: Any, amendment_of: str | None) -> Iterator[tuple[Obj, str | None]]:
    if not isinstance(value, Obj):
        raise ValueError("an invoice that is not an object")
    steering = [key for key, _ in value if key in ("id", "invoiceDetails", "amendments")]
    said = {key: inner for key, inner in value if key in steering}
    if len(said) != len(steering) or not is_text(said.get("id")) or not said["id"]:
        raise ValueError("an invoice without one id")
    for name in ("invoiceDetails", "amendments"):
        if not isinstance(said.get(name, []), list | None):
            raise ValueError(f"{name} that are no list")
    for detail in said.get("invoiceDetails") or ():
        named = dict(detail) if isinstance(detail, Obj) else {}
        if not is_text(named.get("billingProvider")) or not is_text(
            named.get("invoiceLineItemType")
        ):
            raise ValueError("a detail without names")
    yield Obj(pair for pair in value if pair[0] != "amendments" or pair[1] is None), amendment_of
    for amendment in said.get("amendments") or ():
        yield from _invoices_of(amendment, said["id"])


def without_tokens(value: Any, *, key: str = "") -> Any:
    """Return an invoice's record: the query of an absolute PDF link is an access token, and no
    record."""
    if key.casefold() in ("pdfdownloadlink", "taxreceiptpdfdownloadlink") and type(value) is str:
        return (
            value.split("?")[0] if re.match(r"\s*([A-Za-z][A-Za-z0-9+.-]*:|//)", value) else value
        )
    if key.casefold() == "taxreceipts" and isinstance(value, list):
        return [without_tokens(inner, key=key) for inner in value]
    if key.casefold() in ("", "taxreceipts") and isinstance(value, Obj):
        return Obj((name, without_tokens(inner, key=name or "-")) for name, inner in value)
    return value


@dataclass(frozen=True, slots=True)
class Inflated:
    """What the standard library makes of a gzip body, and whether there is nothing odd about it."""

    content: bytes
    plain: bool


def inflated(body: bytes) -> Inflated:
    """Inflate a gzip body of any number of members with the standard library."""
    try:
        content = gzip.decompress(body)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(str(error)) from error
    return Inflated(content, _is_plain(body))


def is_attested(content: bytes, body: bytes) -> bool:
    """Return whether the length and the checksum at the end of a gzip body are those of the last of
    its content."""
    checksum, length = int.from_bytes(body[-8:-4], "little"), int.from_bytes(body[-4:], "little")
    return length <= len(content) and zlib.crc32(content[len(content) - length :]) == checksum


def _is_plain(body: bytes) -> bool:
    """Return whether zlib reads `body` to its last byte: `gzip` also takes padding and unknown
    flags."""
    members = 0
    while body:
        inflater = zlib.decompressobj(31)
        try:
            inflater.decompress(body)
        except zlib.error:
            return False
        if not inflater.eof:
            return False
        members, body = members + 1, inflater.unused_data
    return 0 < members <= 1000


def sound_body(wire: bytes) -> bytes | None:
    """Return the body of an answer that nobody may refuse, or None for every other."""
    head = _SOUND.match(wire)
    body = wire[head.end() :] if head else b""
    return body if head and len(body) == int(head[1]) else None


def possible_bodies(wire: bytes) -> Iterator[bytes]:
    """Yield each body that a lenient reader may find in `wire` and call whole."""
    for end in _HEAD_END.finditer(wire):
        head, rest = (
            wire[max(wire.rfind(b"HTTP/1.", 0, end.end()), 0) : end.end()],
            wire[end.end() :],
        )
        status = re.match(rb"HTTP/1\.[0-9] +([0-9]{3})\b", head)
        if status is not None and status[1] != b"200" and status[1] >= b"200":
            return
        if status is None or status[1] != b"200":  # an interim answer, or none at all
            continue
        for framed in _framed(head, rest):
            if re.search(rb"(?i)content-encoding[^\n]*gzip", head):
                try:
                    yield inflated(framed).content
                except ValueError:
                    continue
            elif not re.search(rb"(?i)\ncontent-encoding:[ \t]*(?!identity)[^\s]", head):
                yield framed
        return


def _framed(head: bytes, rest: bytes) -> Iterator[bytes]:
    if re.search(rb"(?i)\ntransfer-encoding:[^\n]*chunked", head):
        whole = _dechunked(rest)
        if whole is not None:
            yield whole
        if _TABBED.search(head):
            yield rest
        return
    lengths = {
        int(length) for length in re.findall(rb"(?i)\ncontent-length:\s*\+?([0-9]{1,18})", head)
    }
    if len(lengths) == 1 and len(rest) >= (length := lengths.pop()):
        yield rest[:length]


def _dechunked(rest: bytes) -> bytes | None:
    body, at = b"", 0
    while (line := _SIZE_LINE.match(rest, at)) is not None:
        size, at = int(line[1], 16), line.end()
        if size == 0:
            return body if _LAST_CHUNK.match(rest, at) else None
        end = re.compile(rb"\r?\n").match(rest, at + size)
        if end is None:
            return None
        body, at = body + rest[at : at + size], end.end()
    return None
