"""The shapes an answer can have: a collection or object of the service, and the faults of its four
layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

import orjson

from bulkfetch.sandbox.json_text import link, obj, object_type, text


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer before it is sent. `pieces` are joined when it is."""

    status: int
    pieces: list[bytes]
    line_items: int = 0
    """How many of them `pieces` hold, for the counters."""
    from_service: bool = True
    """Whether the service itself speaks, with its MS-* headers, or a gateway before it."""
    reason: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str = "application/json"
    is_encoded: bool = False
    """Whether `pieces` and `headers` are all there is to send: a fault has changed them."""


def success(body: str) -> Reply:
    """One object of the service."""
    return Reply(200, [body.encode()])


def document(name: str, content: bytes) -> Reply:
    """A PDF of the service, to be saved under a name."""
    headers = {"Content-Disposition": f"attachment; filename={name}"}
    return Reply(200, [content], media_type="application/pdf", headers=headers)


def collection(
    items: list[bytes],
    *,
    line_items: int,
    total_count: int,
    self_uri: str,
    next_uri: str | None = None,
    previous_uri: str | None = None,
    token: str | None = None,
    token_on_top: bool = False,
) -> Reply:
    """A page of rows with its links, none for one without `self_uri`.

    `token` goes into the headers of `next`, and with `token_on_top` also to the top of the page.
    """
    links = {"self": link(self_uri)} if self_uri else {}
    if next_uri:
        links["next"] = link(next_uri, {"MS-ContinuationToken": token} if token else None)
    if previous_uri:
        links["previous"] = link(previous_uri)
    head = ""
    if token and token_on_top:
        head = f'"continuationToken":{text(token)},'
    head = f'{{{head}"totalCount":{total_count},"items":['
    linked = ""
    if links:
        linked = f'"links":{obj(links)},'
    tail = f'],{linked}"attributes":{object_type("Collection")}}}'
    return Reply(200, [head.encode(), *items, tail.encode()], line_items=line_items)


def service_fault(status: int, code: int, description: str, *data: str) -> Reply:
    """A fault of the service: a numeric code, and texts about it."""
    body = {"code": code, "description": description, "data": list(data), "source": "PartnerFD"}
    return Reply(status, [orjson.dumps(body)])


def gateway_fault(
    status: int,
    message: str,
    *,
    reason: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """A fault of the gateway before the service, in its own spacing and without MS-* headers."""
    body = f'{{ "statusCode": {status}, "message": {text(message)} }}'
    return Reply(status, [body.encode()], from_service=False, reason=reason, headers=headers or {})


def invalid_request() -> Reply:
    """A fault of the web framework, which could not make sense of the query."""
    return Reply(400, [b'{"message":"The request is invalid."}'])


def not_found() -> Reply:
    """No such path."""
    return gateway_fault(404, "Resource not found", reason="Resource Not Found")


def throttled(retry_after_s: int) -> Reply:
    """Too many requests."""
    return gateway_fault(
        429,
        f"Rate limit is exceeded. Try again in {retry_after_s} seconds.",
        headers={"Retry-After": str(retry_after_s)},
    )


def graph_fault(
    status: int, code: str, message: str, *, headers: Mapping[str, str] | None = None
) -> Reply:
    """A fault of Microsoft Graph; the ids are those of the headers of the same answer."""
    body = {"error": {"code": code, "message": message, "innerError": {}}}
    return Reply(status, [orjson.dumps(body)], headers=headers or {})


def storage_fault(status: int, code: str, message: str, detail: str = "") -> Reply:
    """A fault of Azure Storage: XML behind a byte-order mark."""
    body = (
        f'\ufeff<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code>'
        f"<Message>{escape(message)}</Message>"
    )
    if detail:
        body += f"<AuthenticationErrorDetail>{escape(detail)}</AuthenticationErrorDetail>"
    return Reply(
        status,
        [f"{body}</Error>".encode()],
        headers={"x-ms-error-code": code},
        media_type="application/xml",
    )
