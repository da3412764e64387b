from __future__ import annotations

import time
from pathlib import Path

import anyio
import pytest
from aiohttp import web
from support.servers.entra import credentials, entra, json_answer

from bulkfetch.errors import SignInError
from bulkfetch.partnercenter.connection import open_session
from bulkfetch.sandbox import SandboxOptions
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.signin.source import FixedToken, SignIn, token_source
from bulkfetch.stats import RunStats
from bulkfetch.wire.messages import Request
from bulkfetch.wire.retry import RetryPolicy

CANARY = "canary-Secret~123"


async def test_a_run_signs_in_once_and_asks_the_api(tmp_path: Path) -> None:
    async with entra(tmp_path) as there:
        async with (
            open_session(there.settings(), RunStats()) as session,
            anyio.create_task_group() as tasks,
        ):
            for _ in range(20):
                tasks.start_soon(session.get, Request("/invoices"), bytes)
        assert there.tokens_asked == 1
        assert there.asked["/v1/invoices"] == 20


async def test_a_token_that_expires_in_mid_run_is_renewed_once_for_everyone(tmp_path: Path) -> None:
    async with entra(tmp_path, SandboxOptions(token_lifetime_s=60)) as there:
        stats = RunStats()
        async with open_session(there.settings(), stats) as session:
            await session.get(Request("/invoices"), bytes)
            there.now += 61
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(session.get, Request("/invoices"), bytes)
        assert there.tokens_asked == 2
        assert stats.retries <= 16


@pytest.mark.parametrize(("lifetime_s", "renewed_after_s"), [(3600, 3540), (10, 9)])
async def test_a_token_is_renewed_shortly_before_it_expires(
    lifetime_s: int, renewed_after_s: float, tmp_path: Path
) -> None:
    async with entra(tmp_path, SandboxOptions(token_lifetime_s=lifetime_s)) as there:
        now = 100.0
        source = SignIn(there.settings(), RetryPolicy(), now=lambda: now)
        first = await source.token()
        now += renewed_after_s - 0.1
        assert await source.token() == first
        now += 0.2
        assert await source.token() != first
        assert there.tokens_asked == 2


@pytest.mark.parametrize("told", [b"", b',"expires_in":-5', b',"expires_in":0'])
async def test_a_token_of_unknown_life_is_kept_until_it_is_refused(
    told: bytes, tmp_path: Path
) -> None:
    async with entra(tmp_path) as there:
        body = b'{"token_type":"Bearer","access_token":"t1"' + told + b"}"
        there.meddle = lambda request: (
            json_answer(body) if request.path.endswith("/token") else None
        )
        source = credentials(there.settings())
        assert await source.token() == "t1"
        assert await source.token() == "t1"
        assert there.tokens_asked == 1


async def test_a_wrong_secret_is_refused_in_entras_words_and_not_repeated(tmp_path: Path) -> None:
    async with entra(tmp_path) as there:
        source = credentials(there.settings(client_secret=Secret(CANARY)))
        with pytest.raises(SignInError) as caught:
            await source.token()
        assert there.tokens_asked == 1
    assert "signing in was refused: AADSTS7000215: Invalid client secret provided." in str(
        caught.value
    )
    assert "correlation id" in str(caught.value)
    assert str(caught.value).isprintable()
    error: BaseException | None = caught.value
    while error is not None:
        assert CANARY not in f"{error!s} {error!r} {error.args!r} {vars(error)!r}"
        error = error.__cause__ or error.__context__
    assert CANARY not in repr(vars(source))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"tenant_id": "no-such.test"}, "signing in at https://localhost"),
        ({"client_id": "someone-else"}, "AADSTS700016"),
    ],
)
async def test_a_refusal_is_not_asked_again(
    tmp_path: Path, given: dict[str, object], words: str
) -> None:
    async with entra(tmp_path) as there:
        with pytest.raises(SignInError, match=words):
            await credentials(there.settings(**given)).token()
        assert max(there.asked.values()) == 1


async def test_a_certificate_of_nobody_we_trust_ends_in_an_error(tmp_path: Path) -> None:
    async with entra(tmp_path) as there:
        slept: list[float] = []
        with pytest.raises(SignInError, match=r"(?i)certificate"):
            await credentials(there.settings(ca_file=None), slept).token()
        assert not there.asked
        assert slept == []


async def test_a_token_endpoint_that_stumbles_is_asked_again(tmp_path: Path) -> None:
    async with entra(tmp_path) as there:

        def stumble(request: web.Request) -> web.StreamResponse | None:
            is_early = request.path.endswith("/token") and there.tokens_asked < 3
            return web.Response(status=503) if is_early else None

        there.meddle = stumble
        slept: list[float] = []
        token = await credentials(there.settings(), slept).token()
        assert token.startswith("eyJ")
        assert there.tokens_asked == 3
        assert slept == pytest.approx([0.1, 0.3])


