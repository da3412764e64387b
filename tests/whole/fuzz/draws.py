"""Bytes drawn by a seed: odd and broken pages, invoices, error documents, gzip streams, headers and
HTTP answers.

The first byte of a case says how it is put to use (which schema, which delivery); what follows is
sent as it is.
"""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Callable
from random import Random

from support.pages import FOREIGN_KEYS, NUMBERS, ODD_NUMBERS, TEXTS, any_value, page
from support.payloads import FOLDER

from bulkfetch.billing.details import DETAILS
from bulkfetch.billing.schemas import INVOICE
from bulkfetch.decoding.jsontext import dumps, loads, utf8_of

SCHEMAS = tuple(
    {
        row.schema.resource: row.schema
        for row in DETAILS.values()
        if row.schema and not row.schema.any_case
    }.values()
)
"""The declared schemas of v1, each once; a number beyond them means a line-item type that nobody
declared."""

CANARY = "canary-5f2c"
"""The token of the fuzzed client: it may appear in no message."""

_TOKENS = [
    *(
        '"',
        "\\",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        " ",
        "\n",
        "\t",
        "\x00",
        "\x7f",
        "\ufeff",
        "\u2028",
        "é",
        "😀",
        "null",
    ),
    *(
        "NaN",
        "Infinity",
        "-Infinity",
        "nan",
        "True",
        "None",
        "//x\n",
        "/**/",
        "'",
        "-",
        "+1",
        ".5",
        "1.",
        "01",
        "0x1",
    ),
    *(
        "{}",
        "[]",
        '""',
        '"a":1,',
        ',"items":[]',
        '"items":[],',
        '"Items":[],',
        '"links":{},',
        '"next":null,',
        "[[[[",
    ),
    *(
        "\ud800",
        "\udc00",
        r"\ud800",
        r"\u0000",
        r"\u12",
        r"\x",
        r"\"",
        r"\\",
        '"links":{"next":{"uri":"/x?offset=9"}},',
        '"uri":"/y",',
    ),
]
_VALUE = re.compile(r'[:\[,](null|true|false|-?[0-9.]+|"[^"\\]*")(?=[,}\]])')
_ENDINGS = ['"', '"}', "}", "]", "]}", '"}]}', "", " ", "\x00"]


def _samples() -> list[str]:
    """Real bodies, those of many rows cut down to two of them."""
    found = []
    for path in sorted(FOLDER.rglob("*.json")):
        body = path.read_bytes()
        if path.name.endswith(".meta.json") or len(body) > 300_000:
            continue
        try:
            top = loads(utf8_of(body))
        except Exception:  # malformed samples stay as they are
            found.append(body.decode("latin-1"))
            continue
        if isinstance(top, tuple):
            cut = [
                (name, value[:2] if name == "items" and isinstance(value, list) else value)
                for name, value in top
            ]
            top = type(top)(cut)
        found.append(dumps(top))
    return [text for text in found if len(text) < 20_000]


_SAMPLES = _samples()


# Bodies


def line_items(random: Random) -> bytes:
    """Draw a page of line items, or what has become of one, behind the number of its schema."""
    number = random.randrange(len(SCHEMAS) + 1)
    fields = SCHEMAS[number % len(SCHEMAS)].fields
    small = fields if random.random() < 0.2 else random.sample(fields, 8)
    shape = random.random()
    if shape < 0.7:
        text = page(random, random, tuple(small))
    elif shape < 0.8:
        text = random.choice(_SAMPLES)
    elif shape < 0.95:
        text = (
            '{"items":['
            + ",".join(any_value(random) for _ in range(random.randint(0, 3)))
            + "]"
            + _tail(random)
        )
    else:
        text = _soup(random)
    return bytes([number + 16 * random.randrange(2)]) + _spoilt(random, text)


def envelope(random: Random) -> bytes:
    """Draw a page of which the envelope matters: links in every shape, case and number."""
    pairs = [_top_pair(random) for _ in range(random.randint(0, 4))]
    pairs.insert(random.randint(0, len(pairs)), f'"items":{random.choice(_ITEMS)}')
    text = "{" + ",".join(pairs) + "}"
    return _spoilt(random, text, often=0.25)


