"""The sandbox as web servers on loopback: the invoice API, Microsoft Graph, and its blobs."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from bulkfetch.sandbox.faults import HONEYPOT, FaultScript
from bulkfetch.sandbox.graph.exporting import Exporting
from bulkfetch.sandbox.graph.sites import BlobSite, GraphSite, Honeypot
from bulkfetch.sandbox.ledger import Ledger
from bulkfetch.sandbox.options import SandboxOptions
from bulkfetch.sandbox.origin import Clock, Origin, World, make_world
from bulkfetch.sandbox.site import InvoiceSite
from bulkfetch.sandbox.tenant import Tenant

SHUTDOWN_S = 0.5
MAX_HEADER_BYTES = 64 << 10
"""Continuation tokens travel in a header, and may be long."""


@dataclass(frozen=True, slots=True)
class RunningGraph:
    """The fake Microsoft Graph of a sandbox that is serving, each part on an origin of its own."""

    url: str
    """The counterpart of https://graph.microsoft.com, as the setting `graph_url` takes it."""
    blob_url: str
    """The origin of the blobs: the counterpart of https://ACCOUNT.blob.core.windows.net."""
    honeypot_url: str
    """An origin that a careful client never asks; `foreign_addresses` and other faults name it."""
    token: str
    """A bearer token that never expires, for Graph alone."""
    stats: Ledger
    blob_stats: Ledger
    honeypot_stats: Ledger
    exporting: Exporting
    """What it can export, the operations so far, and every SAS that it gave."""


@dataclass(frozen=True, slots=True)
class RunningSandbox:
    """A sandbox that is serving: where, for which token, and what it has seen so far."""

    base_url: str
    authority: str
    token: str
    tenant_id: str
    stats: Ledger
    tenant: Tenant
    graph: RunningGraph
    faults: FaultScript
    """What goes wrong; `stop` ends it."""


def make_app(options: SandboxOptions, *, clock: Clock = time.time) -> web.Application:
    """The invoice API and the sign-in as an aiohttp application, without Graph. `clock` tells
    seconds since 1970, for tokens and rates."""
    return _invoice_origin(make_world(options, clock)).app()


def _invoice_origin(world: World) -> Origin:
    ledger = Ledger()
    return Origin(InvoiceSite(world, ledger), world, ledger)


@asynccontextmanager
async def serve(
    options: SandboxOptions, *, clock: Clock = time.time
) -> AsyncIterator[RunningSandbox]:
    """Serve on loopback, on the ports of the options or on free ones, until the block ends."""
    world = make_world(options, clock)
    exporting = Exporting(world)
    invoices = _invoice_origin(world)
    graph_ledger, blob_ledger = Ledger(), Ledger()
    graph = Origin(GraphSite(exporting, graph_ledger), world, graph_ledger)
    blobs = Origin(BlobSite(exporting, blob_ledger), world, blob_ledger)
    honeypot = Origin(Honeypot(), world, Ledger())
    async with AsyncExitStack() as stack:

        async def started(origin: Origin, port: int) -> str:
            return await stack.enter_async_context(_started(origin, port, options))

        exporting.blob_url = await started(blobs, options.graph.blob_port)
        # 0.0.0.0 leads to this machine too, but is no address of loopback.
        exporting.honeypot_url = (await started(honeypot, 0)).replace("127.0.0.1", "0.0.0.0")  # noqa: S104
        world.places[HONEYPOT] = exporting.honeypot_url
        exporting.graph_url = await started(graph, options.graph.port)
        authority = await started(invoices, options.port)
        yield RunningSandbox(
            base_url=f"{authority}/v1",
            authority=authority,
            token=options.token,
            tenant_id=options.tenant_id,
            stats=invoices.ledger,
            tenant=world.tenant,
            faults=world.faults,
            graph=RunningGraph(
                url=exporting.graph_url,
                blob_url=exporting.blob_url,
                honeypot_url=exporting.honeypot_url,
                token=options.graph.token,
                stats=graph.ledger,
                blob_stats=blobs.ledger,
                honeypot_stats=honeypot.ledger,
                exporting=exporting,
            ),
        )


@asynccontextmanager
async def _started(origin: Origin, port: int, options: SandboxOptions) -> AsyncIterator[str]:
    """Serve one origin; its scheme, host and port."""
    runner = web.AppRunner(
        origin.app(),
        access_log=None,
        handle_signals=False,
        handler_cancellation=True,
        shutdown_timeout=SHUTDOWN_S,
        max_field_size=MAX_HEADER_BYTES,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=_tls(options)).start()
        scheme = "https" if options.certificate else "http"
        yield "{}://{}:{}".format(scheme, *runner.addresses[0][:2])
    finally:
        await runner.cleanup()


def _tls(options: SandboxOptions) -> ssl.SSLContext | None:
    if not options.certificate:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(options.certificate)
    return context
