"""Graph's billing export asked for by hand: calls over real sockets that share no code with us."""

from __future__ import annotations

import json
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from bulkfetch.sandbox import Fault, Faults, GraphOptions, RunningSandbox, SandboxOptions, serve


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Clock:
    """Seconds since 1970, which a test moves."""

    def __init__(self) -> None:
        self.now = 1_726_570_000.0

    def __call__(self) -> float:
        return self.now


class GraphCalls:
    """The calls of the export, one at a time."""

    def __init__(self, sandbox: RunningSandbox, client: aiohttp.ClientSession) -> None:
        self.sandbox = sandbox
        self.graph = sandbox.graph
        self._client = client

    @property
    def billing(self) -> str:
        return f"{self.graph.url}/v1.0/reports/partners/billing"

    async def send(self, method: str, url: str, **given: Any) -> Answer:
        """Send a request without a bearer token."""
        async with self._client.request(method, url, allow_redirects=False, **given) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    async def ask(self, method: str, url: str, *, token: str | None = None, **given: Any) -> Answer:
        """Send a request to Graph."""
        bearer = {"Authorization": f"Bearer {token or self.graph.token}"}
        headers = {**bearer, **given.pop("headers", {})}
        return await self.send(method, url, headers=headers, **given)

    async def submit(self, name: str, **given: Any) -> Answer:
        """Ask for an export by its name, as `usage/billed/G000700111`."""
        line_item_type, billed, subject = name.split("/", 2)
        if billed == "billed":
            body = {"invoiceId": subject}
        else:
            body = dict(zip(("billingPeriod", "currencyCode"), subject.split("/"), strict=True))
        url = f"{self.billing}/{line_item_type}/{billed}/export"
        return await self.ask("POST", url, json={**body, **given})

    async def operation(self, name: str, **given: Any) -> Any:
        """Ask for an export, and for its operation, once."""
        submitted = await self.submit(name, **given)
        assert submitted.status == 202, submitted.body
        return (await self.ask("GET", submitted.headers["Location"])).json

    async def manifest(self, name: str, **given: Any) -> Any:
        """Return the manifest of an export that is ready at once."""
        return (await self.operation(name, **given))["resourceLocation"]

    async def blob(self, manifest: Any, place: int = 0, **headers: str) -> Answer:
        """Return one blob of a manifest."""
        url = blob_urls(manifest)[place]
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.send("GET", url, headers=named)

    async def lines(self, manifest: Any) -> list[bytes]:
        """Return the rows of all blobs, in the order of their names."""
        urls = sorted(blob_urls(manifest))
        bodies = [(await self.send("GET", url)).body for url in urls]
        return [line for body in bodies for line in zlib.decompress(body, 31).split(b"\n")[:-1]]


def blob_urls(manifest: Any) -> list[str]:
    """Return the addresses of the blobs of a manifest, in its order."""
    root, sas = manifest["rootDirectory"], manifest["sasToken"]
    return [f"{root}/{blob['name']}?{sas}" for blob in manifest["blobs"]]


@asynccontextmanager
async def graph_calls(
    *faults: Fault, clock: Clock | None = None, line_items: int = 20, **graph: Any
) -> AsyncIterator[GraphCalls]:
    """Serve a mixed tenant with those faults and options of Graph."""
    options = SandboxOptions(
        newest="2024-05",
        line_items=line_items,
        graph=GraphOptions(**graph),
        faults=Faults(faults),
    )
    async with (
        serve(options, clock=clock or Clock()) as sandbox,
        aiohttp.ClientSession(auto_decompress=False) as client,
    ):
        yield GraphCalls(sandbox, client)
