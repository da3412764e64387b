"""How each fault changes an answer: to another one, or to bytes that no framework would send."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import orjson

from bulkfetch.sandbox.faults import Fault
from bulkfetch.sandbox.replies import (
    Reply,
    gateway_fault,
    graph_fault,
    invalid_request,
    service_fault,
    storage_fault,
)

FOREIGN_HOST = "https://user:secret@elsewhere.test"
LONG_TOKEN_BYTES = 30_000
_HTML = (
    b"<!DOCTYPE html>\n<html><head><title>Sign in to your account</title></head>"
    b"<body>Please sign in.</body></html>"
)
_ENTRA = {
    "error": "invalid_client",
    "error_description": "AADSTS7000215: Invalid client secret provided.\r\nTrace ID: 0",
}
_GRAPH_CODES = {
    401: "InvalidAuthenticationToken",
    403: "Authorization_RequestDenied",
    404: "NotFound",
    429: "TooManyRequests",
    503: "ServiceUnavailable",
    504: "GatewayTimeout",
}
_STORAGE_CODES = {
    403: "AuthenticationFailed",
    404: "BlobNotFound",
    412: "ConditionNotMet",
    503: "ServerBusy",
}


@dataclass(frozen=True, slots=True)
class Message:
    """An answer before it is sent: `body` without content coding; `asked_token` is the one that the
    request brought."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    asked_token: str = ""
    reason: str = "OK"


@dataclass(frozen=True, slots=True)
class Send:
    """Bytes to be sent, at `bytes_per_s` if that is not 0."""

    data: bytes
    bytes_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Wait:
    """A pause."""

    seconds: float


@dataclass(frozen=True, slots=True)
class End:
    """How the connection ends: close, reset, or half (the sending side alone)."""

    how: str = "close"


Step = Send | Wait | End
Rewrite = Callable[[Fault, Message], Message]
Script = Callable[[Fault, Message], list[Step]]


# Other answers.


def instead(fault: Fault) -> Reply | None:
    """Return the answer of a fault that does not need the API's; None for other faults."""
    headers = dict(fault.headers)
    if fault.retry_after is not None:
        headers["Retry-After"] = fault.retry_after
    if fault.kind == "redirect":
        status = fault.status if 300 <= fault.status < 400 else 302
        return Reply(
            status, [b""], from_service=False, headers={"Location": fault.location, **headers}
        )
    if fault.kind == "status":
        reply = _with_status(fault)
        return replace(reply, headers={**reply.headers, **headers})
    return None


def _with_status(fault: Fault) -> Reply:
    status = fault.status
    bodies: dict[str, Reply] = {
        "service": service_fault(status, 800003, "Unexpected error of the service.", "sandbox"),
        "gateway": gateway_fault(status, "The gateway has no answer."),
        "web_api": replace(invalid_request(), status=status),
        "entra": Reply(status, [orjson.dumps(_ENTRA)], from_service=False),
        "html": Reply(status, [_HTML], from_service=False),
        "text": Reply(
            status,
            [b"upstream connect error or disconnect/reset before headers"],
            from_service=False,
        ),
        "empty": Reply(status, [b""], from_service=False),
        "graph": graph_fault(status, _GRAPH_CODES.get(status, "UnknownError"), "Try again later."),
        "storage": storage_fault(
            status, _STORAGE_CODES.get(status, "InternalError"), "Try again later."
        ),
    }
    return bodies[fault.body]


# Other bodies.


def _body(body: bytes, *, content_type: str | None = None) -> Rewrite:
    def rewrite(_fault: Fault, message: Message) -> Message:
        headers = {**message.headers, **({"Content-Type": content_type} if content_type else {})}
        return replace(message, headers=headers, body=body)

    return rewrite


def _changed(change: Callable[[bytes], bytes]) -> Rewrite:
    return lambda _fault, message: replace(message, body=change(message.body))


def _into_items(text: bytes) -> Rewrite:
    """Put text in front of the first item."""
    return _changed(lambda body: body.replace(b'"items":[{', b'"items":[{' + text, 1))


def _rows_changed(change: Callable[[list[str]], list[str]]) -> Rewrite:
    def rewrite(_fault: Fault, message: Message) -> Message:
        head, found, rest = message.body.partition(b'"items":[')
        items, ended, tail = rest.rpartition(b'],"links"')
        if not found or not ended or not items:
            return message
        changed = ",".join(change(rows_of(items.decode()))).encode()
        return replace(message, body=head + found + changed + ended + tail)

    return rewrite


def rows_of(items: str) -> list[str]:
    """The text of each row of a page's items."""
    decoder, rows, at = json.JSONDecoder(), [], 0
    while at < len(items):
        _, end = decoder.raw_decode(items, at)
        rows.append(items[at:end])
        at = end + 1
    return rows


def _without_next(_fault: Fault, message: Message) -> Message:
    """Take the next link out, which carries the continuation token, and the token where it stands
    on top."""
    before, found, after = message.body.decode().rpartition('"links":')
    links, end = json.JSONDecoder().raw_decode(after)
    links.pop("next", None)
    before = re.sub('"continuationToken":"[^"]*",', "", before, count=1)
    return replace(message, body=f"{before}{found}{json.dumps(links)}{after[end:]}".encode())