_ITEMS = [
    "[]",
    "[]",
    "[{}]",
    '[{"n":1}]',
    '[{"links":{"next":{"uri":"/no"}}}]',
    "null",
    "{}",
    "[1]",
    '["items"]',
    "[null]",
]
_TOP_NAMES = [
    "totalCount",
    "continuationToken",
    "links",
    "links",
    "links",
    "links",
    "Links",
    "attributes",
    "items",
    "Items",
    "LINKS",
    "linKs",
]
_WORDS = [
    '"/a?size=2&offset=2"',
    '"/b?offset=4"',
    '""',
    '" "',
    "null",
    "5",
    "1.5",
    "true",
    "{}",
    "[]",
    '"t"',
    r'"\ud800"',
    "1e3",
    "-0",
]


def _top_pair(random: Random) -> str:
    name = random.choice(_TOP_NAMES)
    if name.casefold() == "links" and random.random() < 0.85:
        return f'"{name}":{_links(random)}'
    values = [*_WORDS, any_value(random), str(random.randrange(10 ** random.randint(1, 22)))]
    return f'"{name}":{random.choice(values)}'


def _links(random: Random) -> str:
    names = [
        random.choice(["next", "next", "self", "previous", "Next", "NEXT", "last"])
        for _ in range(random.randint(0, 3))
    ]
    return "{" + ",".join(f'"{name}":{_link(random)}' for name in names) + "}"


def _link(random: Random) -> str:
    if random.random() < 0.15:
        return random.choice(_WORDS)
    pairs = []
    for _ in range(random.choice((0, 1, 1, 2, 2, 3))):
        name = random.choice(["uri", "uri", "uri", "Uri", "method", "headers", "Headers"])
        value = _link_headers(random) if name.casefold() == "headers" else random.choice(_WORDS)
        pairs.append(f'"{name}":{value}')
    return "{" + ",".join(pairs) + "}"


def _link_header(random: Random, keys: list[str]) -> str:
    name = random.choice(("key", "Key"))
    return f'{{"{name}":{random.choice(keys)},"value":{random.choice(_WORDS)}}}'


def _link_headers(random: Random) -> str:
    keys = ['"MS-ContinuationToken"', '"ms-continuationtoken"', '"x"', "5", "null"]
    headers = [_link_header(random, keys) for _ in range(random.randint(0, 2))]
    return random.choice(
        ("[" + ",".join(headers) + "]", "[" + ",".join(headers) + "]", random.choice(_WORDS))
    )


def invoices(random: Random) -> bytes:
    """Draw a page of invoices, or (odd first byte) one invoice."""
    single = random.random() < 0.3
    if random.random() < 0.15:
        text = random.choice(_SAMPLES)
    else:
        headers = [_invoice(random, levels=2) for _ in range(1 if single else random.randint(0, 3))]
        text = headers[0] if single else '{"items":[' + ",".join(headers) + "]" + _tail(random)
    return bytes([single]) + _spoilt(random, text, often=0.3)


_IDS = [
    '"D1"',
    '"D2"',
    '"G000024135"',
    '""',
    '"../x"',
    "null",
    "5",
    r'"\ud800"',
    '"é"',
    '" "',
    r'"a\u0000b"',
]
_LINKS = [
    '"https://h/p?token=secret"',
    '"//h/p?token=secret"',
    '"/invoices/D1?x=1"',
    '"HTTP:?s"',
    '" data:a?b"',
    "null",
    "[]",
]


def _invoice(random: Random, *, levels: int) -> str:
    if random.random() < 0.03:
        return any_value(random)
    is_odd = random.random() < 0.1
    name = random.choice(_IDS) if is_odd else json.dumps(f"D{random.randrange(9)}")
    pairs = [f'"id":{name}']
    for field in random.sample(INVOICE, random.randint(0, 6)):
        if field.name not in ("id", "invoiceDetails"):
            name = random.choice((field.name, field.name, field.name.upper()))
            values = [*NUMBERS, *ODD_NUMBERS, *TEXTS, *_LINKS, any_value(random)]
            pairs.append(f'"{name}":{random.choice(values)}')
    if random.random() < 0.6:
        pairs.append(
            f'"invoiceDetails":[{",".join(_detail(random) for _ in range(random.randint(0, 2)))}]'
        )
    if levels and random.random() < 0.3:
        inner = ",".join(_invoice(random, levels=levels - 1) for _ in range(random.randint(0, 2)))
        pairs.append(f'"amendments":[{inner}]')
    if random.random() < 0.15:
        pairs.append(f'"taxReceipts":[{{"taxReceiptPdfDownloadLink":{random.choice(_LINKS)}}}]')
    if random.random() < 0.1:
        pairs.append(f"{random.choice(FOREIGN_KEYS)}:{any_value(random)}")
    if random.random() < 0.05:
        pairs.append(random.choice(pairs))
    if random.random() < 0.03:
        pairs.append(f'"{random.choice(("amendments", "invoiceDetails"))}":{any_value(random)}')
    random.shuffle(pairs)
    return "{" + ",".join(pairs) + "}"


