"""Partner Centers for the tests: one that replays the real payloads, one for tenants that tests
make up."""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from aiohttp import web
from support.payloads import body_of, meta_of

from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret

TOKEN = "replay-token"
CONTINUATION = "MS-ContinuationToken"
MODERN = ("onetime", "marketplace", "all")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, read leniently: path and query form alike, names without case and underscores."""

    invoice_id: str | None = None
    provider: str | None = None
    line_item_type: str | None = None
    size: int | None = None
    offset: int | None = None
    token: str | None = None

    @property
    def is_list(self) -> bool:
        return self.invoice_id is None

    @property
    def detail(self) -> tuple[str | None, str | None, str | None]:
        return self.invoice_id, self.provider, self.line_item_type


def asked_of(target: str, token: str | None = None) -> Asked:
    """Read a request target such as
    `/v1/invoices/D080002CPL/lineitems/Office/BillingLineItems?size=100`."""
    parts = urlsplit(target)
    query = {key.casefold(): value for key, value in parse_qsl(parts.query)}
    words = [unquote(word) for word in parts.path.split("/")]
    below = words[[word.startswith("invoic") for word in words].index(True) + 1 :]
    named = below[2:] if len(below) > 3 else []
    provider = named[0] if named else query.get("provider")
    # The samples lose a letter of the parameter's name.
    kind = named[1] if named else query.get("invoicelineitemtype", query.get("nvoicelineitemtype"))
    return Asked(
        invoice_id=below[0] if below else None,
        provider=None if provider is None else folded(provider),
        line_item_type=None if kind is None else folded(kind),
        size=int(query["size"]) if "size" in query else None,
        offset=int(query["offset"]) if "offset" in query else None,
        token=token,
    )


def folded(name: str) -> str:
    return name.replace("_", "").lower()


@dataclass(slots=True)
class Served:
    """A server that is running: where, and what it has been asked."""

    base_url: str
    requests: list[Asked] = field(default_factory=list)

    def settings(self, **settings: Any) -> Settings:
        """Settings that lead here and do not wait long for what will not come."""
        return Settings(
            base_url=self.base_url, token=Secret(TOKEN), **{"max_attempts": 1, **settings}
        )

    @property
    def line_item_requests(self) -> list[Asked]:
        return [asked for asked in self.requests if not asked.is_list]


Answering = Callable[[Asked], "web.Response | Awaitable[web.Response]"]


@asynccontextmanager
async def serving(answer: Answering) -> AsyncIterator[Served]:
    """Serve `answer` on loopback until the block ends."""
    served = Served("")

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.Response(status=401, body=b'{"code":400,"description":"Access denied."}')
        asked = asked_of(request.raw_path, request.headers.get(CONTINUATION))
        served.requests.append(asked)
        answered = answer(asked)
        return await answered if inspect.isawaitable(answered) else answered

    # Not an Application: its routes match no line ends, which ids may have.
    runner = web.ServerRunner(
        web.Server(handle, access_log=None, handler_cancellation=True), shutdown_timeout=0.2
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        served.base_url = "http://{}:{}/v1".format(*runner.addresses[0][:2])
        yield served
    finally:
        await runner.cleanup()


def page(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")


def not_found() -> web.Response:
    body = body_of("recorded/api-2016-03/012-error-404-gateway")
    return web.Response(status=404, reason="Resource Not Found", body=body)


EMPTY_PAGE = b'{"totalCount":0,"items":[],"attributes":{"objectType":"Collection"}}'


class Replay:
    """Answers with real payloads, each to the request that it answered, and with a 404 to all
    others.

    `chains` names the payload that a token leads to. Samples of the documentation name a
    next page that is not in it: with `ends` that page is an empty last one.
    """

    def __init__(
        self,
        payloads: Iterable[str],
        *,
        invoices: bytes | None = None,
        chains: Mapping[str, str] | None = None,
        ends: bool = False,
    ) -> None:
        self._invoices = invoices
        self._ends = ends
        self._bodies: dict[Asked, bytes] = {}
        for name in payloads:
            self._bodies[_canonical(asked_of(meta_of(name)["request"]["uri"]))] = body_of(name)
        for first, following in (chains or {}).items():
            asked = asked_of(meta_of(first)["request"]["uri"])
            token = token_of(body_of(first))
            self._bodies[Asked(*asked.detail, token=token)] = body_of(following)

    def __call__(self, asked: Asked) -> web.Response:
        if asked.is_list and self._invoices is not None:
            return page(self._invoices)
        body = self._bodies.get(_canonical(asked))
        if (
            body is None and not asked.offset and asked.token is None
        ):  # recorded without a size, and answered whatever the size
            body = self._bodies.get(Asked(*asked.detail))
        if body is not None:
            return page(body)
        return page(EMPTY_PAGE) if self._ends and (asked.token or asked.offset) else not_found()


def _canonical(asked: Asked) -> Asked:
    """Modern line items have no offsets, and are found by their token, whatever the size."""
    return Asked(*asked.detail, token=asked.token) if asked.provider in MODERN else asked


def text_of(body: bytes) -> str:
    """Decode a payload by its byte-order mark."""
    return body.decode("utf-16" if body.startswith(b"\xff\xfe") else "utf-8-sig")


def token_of(body: bytes) -> str:
    """Return the continuation token in a page's next link."""
    (header,) = json.loads(text_of(body))["links"]["next"]["headers"]
    return str(header["value"])


