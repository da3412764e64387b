"""A sandbox behind TLS that gives tokens, as Microsoft Entra would, and sign-ins to it."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import trustme
from aiohttp import web

from bulkfetch.sandbox import SandboxOptions, make_app
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.signin.source import SignIn
from bulkfetch.wire.retry import RetryPolicy

TENANT = SandboxOptions().tenant_id
SECRET = SandboxOptions().client_secret
CANARY = "canary-0123456789-Secret~x"
REFRESH = SandboxOptions().refresh_token
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Meddle = Callable[[web.Request], web.StreamResponse | None]


@dataclass(slots=True)
class Entra:
    """A sandbox behind TLS, with time of its own, that counts what it is asked."""

    origin: str
    ca_file: Path
    now: float = 1_625_000_000.0
    asked: Counter[str] = field(default_factory=Counter)
    meddle: Meddle = lambda request: None
    """What answers instead, if it returns anything."""

    def settings(self, **given: object) -> Settings:
        credentials = {
            "base_url": f"{self.origin}/v1",
            "authority": self.origin,
            "ca_file": self.ca_file,
            "tenant_id": TENANT,
            "client_id": "sandbox-client",
            "client_secret": Secret(SECRET),
        }
        return Settings(**{**credentials, **given})  # type: ignore[arg-type]  # any of them

    @property
    def tokens_asked(self) -> int:
        return sum(count for path, count in self.asked.items() if path.endswith("/token"))


@asynccontextmanager
async def entra(
    folder: Path, options: SandboxOptions | None = None, *, names: Sequence[str] = ()
) -> AsyncIterator[Entra]:
    """Run one; its certificate is for localhost, and for `names`."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", *names).configure_cert(context)
    found = Entra("", folder / "ca.pem")

    @web.middleware
    async def behind_tls(request: web.Request, handler: Handler) -> web.StreamResponse:
        found.asked[request.path] += 1
        headers = {**request.headers, "X-Forwarded-Proto": "https"}
        return found.meddle(request) or await handler(request.clone(headers=headers))

    app = make_app(options or SandboxOptions(), clock=lambda: found.now)
    app.middlewares.append(behind_tls)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        found.origin = f"https://localhost:{runner.addresses[0][1]}"
        with anyio.fail_after(20):
            yield found
    finally:
        with anyio.move_on_after(5):  # until the clients in threads have taken their leave
            while runner.server and runner.server.connections:  # noqa: ASYNC110  aiohttp has no event for it
                await asyncio.sleep(0.005)
        await runner.cleanup()


def credentials(settings: Settings, slept: list[float] | None = None) -> SignIn:
    async def sleep(seconds: float) -> None:
        if slept is not None:
            slept.append(seconds)

    return SignIn(settings, RetryPolicy(max_attempts=5), sleep=sleep, draw=lambda: 1.0)


# --- Signing in with a secret.


def of_user(there: Entra, **given: Any) -> Settings:
    """Settings of an app and a user, by a refresh token."""
    return there.settings(refresh_token=Secret(REFRESH), **given)


def json_answer(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")
