"""Graph, its blobs, and the honeypot, as origins of the sandbox."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping

from aiohttp import web

from bulkfetch.sandbox.admission import Gate
from bulkfetch.sandbox.api import words_of
from bulkfetch.sandbox.faults import Fault, Met
from bulkfetch.sandbox.graph.api import BILLING, VERSIONS, Call, GraphApi, export_of
from bulkfetch.sandbox.graph.exporting import Exporting
from bulkfetch.sandbox.graph.exports import Export
from bulkfetch.sandbox.graph.sas import instant
from bulkfetch.sandbox.graph.storage import BlobStorage, Fetch
from bulkfetch.sandbox.ledger import Ledger
from bulkfetch.sandbox.origin import Coded, gzipped
from bulkfetch.sandbox.replies import Reply, graph_fault, storage_fault

_KINDS = {"export": "export", "operations": "operation", "manifests": "manifest"}


class GraphSite:
    """Microsoft Graph, as far as the billing export goes."""

    service = "graph"

    def __init__(self, exporting: Exporting, ledger: Ledger) -> None:
        self._exporting = exporting
        self._api = GraphApi(exporting)
        self._gate = Gate(exporting.world.options, exporting.world.clock)
        self._ledger = ledger

    async def met(self, request: web.Request) -> Met:
        """Return what faults are told of a request: what it exports, and how it asks."""
        words = words_of(request.path)[1:]
        kind = "unknown"
        if words[:3] == BILLING and len(words) > 3:
            kind = _KINDS.get(words[-1], _KINDS.get(words[-2], "unknown"))
        export = self._export(kind, words, await request.read())
        path = f"/{export.name}/{kind}" if export else request.path
        return _met(request, kind, path, request.headers.get("client-request-id"))

    def _export(self, kind: str, words: tuple[str, ...], body: bytes) -> Export | None:
        if kind == "operation":
            operation = self._exporting.operations.find(words[-1])
            if operation:
                return operation.export
            return None
        if kind == "manifest":
            return self._exporting.manifests.find(words[-1])
        if kind == "export" and len(words) == 6:
            return export_of(words, body)
        return None

    async def reply(self, request: web.Request, fault: Fault | None) -> Reply:
        """Return the answer to a request."""
        admission = self._gate.admit(self._ledger.in_flight)
        if admission.refused:
            headers = {"Retry-After": str(admission.retry_after_s)}
            return graph_fault(429, "TooManyRequests", "Too many requests.", headers=headers)
        await asyncio.sleep(admission.delay_s)
        words = words_of(request.path)
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        call = Call(
            method=request.method,
            words=words[1:],
            bearer=token.strip() if scheme.lower() == "bearer" else "",
            body=await request.read(),
            media_type=request.content_type if "Content-Type" in request.headers else "",
            fault=fault,
        )
        if words[:1] not in [(version,) for version in VERSIONS]:
            return graph_fault(400, "BadRequest", "Invalid version.")
        return self._api.answer(call)

    async def encoded(self, request: web.Request, reply: Reply, *, coded: bool) -> Coded:
        """Return the headers and the body of a reply, in content coding if the client takes it."""
        ids = {
            "request-id": str(uuid.uuid4()),
            "client-request-id": request.headers.get("client-request-id") or str(uuid.uuid4()),
        }
        headers = {**ids, **reply.headers}
        if reply.status == 202:
            return headers, []
        headers["Content-Type"] = f"{reply.media_type}; charset=utf-8"
        parts = _with_ids(reply.pieces, ids, self._exporting.world.clock())
        wants_gzip = "gzip" in request.headers.get("Accept-Encoding", "")
        if coded and self._exporting.world.options.gzip and wants_gzip:
            return {**headers, "Content-Encoding": "gzip"}, await gzipped(parts)
        return headers, parts


class BlobSite:
    """The blobs of the exports, as an account of Azure Storage has them."""

    service = "storage"

    def __init__(self, exporting: Exporting, ledger: Ledger) -> None:
        self._exporting = exporting
        self._storage = BlobStorage(exporting)
        self._gate = Gate(exporting.world.options, exporting.world.clock)
        self._ledger = ledger

    async def met(self, request: web.Request) -> Met:
        """Return what faults are told of a request: what it is a blob of, and its name."""
        found = self._exporting.manifests.place(request.path)
        path = f"/{found[0].name}/blob/{found[2].name}" if found else request.path
        return _met(request, "blob", path, request.headers.get("x-ms-client-request-id"))

    async def reply(self, request: web.Request, fault: Fault | None) -> Reply:
        """Return the answer to a request."""
        admission = self._gate.admit(self._ledger.in_flight)
        if admission.refused:
            return storage_fault(503, "ServerBusy", "The server is busy.")
        await asyncio.sleep(admission.delay_s)
        fetch = Fetch(
            method=request.method,
            path=request.path,
            query=request.rel_url.raw_query_string,
            headers={name.lower(): value for name, value in request.headers.items()},
            fault=fault,
        )
        reply = await asyncio.to_thread(self._storage.answer, fetch)
        if fault and fault.kind == "sas_lapses" and reply.status < 300:
            self._exporting.sas.void(request.path.rpartition("/")[0])
        if fault and fault.kind == "renewed_in_body" and reply.status < 300:
            self._storage.renew(fetch)
        return reply

    async def encoded(self, request: web.Request, reply: Reply, *, coded: bool) -> Coded:
        """Return the headers and the body of a reply."""
        headers = {
            "Content-Type": reply.media_type,
            "x-ms-request-id": str(uuid.uuid4()),
            "x-ms-version": "2021-08-06",
            **reply.headers,
        }
        if client_id := request.headers.get("x-ms-client-request-id"):
            headers["x-ms-client-request-id"] = client_id
        return headers, reply.pieces


class Honeypot:
    """An origin that nobody should ask."""

    service = "gateway"

    async def met(self, request: web.Request) -> Met:
        """Return what faults are told of a request, which none is about."""
        return Met("discovery", request.path)

    async def reply(self, _request: web.Request, _fault: Fault | None) -> Reply:
        """Return a page that is no answer to anything."""
        return Reply(200, [b"<html>welcome</html>"], media_type="text/html")

    async def encoded(self, _request: web.Request, reply: Reply, *, coded: bool) -> Coded:
        """Return the headers and the body of a reply."""
        return {"Content-Type": reply.media_type}, reply.pieces


def _met(request: web.Request, kind: str, path: str, client_id: str | None) -> Met:
    # A client that names no request is taken to send each path once, and then again.
    return Met(kind, path, request.query_string, request_id=client_id or request.path)


def _with_ids(pieces: list[bytes], ids: Mapping[str, str], now: float) -> list[bytes]:
    """Return a body with the ids of the request, if it is an error."""
    marks = f'{{"date":"{instant(now).rstrip("Z")}"' + "".join(
        f',"{name}":"{value}"' for name, value in ids.items()
    )
    return [
        piece.replace(b'"innerError":{}', f'"innerError":{marks}}}'.encode()) for piece in pieces
    ]