def _detail(random: Random) -> str:
    if random.random() < 0.05:
        return any_value(random)
    pairs = [
        f'"billingProvider":{random.choice(_IDS[:2] if random.random() < 0.95 else _IDS)}',
        '"invoiceLineItemType":"usage"',
    ]
    if random.random() < 0.3:
        pairs.append(f'"links":{{"self":{_link(random)}}}')
    return "{" + ",".join(pairs) + "}"


def faults(random: Random) -> bytes:
    """Draw an error document behind its status and its headers, as `fault_of` reads them."""
    said = [
        *TEXTS,
        *_WORDS,
        json.dumps(f"Bearer {CANARY} is not valid\x1b[31m\r\nX: y"),
        any_value(random),
    ]
    names = [
        "code",
        "description",
        "message",
        "error",
        "error_description",
        "errors",
        "data",
        "source",
        "isRetryable",
    ]
    pairs = [f'"{random.choice(names)}":{random.choice(said)}' for _ in range(random.randint(0, 4))]
    text = "{" + ",".join(pairs) + "}"
    if random.random() < 0.25:
        text = f'{{"error":{text}}}'
    if random.random() < 0.15:
        text = random.choice(
            (
                random.choice(_SAMPLES),
                "<html>\x1b]0;x\x07</html>",
                "",
                any_value(random),
                _soup(random),
            )
        )
    body = _spoilt(random, text, often=0.3)
    gzipped = random.random() < 0.2
    if gzipped:
        body = _gzip(random, body)
    status = random.choice((201, 204, 301, 302, 400, 401, 403, 404, 409, 429, 500, 502, 503, 599))
    return status.to_bytes(2, "big") + bytes([gzipped]) + body


def header_texts(random: Random) -> bytes:
    """Draw the headers that may ask for a wait, one a line."""
    names = [
        "retry-after",
        "retry-after",
        "retry-after",
        "date",
        "retry-after-ms",
        "x-ms-retry-after-ms",
    ]
    lines = [
        f"{random.choice(names)}: {_wait(random)}" for _ in range(random.choice((1, 1, 1, 2, 3)))
    ]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


_WAITS = [
    *(
        "0",
        "1",
        "120",
        "5 ",
        " 5",
        "-5",
        "+5",
        "1.5",
        "1e3",
        "1_000",
        "inf",
        "nan",
        "NaN",
        "Infinity",
        "12, 13",
        "",
        " ",
    ),
    *(
        "٣",
        "１２",
        "²",
        "①",
        "0x10",
        "00012",
        "9" * 20,
        "9" * 400,
        "1" * 5000,
        "5s",
        "5\x00",
        "soon",
        "\ud800",
    ),
    *("Fri, 31 Dec 1999 23:59:59 GMT", "Fri, 31 Dec 2099 23:59:59 GMT", "Sun Nov  6 08:49:37 1994"),
    *(
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Fri, 31 Dec 9999 23:59:60 GMT",
        "Sat, 00 Jan 0000 00:00:00 GMT",
    ),
]


def _wait(random: Random) -> str:
    shape = random.random()
    if shape < 0.45:
        text = random.choice(_WAITS)
    elif shape < 0.85:
        day, month = (
            random.choice(("Mon", "Fri", "Xyz")),
            random.choice(("Jan", "Feb", "Dec", "Foo")),
        )
        time = f"{random.randrange(26):02}:{random.randrange(62):02}:{random.randrange(62):02}"
        zone = random.choice(("GMT", "GMT", "GMT", "UTC", "+0100", "-0000", ""))
        year = random.choice((2026, 2027, 2099, 9999, 1970, 1, 0, random.randrange(10_000)))
        text = f"{day}, {random.randrange(33):02} {month} {year:04} {time} {zone}".rstrip()
    else:
        text = "".join(
            chr(random.choice((random.randrange(128), random.randrange(0x800))))
            for _ in range(random.randrange(12))
        )
    return _swapped(random, text) if random.random() < 0.2 else text