def _with_token(change: Callable[[bytes, Message], bytes]) -> Rewrite:
    """Change every continuation token that the page gives."""

    def rewrite(_fault: Fault, message: Message) -> Message:
        def changed(found: re.Match[bytes]) -> bytes:
            return found[1] + change(found[2], message) + b'"'

        body = re.sub(
            rb'("continuationToken":"|"key":"MS-ContinuationToken","value":")([^"]*)"',
            changed,
            message.body,
        )
        return replace(message, body=body)

    return rewrite


def _changed_total(body: bytes) -> bytes:
    return re.sub(
        rb'"totalCount":(\d+)',
        lambda found: b'"totalCount":%d' % (int(found[1]) + 100_001),
        body,
        count=1,
    )


def _utf16(body: bytes) -> bytes:
    return b"\xff\xfe" + body.removeprefix(b"\xef\xbb\xbf").decode().encode("utf-16-le")


def _rejected(_fault: Fault, message: Message) -> Message:
    if not message.asked_token:
        return message
    reply = service_fault(400, 3000, "The continuation token is not valid.", "MS-ContinuationToken")
    return replace(message, status=400, reason="Bad Request", body=b"".join(reply.pieces))


def _with_headers(**headers: str) -> Rewrite:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _fault, message: replace(message, headers={**message.headers, **named})


REWRITES: dict[str, Rewrite] = {
    "html": _body(_HTML, content_type="text/html"),
    "not_json": _body(b"The service is busy."),
    "empty_body": _body(b""),
    "null": _body(b"null"),
    "array": _body(b"[]"),
    "error_document": _body(
        b'{"code":800003,"description":"Unexpected error.","data":[],"source":"PartnerFD"}'
    ),
    "cut_json": lambda fault, message: replace(message, body=cut(message.body, fault.share)),
    "no_items": _changed(lambda body: body.replace(b'"items":', b'"rows":', 1)),
    "items_no_list": _changed(
        lambda body: body.replace(b'"items":[', b'"items":{"0":[', 1).replace(
            b'],"links"', b']},"links"'
        )
    ),
    "invalid_utf8": _into_items(b'"x":"\xff",'),
    "lone_surrogate": _into_items(b'"x":"\\ud800",'),
    "nan": _into_items(b'"x":NaN,'),
    "repeated_key": _changed(
        lambda body: body.replace(b'"totalCount":', b'"totalCount":0,"totalCount":', 1)
    ),
    "deep_json": _body(b"[" * 100_000 + b"]" * 100_000),
    "huge_body": lambda fault, message: replace(
        message, body=b'{"items":["' + b"x" * (fault.mib << 20) + b'"]}'
    ),
    "content_type": _with_headers(Content_Type="text/html; charset=iso-8859-1"),
    "utf16": _changed(_utf16),
    "no_mark": _changed(lambda body: body.removeprefix(b"\xef\xbb\xbf")),
    "foreign_links": _changed(
        lambda body: body.replace(b'"uri":"', b'"uri":"' + FOREIGN_HOST.encode())
    ),
    "file_links": _changed(lambda body: body.replace(b'"uri":"', b'"uri":"file://')),
    "changing_total": _changed(_changed_total),
    "lost_row": _rows_changed(lambda rows: rows[:-1]),
    "extra_row": _rows_changed(lambda rows: [*rows, rows[-1]]),
    "lost_next": _without_next,
    "rejected_token": _rejected,
    "repeated_token": _with_token(lambda token, message: message.asked_token.encode() or token),
    "long_token": _with_token(lambda token, _message: token + b"~" + b"A" * LONG_TOKEN_BYTES),
    "set_cookie": _with_headers(Set_Cookie="session=abc; Path=/; Domain=127.0.0.1"),
}
"""What changes an answer of the API that is sent as it should be."""


def short_token(token: str | None) -> str | None:
    """The continuation token as the API wrote it, before it was made long."""
    if token:
        return token.partition("~")[0]
    return token


# Other bytes.


def cut(body: bytes, share: float) -> bytes:
    """The first part of a body, never all of it."""
    return body[: min(int(len(body) * share), max(len(body) - 1, 0))]