async def test_a_token_endpoint_that_is_down_is_given_up(tmp_path: Path) -> None:
    async with entra(tmp_path) as there:
        there.meddle = lambda request: web.Response(status=500)
        slept: list[float] = []
        with pytest.raises(SignInError, match="5 attempts"):
            await credentials(there.settings(), slept).token()
        assert slept == pytest.approx([0.1, 0.3, 0.9, 2.7])


async def test_a_redirect_of_the_token_endpoint_is_not_followed(tmp_path: Path) -> None:
    async with entra(tmp_path) as there:

        def elsewhere(request: web.Request) -> web.StreamResponse | None:
            if not request.path.endswith("/token"):
                return None
            return web.Response(status=307, headers={"Location": f"{there.origin}/honeypot"})

        there.meddle = elsewhere
        with pytest.raises(SignInError, match="it redirects elsewhere"):
            await credentials(there.settings()).token()
        assert there.asked["/honeypot"] == 0
        assert there.tokens_asked == 1


@pytest.mark.parametrize(
    "body",
    [b"<html>", b"{}", b"[]", b'{"access_token": 5}', b'{"access_token": ""}', b"\xff", b'"x"'],
)
async def test_an_answer_that_is_no_token_is_an_error(tmp_path: Path, body: bytes) -> None:
    async with entra(tmp_path) as there:
        there.meddle = lambda request: (
            web.Response(body=body, content_type="application/json")
            if request.path.endswith("/token")
            else None
        )
        with pytest.raises(SignInError):
            await credentials(there.settings()).token()


@pytest.mark.parametrize("status", [200, 403])
async def test_a_page_of_a_portal_instead_of_a_token_is_named(tmp_path: Path, status: int) -> None:
    async with entra(tmp_path) as there:
        there.meddle = lambda _: web.Response(
            status=status, text="<html><title>Hotel</title>", content_type="text/html"
        )
        named = 'an HTML page of a proxy or portal titled "Hotel", and not JSON; .* in a browser'
        with pytest.raises(SignInError, match=named):
            await credentials(there.settings()).token()


@pytest.mark.parametrize("status", [200, 403])
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
async def test_a_page_that_claims_to_be_compressed_is_named_as_one(
    tmp_path: Path, coding: str, status: int
) -> None:
    async with entra(tmp_path) as there:
        there.meddle = lambda _: web.Response(
            status=status,
            body=b"<html><title>Hotel</title>",
            content_type="text/html",
            headers={"Content-Encoding": coding},
        )
        with pytest.raises(SignInError, match="an HTML page of a proxy or portal") as refused:
            await credentials(there.settings()).token()
    assert "decode" not in str(refused.value)


async def test_a_damaged_answer_is_asked_for_again(tmp_path: Path) -> None:
    damaged = [web.Response(body=b"{}", headers={"Content-Encoding": "gzip"})]
    async with entra(tmp_path) as there:
        there.meddle = lambda request: (
            damaged.pop() if damaged and request.path.endswith("/token") else None
        )
        assert await credentials(there.settings()).token()
    assert damaged == []


async def test_a_token_is_asked_for_once_however_many_wait(tmp_path: Path) -> None:
    async with entra(tmp_path) as there:
        source = credentials(there.settings())
        tokens: list[str] = []

        async def renew(refused: str) -> None:
            tokens.append(await source.renew(refused))

        first = await source.token()
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(renew, first)
        assert len(set(tokens)) == 1
        assert tokens[0] != first
        assert await source.renew(first) == tokens[0]
        assert there.tokens_asked == 2


async def test_signing_in_can_be_left(tmp_path: Path) -> None:
    """msal sits in a thread that cannot be stopped; the run does not wait for it."""
    async with entra(tmp_path) as there:

        def slow(_request: web.Request) -> web.StreamResponse:
            time.sleep(0.1)
            return web.Response(status=500)

        there.meddle = slow
        with anyio.move_on_after(0.05) as scope:
            await credentials(there.settings()).token()
        assert scope.cancelled_caught


async def test_an_authority_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    async with entra(tmp_path) as there:
        gone = there.settings()
    with pytest.raises(SignInError, match=f"signing in at {gone.authority} failed") as caught:
        await credentials(gone).token()
    assert "it refuses connections" in str(caught.value)
    assert "HTTPSConnectionPool" not in str(caught.value)


# --- A given token.


async def test_a_given_token_is_used_as_it_is_and_cannot_be_renewed() -> None:
    source = token_source(
        Settings(token=Secret(CANARY), tenant_id="t", client_id="c", client_secret=Secret("s"))
    )
    assert isinstance(source, FixedToken)
    assert await source.token() == CANARY
    with pytest.raises(SignInError, match="refuses the bearer token") as caught:
        await source.renew(CANARY)
    assert CANARY not in str(caught.value)


def test_credentials_are_used_where_no_token_is_given() -> None:
    settings = Settings(tenant_id="t", client_id="c", client_secret=Secret("s"))
    assert isinstance(token_source(settings), SignIn)