def gzip_streams(random: Random) -> bytes:
    """Draw gzip bodies: whole, of several members, padded, damaged, cut."""
    stream = b"".join(
        _gzip(random, _content(random)) for _ in range(random.choice((1, 1, 1, 1, 2, 3)))
    )
    for _ in range(random.choice((0, 0, 1, 1, 2))):
        stream = _damaged(random, stream)
    return stream


def _content(random: Random) -> bytes:
    shape = random.random()
    if shape < 0.3:
        return random.choice(_SAMPLES).encode()[: random.randrange(4000)]
    if shape < 0.6:
        return random.randbytes(random.randrange(300))
    if shape < 0.62:
        return b"\0" * random.randrange(3 << 20)
    return bytes(random.choices(b"abcde{}", k=random.randrange(60))) * random.randrange(60)


def _gzip(random: Random, content: bytes) -> bytes:
    level = random.choice((0, 1, 6, 9))
    if random.random() < 0.5:
        return gzip.compress(content, level, mtime=0)
    strategy = random.choice(
        (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE)
    )
    deflater = zlib.compressobj(level, zlib.DEFLATED, -15, 8, strategy)
    deflated = deflater.compress(content)
    if random.random() < 0.3:
        deflated += deflater.flush(zlib.Z_FULL_FLUSH)
    deflated += deflater.flush()
    return (
        _gzip_head(random)
        + deflated
        + zlib.crc32(content).to_bytes(4, "little")
        + len(content).to_bytes(4, "little")
    )