def head(message: Message, **headers: str | None) -> bytes:
    """The status line and the headers; None leaves one out."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    chosen = {**message.headers, **named}
    lines = [f"HTTP/1.1 {message.status} {message.reason}"]
    lines += [f"{name}: {value}" for name, value in chosen.items() if value is not None]
    return "\r\n".join([*lines, "", ""]).encode()


def _whole(message: Message, **headers: str | None) -> bytes:
    return head(message, **{"Content_Length": str(len(message.body)), **headers}) + message.body


def _gzip(body: bytes) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return packer.compress(body) + packer.flush()


def _coded(body: bytes, message: Message, coding: str = "gzip") -> list[Step]:
    return [Send(_whole(replace(message, body=body), Content_Encoding=coding)), End()]


def _broken_off(how: str) -> Script:
    def script(fault: Fault, message: Message) -> list[Step]:
        return [
            Send(
                head(message, Content_Length=str(len(message.body)))
                + cut(message.body, fault.share)
            ),
            Wait(0.02),  # what was sent must leave before the connection breaks
            End(how),
        ]

    return script


def _success_broken_off(fault: Fault, message: Message) -> list[Step]:
    """Break off a success; an error arrives whole."""
    if message.status < 300:
        return _broken_off("reset")(fault, message)
    return [Send(_whole(message)), End()]


def _stalled_body(fault: Fault, message: Message) -> list[Step]:
    begun = head(message, Content_Length=str(len(message.body))) + cut(message.body, fault.share)
    return [Send(begun), Wait(fault.seconds), End()]


def _dripping(fault: Fault, message: Message) -> list[Step]:
    length = str(len(message.body))
    return [
        Send(head(message, Content_Length=length)),
        Send(message.body, fault.bytes_per_s),
        End(),
    ]


def _two_lengths(_fault: Fault, message: Message) -> list[Step]:
    twice = f"{len(message.body)}\r\nContent-Length: {len(message.body) + 1}"
    return [Send(_whole(message, Content_Length=twice)), End()]


def _chunked(message: Message, size: bytes, ending: bytes) -> list[Step]:
    framed = size + b"\r\n" + message.body + b"\r\n" + ending
    return [Send(head(message, Transfer_Encoding="chunked") + framed), End()]


def _bomb(fault: Fault, message: Message) -> list[Step]:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = [packer.compress(b'{"items":["')]
    parts += [packer.compress(b" " * (1 << 20)) for _ in range(fault.mib)]
    return _coded(b"".join(parts) + packer.flush(), message)


def _members(message: Message) -> bytes:
    step = max(1, len(message.body) // 5)
    return b"".join(_gzip(message.body[at : at + step]) for at in range(0, len(message.body), step))


SCRIPTS: dict[str, Script] = {
    "close": lambda _fault, _message: [End()],
    "reset": lambda _fault, _message: [End("reset")],
    "close_body": _broken_off("close"),
    "reset_body": _broken_off("reset"),
    "close_idle": lambda _fault, message: [Send(_whole(message)), Wait(0.001), End()],
    "half_close": lambda _fault, message: [
        Send(_whole(message, Connection="close")),
        End("half"),
        Wait(0.2),
        End(),
    ],
    "extra_bytes": lambda _fault, message: [
        Send(_whole(message) + b"\r\nmore of it\r\n\r\n"),
        Wait(0.05),
        End(),
    ],
    "sas_lapses": _success_broken_off,
    "renewed_in_body": _success_broken_off,
    "stall": lambda fault, _message: [Wait(fault.seconds), End()],
    "stall_body": _stalled_body,
    "drip": _dripping,
    "long_length": lambda _fault, message: [
        Send(_whole(message, Content_Length=str(len(message.body) + 100))),
        End(),
    ],
    "short_length": lambda _fault, message: [
        Send(_whole(message, Content_Length=str(max(len(message.body) - 10, 0)))),
        End(),
    ],
    "two_lengths": _two_lengths,
    "no_last_chunk": lambda _fault, message: _chunked(message, b"%x" % len(message.body), b""),
    "bad_chunk": lambda _fault, message: _chunked(message, b"many", b"0\r\n\r\n"),
    "no_length": lambda _fault, message: [
        Send(head(message, Connection="close") + message.body),
        End(),
    ],
    "no_length_cut": lambda fault, message: [
        Send(head(message, Connection="close") + cut(message.body, fault.share)),
        End(),
    ],
    "bad_status_line": lambda _fault, message: [Send(b"ICY 2OO yes\r\n\r\n" + message.body), End()],
    "early_hints": lambda _fault, message: [
        Send(
            b"HTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n" + _whole(message, Connection="close")
        ),
        End(),
    ],
    "large_header": lambda _fault, message: [Send(_whole(message, X_Large="x" * 200_000)), End()],
    "many_headers": lambda _fault, message: [
        Send(
            _whole(
                message, X_Many="\r\n".join(["1", *(f"X-{number}: 1" for number in range(50_000))])
            )
        ),
        End(),
    ],
    "gzip_cut": lambda fault, message: _coded(cut(_gzip(message.body), fault.share), message),
    "gzip_checksum": lambda _fault, message: _coded(_gzip(message.body)[:-8] + bytes(8), message),
    "gzip_trailing": lambda _fault, message: _coded(_gzip(message.body) + b"more", message),
    "gzip_members": lambda _fault, message: _coded(_members(message), message),
    "gzip_empty_members": lambda _fault, message: _coded(_gzip(b"") * 200_000, message),
    "gzip_bomb": _bomb,
    "not_gzip": lambda _fault, message: _coded(message.body, message),
    "gzip_twice": lambda _fault, message: _coded(_gzip(_gzip(message.body)), message, "gzip, gzip"),
    "unknown_coding": lambda _fault, message: _coded(message.body, message, "br"),
}
"""What is sent in bytes of our own, and ends the connection."""