@dataclass(slots=True)
class MadeUp:
    """A tenant that a test makes up: invoices as JSON values, and rows of details as JSON texts.

    `interrupt` may answer a request in the tenant's place.
    """

    invoices: list[dict[str, Any]]
    rows: dict[tuple[str, str, str], list[str]]
    interrupt: Callable[[Asked], web.Response | Awaitable[web.Response] | None] = lambda asked: None

    def __call__(self, asked: Asked) -> web.Response | Awaitable[web.Response]:
        return self.interrupt(asked) or (self._list(asked) if asked.is_list else self._page(asked))

    def _list(self, asked: Asked) -> web.Response:
        start, size = asked.offset or 0, asked.size or 200
        shown = self.invoices[start : start + size]
        body: dict[str, Any] = {"totalCount": len(shown), "items": shown}
        if start + size < len(self.invoices):
            following = f"/invoices?size={size}&offset={start + size}"
            body["links"] = {"next": {"uri": following, "method": "GET"}}
        return page(json.dumps(body).encode())

    def _page(self, asked: Asked) -> web.Response:
        mine = {
            (one, folded(two), folded(three)): rows for (one, two, three), rows in self.rows.items()
        }
        rows = mine.get((asked.invoice_id or "", asked.provider or "", asked.line_item_type or ""))
        if rows is None:
            return not_found()
        start, size = int(asked.token or asked.offset or 0), asked.size or 200
        shown, links = rows[start : start + size], ""
        if start + size < len(rows):
            headers = (
                [{"key": CONTINUATION, "value": str(start + size)}]
                if asked.provider in MODERN
                else []
            )
            following = {
                "uri": f"/invoices/next?size={size}&offset={start + size}",
                "headers": headers,
            }
            links = f',"links":{json.dumps({"next": following})}'
        return page(f'{{"totalCount":{len(shown)},"items":[{",".join(shown)}]{links}}}'.encode())


def invoice(identifier: str, *details: tuple[str, str], **fields: Any) -> dict[str, Any]:
    """Make up an invoice as the API writes it, with (provider, line-item type) details without
    links."""
    return {
        "id": identifier,
        "invoiceDate": "2021-06-06T00:00:00Z",
        "currencyCode": "USD",
        "invoiceDetails": [
            {"billingProvider": provider, "invoiceLineItemType": kind} for provider, kind in details
        ],
        **fields,
    }