def _gzip_head(random: Random) -> bytes:
    """Write a member's head with any of its optional fields, their flags sometimes wrong."""
    flags = random.choice((0, 0, random.randrange(32), random.randrange(256)))
    head = bytes([31, 139, 8, flags]) + random.randbytes(6)
    if flags & 4:
        extra = random.randbytes(random.randrange(9))
        head += len(extra).to_bytes(2, "little") + extra
    if flags & 8:
        head += b"name\0"
    if flags & 16:
        head += b"comment\0"
    if flags & 2:
        head += (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little")
    return head


def _damaged(random: Random, stream: bytes) -> bytes:
    at = random.randrange(len(stream) + 1)
    shape = random.randrange(7)
    if shape == 0:
        return stream[:at]
    if shape == 1:
        return stream + random.choice((b"\0", b"\0" * 9, b"x", b"\x1f\x8b", random.randbytes(20)))
    if shape == 2:
        return stream[:at] + random.randbytes(random.randint(1, 4)) + stream[at:]
    if shape == 3:
        return stream[:at] + stream[at + random.randint(1, 8) :]
    if shape == 4:
        return stream[:-8] + random.randbytes(8)
    near_head = random.randrange(min(len(stream), 24)) if stream else 0
    at = random.choice((at, near_head))
    return (
        stream[:at] + bytes([stream[at] ^ (1 << random.randrange(8))]) + stream[at + 1 :]
        if at < len(stream)
        else stream
    )


# Whole answers


def answers(random: Random) -> bytes:
    """Draw an HTTP answer, most often sound but for one part, behind a byte that says how it is
    delivered."""
    parts = _Parts(random)
    for _ in range(random.choice((0, 1, 1, 1, 2))):
        random.choice(_PART_FAULTS)(random, parts)
    wire = parts.written()
    if random.random() < 0.25:
        wire = _broken(random, wire)
    return bytes([random.randrange(256)]) + wire


class _Parts:
    """An answer in its parts, so that each can be spoilt by itself."""

    def __init__(self, random: Random) -> None:
        self.status = "HTTP/1.1 200 OK"
        self.headers = [("Content-Type", "application/json")]
        self.body = random.choice(
            (b"{}", b'{"items":[]}', b"", _content(random)[:20_000], line_items(random)[1:])
        )
        self.chunks = 0
        self.length: str | None = None
        self.end = b"0\r\n\r\n"
        shape = random.random()
        if shape < 0.3:
            self.body = _gzip(random, self.body)
            self.headers.append(("Content-Encoding", "gzip"))
        if shape < 0.15 or shape > 0.75:
            self.chunks = random.randint(1, 4)

    def written(self) -> bytes:
        framing = (
            ("Transfer-Encoding", "chunked")
            if self.chunks
            else ("Content-Length", str(len(self.body)))
        )
        if self.length is not None:
            framing = ("Content-Length", self.length)
        lines = [self.status, *(f"{name}: {value}" for name, value in [*self.headers, framing])]
        head = "\r\n".join(lines).encode("utf-8", "surrogatepass") + b"\r\n\r\n"
        return head + (self._chunked() if self.chunks else self.body)

    def _chunked(self) -> bytes:
        size = len(self.body) // self.chunks + 1
        pieces = [self.body[at : at + size] for at in range(0, len(self.body), size)]
        return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + self.end


def _odd_status(random: Random, parts: _Parts) -> None:
    codes = (
        "100 C",
        "101 S",
        "199 X",
        "201 C",
        "204 N",
        "206 P",
        "301 M",
        "304 N",
        "400 B",
        "401 U",
        "403 F",
        "404 N",
    )
    later = (
        "408 T",
        "410 G",
        "429 T",
        "500 I",
        "502 B",
        "503 S",
        "504 G",
        "599 X",
        "600 X",
        "999 X",
        "000 X",
        "20 X",
        "2000 X",
    )
    lines = (
        "HTTP/1.1",
        "HTTP/2 200 OK",
        "HTTP/1.1 200",
        "HTTP/1.0 200 OK",
        "HTTP/1.1  200 OK",
        "",
        "ICY 200 OK",
        "200 OK",
    )
    coded = [f"HTTP/1.1 {code}" for code in (*codes, *later)]
    parts.status = random.choice(
        (*coded, *coded, *lines, "HTTP/1.1 200 " + "x" * random.choice((9, 70_000)))
    )


def _odd_header(random: Random, parts: _Parts) -> None:
    names = [
        "X",
        "Retry-After",
        "Location",
        "Set-Cookie",
        "Content-Encoding",
        "Content-Length",
        "Transfer-Encoding",
        "Connection",
    ]
    values = [
        *(
            "gzip",
            "identity",
            "br",
            "gzip, gzip",
            "deflate",
            "chunked",
            "identity, chunked",
            "chunked, chunked",
            "close",
        ),
        *(
            "keep-alive",
            "upgrade",
            "5",
            "0",
            "-1",
            "1e3",
            "99999999999999999999",
            "text/html; charset=utf-16",
            "a=b; Path=/",
        ),
        *("http://127.0.0.1:1/", "//evil/", "\x00", "é", "a\tb", "x" * 9000, " ", _wait(random)),
        *("chunked, x", "\x18chunked", "x chunked", f"Bearer {CANARY}"),
    ]
    name = random.choice([*names, "", "X Y", "é", "X:", "x" * 200])
    parts.headers.insert(random.randint(0, len(parts.headers)), (name, random.choice(values)))


def _many_headers(random: Random, parts: _Parts) -> None:
    parts.headers += [(f"X-{number}", "y") for number in range(random.choice((50, 2000)))]


def _odd_length(random: Random, parts: _Parts) -> None:
    true = len(parts.body)
    wrong = (
        true - 1,
        true + 1,
        0,
        true * 2,
        -true,
        f"+{true}",
        f"0{true}",
        f"{true}, {true}",
        f"{true} ",
        "",
        "x",
        10**18,
    )
    parts.length = str(random.choice(wrong))


def _no_length(random: Random, parts: _Parts) -> None:
    parts.chunks, parts.length = 0, None
    parts.written = lambda: b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + parts.body  # type: ignore[method-assign]  # one answer only


def _odd_chunks(random: Random, parts: _Parts) -> None:
    parts.chunks = random.randint(1, 3)
    parts.end = random.choice(
        (
            b"",
            b"0",
            b"0\r\n",
            b"0\r\nX: y\r\n\r\n",
            b"-1\r\n",
            b"zz\r\n",
            b"ffffffffffffffffff\r\n",
            b"0;a=b\r\n\r\n",
            b"0\n\n",
            b"0 \r\n\r\n",
        )
    )


def _odd_coding(random: Random, parts: _Parts) -> None:
    parts.headers.append(("Content-Encoding", "gzip"))
    parts.body = random.choice(
        (gzip_streams(random), parts.body, _gzip(random, _gzip(random, parts.body)))
    )


def _error_document(random: Random, parts: _Parts) -> None:
    _odd_status(random, parts)
    parts.body = faults(random)[3:]


_PART_FAULTS: list[Callable[[Random, _Parts], None]] = [
    *(
        _odd_status,
        _odd_header,
        _odd_header,
        _odd_length,
        _no_length,
        _odd_chunks,
        _odd_coding,
        _odd_coding,
    ),
    *(_error_document, _many_headers),
]


def _broken(random: Random, wire: bytes) -> bytes:
    shape = random.randrange(5)
    at = random.choice((random.randrange(len(wire) + 1), random.randrange(min(len(wire), 120) + 1)))
    if shape == 0:
        return wire[:at]
    if shape == 1:
        return wire + random.choice(
            (b"x", b"\r\n", wire, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")
        )
    if shape == 2:
        return wire[:at] + bytes([random.randrange(256)]) + wire[at + 1 :]
    if shape == 3:
        return wire.replace(b"\r\n", b"\n", random.choice((1, 2, -1)))
    return (
        random.choice(
            (
                b"HTTP/1.1 100 Continue\r\n\r\n",
                b"HTTP/1.1 103 E\r\nX: y\r\n\r\n",
                b"\r\n",
                b"garbage\r\n",
            )
        )
        + wire
    )


# Spoiling text


def _tail(random: Random) -> str:
    return "".join(f",{_top_pair(random)}" for _ in range(random.choice((0, 0, 1, 2)))) + "}"


def _soup(random: Random) -> str:
    return "".join(
        random.choice([*_TOKENS, *TEXTS, *NUMBERS]) for _ in range(random.randint(0, 30))
    )


def _spoilt(random: Random, text: str, *, often: float = 0.4) -> bytes:
    """Change a text here and there, encode it in any way, and change the bytes."""
    while random.random() < often:
        text = random.choice(_SPOILERS)(random, text)
    body = _encoded(random, text)
    while random.random() < often / 4:
        at = random.randrange(len(body) + 1)
        body = random.choice(
            (body[:at], body[at:], body[:at] + random.randbytes(1) + body[at + 1 :])
        )
    return body


def _encoded(random: Random, text: str) -> bytes:
    charset = random.choices(
        ("utf-8", "utf-8-sig", "utf-16-le", "utf-16-be", "utf-16", "utf-32", "twice"),
        (60, 15, 1, 1, 8, 1, 1),
    )[0]
    if charset == "twice":
        return codecs.BOM_UTF8 * 2 + text.encode("utf-8", "surrogatepass")
    mark = codecs.BOM_UTF16_BE if charset == "utf-16-be" and random.random() < 0.8 else b""
    return mark + text.encode(charset, "surrogatepass")


def _inserted(random: Random, text: str) -> str:
    at = random.randrange(len(text) + 1)
    return text[:at] + random.choice(_TOKENS) + text[at:]


def _swapped(random: Random, text: str) -> str:
    at = random.randrange(len(text) + 1)
    return text[:at] + random.choice(_TOKENS) + text[at + random.randint(1, 3) :]


def _removed(random: Random, text: str) -> str:
    at = random.randrange(len(text) + 1)
    return text[:at] + text[at + random.choice((1, 1, 2, 5, 40)) :]


def _doubled(random: Random, text: str) -> str:
    at, end = sorted((random.randrange(len(text) + 1), random.randrange(len(text) + 1)))
    return text[:end] + text[at : min(end, at + 400)] + text[end:]


def _cut(random: Random, text: str) -> str:
    return text[: random.randrange(len(text) + 1)] + random.choice(_ENDINGS)


def _deepened(random: Random, text: str) -> str:
    """Put a value that is nested about as deeply as is allowed, or far deeper, where another one
    is, or anywhere."""
    depth = random.choice((3, 100, 250, 253, 254, 255, 256, 257, 1025, 5000))
    opening, closing = random.choice((("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")))
    depth //= len(closing)
    nested = opening * depth + "1" + closing * random.choice((depth, depth, depth, depth - 1))
    values = [match.span(1) for match in _VALUE.finditer(text)]
    at, end = (
        random.choice(values)
        if values and random.random() < 0.8
        else (random.randrange(len(text) + 1),) * 2
    )
    return text[:at] + nested + text[end:]


def _surrogate(random: Random, text: str) -> str:
    """Put half a surrogate pair, which no encoding allows, into a text."""
    before, quote, after = text.partition(random.choice(('"', ' "', ':"')))
    return before + quote + random.choice(("\ud83d", "\ude00", "\ude00\ud83d")) + after


def _replaced_number(random: Random, text: str) -> str:
    return text.replace(
        random.choice(("1", "2", "0", "null", '""')),
        random.choice([*ODD_NUMBERS, "null", "NaN"]),
        1,
    )


_SPOILERS: list[Callable[[Random, str], str]] = [
    *(_inserted, _inserted, _swapped, _removed, _doubled, _cut, _replaced_number),
    *(_deepened, _surrogate),
]
