"""The invoice API below /v1 and the sign-in beside it, as one origin of the sandbox."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping

from aiohttp import web

from bulkfetch.sandbox.admission import Gate
from bulkfetch.sandbox.api import Asked, InvoiceApi, Stalled, words_of
from bulkfetch.sandbox.breaking import short_token
from bulkfetch.sandbox.faults import Fault, Met
from bulkfetch.sandbox.ledger import Ledger
from bulkfetch.sandbox.origin import STALL_S, Coded, World, gzipped
from bulkfetch.sandbox.replies import Reply, gateway_fault, not_found, service_fault, throttled
from bulkfetch.sandbox.tokens import instance_discovery, openid_configuration


class InvoiceSite:
    """The invoice API below /v1, and the sign-in beside it."""

    service = "service"

    def __init__(self, world: World, ledger: Ledger) -> None:
        self._world = world
        self._options = world.options
        self._api = InvoiceApi(world.tenant)
        self._tokens = world.tokens
        self._gate = Gate(world.options, world.clock)
        self._ledger = ledger

    async def met(self, request: web.Request) -> Met:
        """Return what faults are told of a request."""
        words = words_of(request.path)
        size = request.query.get("size", "")
        return Met(
            endpoint=kind_of(words),
            path="/" + "/".join(words[1:]) if words[:1] == ("v1",) else request.path,
            query=request.query_string,
            token=request.headers.get("MS-ContinuationToken", ""),
            request_id=request.headers.get("MS-RequestId", ""),
            size=int(size) if size.isascii() and size.isdigit() else 0,
        )

    async def reply(self, request: web.Request, _fault: Fault | None) -> Reply:
        """Return the answer, whichever fault it will meet."""
        words = words_of(request.path)
        if words and words[0].lower() == "v1":
            return await self._api_reply(request, words[1:])
        return await self._sign_in_reply(request, words)

    async def _api_reply(self, request: web.Request, words: tuple[str, ...]) -> Reply:
        admission = self._gate.admit(self._ledger.in_flight)
        if admission.refused:
            return throttled(admission.retry_after_s)
        if admission.delay_s:
            await asyncio.sleep(admission.delay_s)
        if request.method != "GET":
            return gateway_fault(405, "Method not allowed")
        refusal = self._unauthorized(request)
        if refusal:
            return refusal
        token = short_token(request.headers.get("MS-ContinuationToken"))
        bearer = request.headers.get("Authorization", "").partition(" ")[2].strip()
        asked = Asked(words, tuple(request.query.items()), token)
        reply = self._api.answer(asked, is_user=self._tokens.is_of_user(bearer))
        if isinstance(reply, Stalled):
            return await self._stalled()
        return reply

    def _unauthorized(self, request: web.Request) -> Reply | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if not token:
            return service_fault(401, 800001, "The authentication token is missing.")
        if scheme.lower() != "bearer" or not self._tokens.opens_invoices(token.strip()):
            return service_fault(401, 400, "Access denied. The token is not valid or has expired.")
        return None

    async def _stalled(self) -> Reply:
        await self._world.pause(STALL_S)
        return gateway_fault(504, "Gateway timeout")

    async def _sign_in_reply(self, request: web.Request, words: tuple[str, ...]) -> Reply:
        origin = f"{request.headers.get('X-Forwarded-Proto', request.scheme)}://{request.host}"
        match [request.method, *(word.lower() for word in words)]:
            case ["POST", _, "oauth2", "token"]:
                return self._token_reply(
                    words[0], 1, await request.post(), f"{origin}{request.path}"
                )
            case ["POST", _, "oauth2", "v2.0", "token"]:
                return self._token_reply(
                    words[0], 2, await request.post(), f"{origin}{request.path}"
                )
            case ["POST", _, "oauth2", "v2.0", "devicecode"]:
                form = _texts(await request.post())
                answer = self._tokens.device_code(tenant=words[0], form=form, origin=origin)
                return _plain(answer.status, answer.body)
            case ["GET", "identity", "token"]:
                answer = self._tokens.identity(
                    header=request.headers.get("X-IDENTITY-HEADER", ""),
                    resource=request.query.get("resource", ""),
                    client_id=request.query.get("client_id", ""),
                )
                return _plain(answer.status, answer.body)
            case ["GET", _, "v2.0", ".well-known", "openid-configuration"]:
                if self._tokens.knows_tenant(words[0]):
                    return _plain(200, openid_configuration(origin, words[0]))
                return _plain(400, b'{"error":"invalid_tenant"}')
            case ["GET", "common", "discovery", "instance"]:
                return _plain(
                    200, instance_discovery(origin, request.host, self._options.tenant_id)
                )
        return not_found()

    def _token_reply(
        self, tenant: str, version: int, form: Mapping[str, object], endpoint: str
    ) -> Reply:
        answer = self._tokens.answer(
            tenant=tenant, version=version, form=_texts(form), endpoint=endpoint
        )
        return _plain(answer.status, answer.body)

    async def encoded(self, request: web.Request, reply: Reply, *, coded: bool) -> Coded:
        """Return the headers and the body of a reply, in content coding if the client takes it."""
        marked = reply.status == 200 and reply.from_service
        is_json = reply.media_type == "application/json"
        parts = _marked(reply.pieces, self._options.bom) if marked and is_json else reply.pieces
        utf16 = marked and self._options.bom == "utf16"
        charset = ""
        if reply.from_service and is_json and not utf16:
            charset = "; charset=utf-8"
        headers = {"Content-Type": f"{reply.media_type}{charset}", **reply.headers}
        if reply.from_service:
            headers |= _service_headers(request)
        if (
            coded
            and marked
            and self._options.gzip
            and "gzip" in request.headers.get("Accept-Encoding", "")
        ):
            parts = await gzipped(parts)
            headers["Content-Encoding"] = "gzip"
        return headers, parts


def kind_of(words: tuple[str, ...]) -> str:
    """What a request is about, for the counters."""
    match [word.lower() for word in words]:
        case ["v1", "invoices"]:
            return "invoices"
        case ["v1", "invoices", "summary" | "summaries"]:
            return "summary"
        case ["v1", "invoices", _, "documents", _] | [
            "v1",
            "invoices",
            _,
            "receipts",
            _,
            "documents",
            _,
        ]:
            return "document"
        case ["v1", "invoices", "estimates", "links"]:
            return "estimates"
        case ["v1", "invoices", _]:
            return "invoice"
        case ["v1", "invoices", _, "lineitems", *_]:
            return "line_items"
        case [_, "oauth2", *_, "token" | "devicecode"] | ["identity", "token"]:
            return "token"
        case [_, "v2.0", ".well-known", _] | ["common", "discovery", "instance"]:
            return "discovery"
    return "unknown"


def _texts(form: Mapping[str, object]) -> dict[str, str]:
    return {name: value for name, value in form.items() if isinstance(value, str)}


def _plain(status: int, body: bytes) -> Reply:
    return Reply(status, [body], from_service=False)


def _marked(pieces: list[bytes], bom: str) -> list[bytes]:
    if bom == "utf16":
        return [b"\xff\xfe", b"".join(pieces).decode().encode("utf-16-le")]
    if bom == "utf8":
        return [b"\xef\xbb\xbf", *pieces]
    return pieces


def _service_headers(request: web.Request) -> dict[str, str]:
    return {
        "MS-CorrelationId": request.headers.get("MS-CorrelationId") or str(uuid.uuid4()),
        "MS-RequestId": request.headers.get("MS-RequestId") or str(uuid.uuid4()),
        "MS-CV": "iGs3zdGMI0KFc/07.0",
        "MS-ServerId": "201020822",
    }
