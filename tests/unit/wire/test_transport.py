from __future__ import annotations

import asyncio
import gzip
import random
import ssl
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import anyio
import pytest
import trustme
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from support.servers.wire import Connection, Serve, Wire, chunked, response, unused_port, wire

from bulkfetch.billing.spelling import path_segment
from bulkfetch.errors import (
    BulkfetchError,
    ConnectionFailedError,
    ConnectionLostError,
    MalformedBodyError,
    NoProgressError,
    SettingsError,
    UntrustedServerError,
)
from bulkfetch.partnercenter.connection import open_session
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.stats import RunStats
from bulkfetch.wire.messages import Answer, Request, gunzip
from bulkfetch.wire.retry import Attempts, RetryPolicy, may_retry
from bulkfetch.wire.transport import AiohttpTransport, is_too_slow, open_transport

BODY = b'{"items":[' + b",".join(b'{"n":%d}' % number for number in range(500)) + b"]}"
ANYTHING = Request("/x")


def settings_for(base_url: str, **settings: object) -> Settings:
    # each keyword may be any setting, with a value of its type
    return Settings(base_url=base_url, token=Secret("canary"), **settings)  # type: ignore[arg-type]


@asynccontextmanager
async def opened(
    serve: Serve | bytes, **settings: object
) -> AsyncIterator[tuple[AiohttpTransport, Wire, RunStats]]:
    stats = RunStats()
    with anyio.fail_after(20):
        async with (
            wire(serve) as server,
            open_transport(settings_for(server.base_url, **settings), stats) as transport,
        ):
            yield transport, server, stats


async def sent(serve: Serve | bytes, request: Request = ANYTHING, **settings: object) -> Answer:
    """Send one request, and return the answer to it. The server must see exactly one, whatever
    happens."""
    async with opened(serve, **settings) as (transport, server, _):
        try:
            answer = await transport.send(request, {"Authorization": "Bearer canary"})
        finally:
            assert len(server.heads) == 1
        assert answer is not None
        return answer


async def error_of(serve: Serve | bytes, **settings: object) -> BulkfetchError:
    with pytest.raises(BulkfetchError) as caught:
        await sent(serve, ANYTHING, **settings)
    error: BaseException | None = caught.value
    while error is not None:
        assert "canary" not in f"{error!s} {error!r} {error.args!r}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return caught.value


# --- Whole answers.


@pytest.mark.parametrize(
    "served",
    [
        response(BODY),
        chunked(BODY[:7], BODY[7:]),
        response(BODY, headers={"Content-Encoding": "identity"}),
    ],
)
async def test_a_whole_answer_is_read(served: bytes) -> None:
    answer = await sent(served)
    assert answer.status == 200
    assert answer.body() == BODY


async def test_an_answer_of_any_status_is_an_answer() -> None:
    for status in (
        "204 No Content",
        "301 Moved",
        "404 Not Found",
        "429 Too Many Requests",
        "500 No",
    ):
        headers = {"Location": "http://127.0.0.1:1/", "Retry-After": "7"}
        answer = await sent(response(status=status, headers=headers))
        assert answer.status == int(status[:3])
        assert answer.headers["retry-after"] == "7"


@pytest.mark.parametrize("status", ["301 A", "302 A", "303 A", "307 A", "308 A"])
async def test_a_redirect_is_not_followed_and_its_target_sees_nothing(status: str) -> None:
    async with wire(response(BODY)) as honeypot:
        answer = await sent(response(status=status, headers={"Location": f"{honeypot.base_url}/x"}))
        assert answer.status == int(status[:3])
        assert honeypot.connections == 0


async def test_cookies_are_ignored() -> None:
    async def serve(connection: Connection, head: bytes) -> None:
        await connection.send(response(BODY, headers={"Set-Cookie": "a=b; Path=/"}))

    async with opened(serve) as (transport, server, _):
        for _ in range(2):
            await transport.send(ANYTHING, {})
        assert len(server.heads) == 2
        assert not any(b"cookie" in head.lower() for head in server.heads)


async def test_names_are_sent_as_they_were_written() -> None:
    path = f"/invoices/{path_segment('a/b %2F..é')}/lineitems/{path_segment('..')}"
    async with opened(response(BODY)) as (transport, server, _):
        await transport.send(Request(path, (("size", "5"), ("q", "a b&c=d/é"))), {})
    assert server.heads[0].startswith(
        b"GET /v1/invoices/a%2Fb%20%252F..%C3%A9/lineitems/%2E%2E"
        b"?size=5&q=a+b%26c%3Dd%2F%C3%A9 HTTP/1.1\r\n"
    )


@given(st.text())
def test_a_segment_is_one_segment(name: str) -> None:
    segment = path_segment(name.encode(errors="replace").decode())
    assert not set(segment) & set("/?#\\ ")
    assert segment not in (".", "..")


async def test_headers_of_30_kb_go_out_and_come_in() -> None:
    token = "T" * 30_000
    request = Request("/x", headers={"MS-ContinuationToken": token})
    async with opened(response(BODY, headers={"MS-CV": token})) as (transport, server, _):
        answer = await transport.send(request, {})
    assert answer is not None
    assert answer.headers["ms-cv"] == token
    assert f"MS-ContinuationToken: {token}\r\n".encode() in server.heads[0]


async def test_bytes_are_counted_as_they_come_over_the_wire() -> None:
    packed = gzip.compress(BODY)
    async with opened(response(packed, headers={"Content-Encoding": "gzip"})) as (
        transport,
        _,
        stats,
    ):
        await transport.send(ANYTHING, {})
        assert stats.bytes_received == len(packed)


# --- Cut and broken answers.


@pytest.mark.parametrize(
    ("served", "kind", "words"),
    [
        (response(BODY[:-1], length=len(BODY)), ConnectionLostError, "in the middle"),
        (response(b"", length=len(BODY)), ConnectionLostError, "in the middle"),
        (chunked(BODY, end=False), ConnectionLostError, "in the middle"),
        (chunked(BODY)[:-2], ConnectionLostError, "in the middle"),
        (response(BODY, length=None), MalformedBodyError, "neither a length nor chunks"),
        (response(BODY[:5], length=None), MalformedBodyError, "neither a length nor chunks"),
        (b"", ConnectionLostError, "broke before an answer"),
        (b"HTTP/1.1 200", ConnectionLostError, ""),
        (b"HTTP/1.1 200 OK\r\nContent-Le", ConnectionLostError, ""),
        (b"\x1b[2JSSH-2.0-OpenSSH_9.6\r\n\r\n", MalformedBodyError, "the answer is not HTTP"),
        (b"HTTP/1.1 ABC OK\r\n\r\n", MalformedBodyError, "the answer is not HTTP"),
        (
            response(BODY, headers={"X": "x" * 100_000}),
            MalformedBodyError,
            "the answer is not HTTP",
        ),
        (
            response(BODY, headers={f"X{n}": "x" for n in range(1000)}),
            MalformedBodyError,
            "is not HTTP",
        ),
        (
            response(BODY, headers={"Content-Length": "3"}),
            MalformedBodyError,
            "the answer is not HTTP",
        ),
        (response(BODY, headers={"X": "a\nb"}), MalformedBodyError, "the answer is not HTTP"),
    ],
)
async def test_an_answer_that_is_not_whole_is_an_error_that_may_be_tried_again(
    served: bytes, kind: type[BulkfetchError], words: str
) -> None:
    error = await error_of(served)
    assert type(error) is kind
    assert words in str(error)
    assert may_retry(error, Attempts(1), RetryPolicy())
    assert str(error).isprintable()
    assert len(str(error)) < 300


async def test_a_cut_is_seen_at_every_byte() -> None:
    """Cut anywhere, in the head or in the body: an answer is whole, or an error."""
    whole = response(gzip.compress(b"{}"), headers={"Content-Encoding": "gzip"})
    cuts = iter(range(len(whole)))

    async def serve(connection: Connection, head: bytes) -> None:
        await connection.send(whole[: next(cuts)])
        connection.writer.close()

    async with opened(serve) as (transport, server, _):
        for _ in range(len(whole)):
            with pytest.raises((ConnectionLostError, MalformedBodyError)):
                await transport.send(ANYTHING, {})
        assert len(server.heads) == server.connections == len(whole)


async def test_a_reset_before_the_answer_is_a_broken_connection() -> None:
    async def serve(connection: Connection, head: bytes) -> None:
        await connection.reset()

    assert isinstance(await error_of(serve), ConnectionLostError)


@pytest.mark.parametrize("cut", [0, 1, 1000])
async def test_a_reset_in_the_middle_of_the_body_is_a_broken_connection(cut: int) -> None:
    async def serve(connection: Connection, head: bytes) -> None:
        await connection.send(response(BODY[:cut], length=len(BODY)))
        await connection.reset()

    assert isinstance(await error_of(serve), ConnectionLostError)


async def test_a_refused_connection_is_an_error_that_names_the_host() -> None:
    port = unused_port()
    async with open_transport(settings_for(f"http://127.0.0.1:{port}/v1"), RunStats()) as transport:
        with pytest.raises(
            ConnectionFailedError,
            match=f"no connection to 127.0.0.1:{port}: it refuses connections: does a server",
        ):
            await transport.send(ANYTHING, {})


async def test_a_host_that_is_not_found_is_an_error() -> None:
    async with open_transport(settings_for("https://host.invalid/v1"), RunStats()) as transport:
        with pytest.raises(
            ConnectionFailedError, match=r"no connection to host\.invalid:443: there is no host of"
        ):
            await transport.send(ANYTHING, {})


# --- Time.


async def test_an_answer_that_never_begins_is_given_up() -> None:
    async def serve(connection: Connection, head: bytes) -> None:
        await asyncio.sleep(30)

    error = await error_of(serve, first_byte_timeout_s=0.1)
    assert isinstance(error, NoProgressError)
    assert str(error) == "the server did not answer for 0.1 s"


async def test_a_head_that_comes_in_drips_is_given_up() -> None:
    async def serve(connection: Connection, head: bytes) -> None:
        for byte in b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 1000:
            await connection.send(bytes([byte]))
            await asyncio.sleep(0.01)

    assert isinstance(await error_of(serve, first_byte_timeout_s=0.15), NoProgressError)


async def test_a_body_that_stops_is_given_up() -> None:
    async def serve(connection: Connection, head: bytes) -> None:
        await connection.send(response(BODY[:100], length=len(BODY)))
        await asyncio.sleep(30)

    error = await error_of(serve, read_timeout_s=0.1)
    assert isinstance(error, NoProgressError)
    assert str(error) == "the body stopped coming for 0.1 s"


async def test_a_body_that_comes_too_slowly_is_given_up() -> None:
    async def serve(connection: Connection, head: bytes) -> None:
        await connection.send(response(b"", length=len(BODY)))
        for byte in BODY:
            await connection.send(bytes([byte]))
            await asyncio.sleep(0.01)

    error = await error_of(serve, read_timeout_s=0.15)
    assert isinstance(error, NoProgressError)
    assert "the body came too slowly" in str(error)


def test_a_slow_line_is_not_too_slow() -> None:
    assert not is_too_slow(0, 59.0, patience_s=60.0)
    assert is_too_slow(0, 61.0, patience_s=60.0)
    assert not is_too_slow(125_000 * 600, 600.0, patience_s=60.0)  # 1 Mbit/s for ten minutes
    assert is_too_slow(4 * 600, 600.0, patience_s=60.0)


async def test_a_body_may_take_longer_than_any_time_out_while_it_keeps_coming() -> None:
    async def serve(connection: Connection, head: bytes) -> None:
        await connection.send(response(b"", length=len(BODY)))
        for first in range(0, len(BODY), 500):
            await connection.send(BODY[first : first + 500])
            await asyncio.sleep(0.02)

    answer = await sent(serve, first_byte_timeout_s=0.15, read_timeout_s=0.1)
    assert answer.body() == BODY


# --- Size.


@pytest.mark.parametrize("served", [response(b"x" * 5000), chunked(b"x" * 5000)])
async def test_a_body_over_the_bound_is_an_error(served: bytes) -> None:
    error = await error_of(served, max_page_bytes=4999)
    assert isinstance(error, MalformedBodyError)
    assert "larger than 4999 bytes (max_page_bytes=)" in str(error)


async def test_a_body_at_the_bound_is_read() -> None:
    assert (await sent(response(b"x" * 5000), max_page_bytes=5000)).body() == b"x" * 5000


# --- Content codings.


def coded(body: bytes, coding: str = "gzip") -> Answer:
    return Answer(200, {"content-encoding": coding}, body)


@pytest.mark.parametrize("coding", ["gzip", "GZIP", " gzip ", "x-gzip"])
def test_a_gzip_body_is_inflated(coding: str) -> None:
    assert coded(gzip.compress(BODY), coding).body() == BODY


def test_a_gzip_body_of_many_members_is_inflated_whole() -> None:
    assert gunzip(gzip.compress(BODY) * 5 + gzip.compress(b""), max_bytes=1 << 20) == BODY * 5


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=5), st.integers(0, 9))
def test_what_was_compressed_comes_back(members: list[bytes], level: int) -> None:
    packed = b"".join(gzip.compress(member, level) for member in members)
    assert gunzip(packed, max_bytes=1 << 20) == b"".join(members)


def test_a_gzip_body_cut_at_any_byte_is_an_error() -> None:
    packed = gzip.compress(BODY)
    for cut in range(len(packed)):
        with pytest.raises(MalformedBodyError):
            gunzip(packed[:cut], max_bytes=1 << 20)


def test_a_gzip_body_with_any_byte_changed_is_an_error_or_the_same() -> None:
    """The header's time and system are nobody's business; everything else is covered by the
    checksum."""
    packed = gzip.compress(b'{"items":[]}' * 20, mtime=0)
    for place in range(len(packed)):
        damaged = packed[:place] + bytes([packed[place] ^ 0x41]) + packed[place + 1 :]
        try:
            inflated = gunzip(damaged, max_bytes=1 << 20)
        except MalformedBodyError:
            continue
        assert inflated == b'{"items":[]}' * 20
        assert place < 10


@pytest.mark.parametrize(
    "body",
    [
        gzip.compress(BODY) + b"\0",
        gzip.compress(BODY) + b"trailing",
        gzip.compress(BODY) + gzip.compress(BODY)[:9],
        BODY,
        zlib.compress(BODY),
        b"\x1f\x8b",
        b"\x1f",
        b"",
    ],
)
def test_what_is_not_exactly_gzip_is_an_error(body: bytes) -> None:
    with pytest.raises(MalformedBodyError, match="the gzip body is"):
        coded(body).body()


@pytest.mark.parametrize(
    "coding", ["gzip, gzip", "br", "deflate", "zstd", "\x1b[2J", "gzip,identity"]
)
def test_a_coding_that_nobody_asked_for_is_an_error(coding: str) -> None:
    with pytest.raises(MalformedBodyError, match="instead of gzip") as caught:
        coded(gzip.compress(gzip.compress(BODY)), coding).body()
    assert str(caught.value).isprintable()


def test_a_bomb_is_stopped_within_bounded_memory() -> None:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(300)) + packer.flush()
    tracemalloc.start()
    try:
        with pytest.raises(MalformedBodyError, match="expands beyond"):
            gunzip(bomb, max_bytes=16 << 20)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 16 << 20 < peak < 40 << 20


def test_members_without_end_are_stopped() -> None:
    with pytest.raises(MalformedBodyError, match="more than 1000 members"):
        gunzip(gzip.compress(b"") * 200_000, max_bytes=1 << 20)


async def test_a_gzip_body_over_the_wire_is_kept_as_it_came() -> None:
    packed = gzip.compress(BODY)
    answer = await sent(chunked(packed[:9], packed[9:], headers={"Content-Encoding": "gzip"}))
    assert answer.wire_body == packed
    assert answer.body() == BODY


# --- One request for one attempt.


async def test_every_attempt_is_one_request_and_every_retry_is_counted() -> None:
    stats = RunStats()
    async with wire(b"") as server:
        settings = settings_for(server.base_url, max_attempts=2)
        async with open_session(settings, stats) as session:
            with pytest.raises(ConnectionLostError, match="2 attempts"):
                await session.get(ANYTHING, bytes)
        assert len(server.heads) == stats.requests == 2
        assert stats.retries == 1


async def test_an_idle_connection_that_the_server_gives_up_costs_one_free_retry() -> None:
    """The server closes what was used once, when it is used again: no attempt is spent, and nobody
    waits."""

    async def serve(connection: Connection, head: bytes) -> None:
        if connection.served:
            connection.writer.close()
        else:
            await connection.send(response(b"ok"))

    stats = RunStats()
    async with wire(serve) as server:
        settings = settings_for(server.base_url, max_attempts=1)
        async with open_session(settings, stats) as session:
            for _ in range(20):
                assert await session.get(ANYTHING, bytes.decode) == "ok"
        assert len(server.heads) == stats.requests == 20 + stats.retries
        assert 0 < stats.retries < 20


async def test_a_connection_that_breaks_in_the_middle_of_an_answer_is_no_idle_one() -> None:
    async def serve(connection: Connection, head: bytes) -> None:
        await connection.send(response(BODY[:10] if connection.served else BODY, length=len(BODY)))
        if connection.served:
            connection.writer.close()

    async with opened(serve) as (transport, _, _):
        await transport.send(ANYTHING, {})
        with pytest.raises(ConnectionLostError, match="in the middle of the answer"):
            await transport.send(ANYTHING, {})


async def test_a_server_that_closes_idle_connections_is_no_trouble() -> None:
    async def serve(connection: Connection, head: bytes) -> None:
        await connection.send(response(b"ok"))
        await asyncio.sleep(0.001)
        connection.writer.close()

    stats = RunStats()
    async with wire(serve) as server:
        settings = settings_for(server.base_url)
        async with open_session(settings, stats) as session, anyio.create_task_group() as tasks:
            for _ in range(200):
                tasks.start_soon(session.get, ANYTHING, bytes)
        assert stats.requests == 200 + stats.retries
        assert (
            200 <= len(server.heads) <= stats.requests
        )  # what is sent on a closed connection is never seen


async def test_a_cancelled_request_leaves_no_connection_in_the_way() -> None:
    async def serve(connection: Connection, head: bytes) -> None:
        if b"/slow" in head:
            await connection.send(response(BODY[:10], length=len(BODY)))
            await asyncio.sleep(30)
        await connection.send(response(BODY))

    async with opened(serve) as (transport, _, _):
        for _ in range(5):
            with anyio.move_on_after(random.uniform(0.0, 0.03)):
                await transport.send(Request("/slow"), {})
            answer = await transport.send(ANYTHING, {})
            assert answer is not None
            assert answer.body() == BODY


def test_the_private_attribute_that_turns_hidden_retries_off_is_still_there() -> None:
    assert "_retry_connection" in aiohttp.ClientSession.ATTRS


# --- TLS.


@asynccontextmanager
async def serving_tls(authority: trustme.CA, *names: str) -> AsyncIterator[str]:
    async def hello(_request: web.Request) -> web.Response:
        return web.Response(body=b"hello")

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    app = web.Application()
    app.router.add_get("/v1/x", hello)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        yield f"https://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    made = trustme.CA()
    made.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return made


async def test_a_server_of_a_trusted_authority_is_asked(
    authority: trustme.CA, tmp_path: Path
) -> None:
    async with serving_tls(authority, "127.0.0.1") as base_url:
        settings = settings_for(base_url, ca_file=tmp_path / "ca.pem")
        async with open_transport(settings, RunStats()) as transport:
            answer = await transport.send(ANYTHING, {})
    assert answer is not None
    assert answer.body() == b"hello"


@pytest.mark.parametrize(("name", "trusted"), [("127.0.0.1", False), ("other.test", True)])
async def test_a_certificate_that_is_not_trusted_is_an_error_that_is_not_tried_again(
    authority: trustme.CA, tmp_path: Path, name: str, trusted: bool
) -> None:
    async with serving_tls(authority, name) as base_url:
        settings = settings_for(base_url, **({"ca_file": tmp_path / "ca.pem"} if trusted else {}))
        async with open_transport(settings, RunStats()) as transport:
            with pytest.raises(
                UntrustedServerError, match="the server's certificate is not trusted"
            ) as caught:
                await transport.send(ANYTHING, {})
    assert not may_retry(caught.value, Attempts(1), RetryPolicy())


async def test_a_server_without_tls_where_it_belongs_is_an_error() -> None:
    async with wire(response(BODY)) as server:
        settings = settings_for(server.base_url.replace("http:", "https:"), connect_timeout_s=0.2)
        async with open_transport(settings, RunStats()) as transport:
            with pytest.raises(ConnectionFailedError):
                await transport.send(ANYTHING, {})


async def test_a_bundle_that_is_none_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing of the kind")
    with pytest.raises(SettingsError, match="is not a readable PEM bundle"):
        async with open_transport(
            settings_for("https://x.test/v1", ca_file=tmp_path / "ca.pem"), RunStats()
        ):
            pass


async def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next_one() -> None:
    unasked = asyncio.Event()

    async def serve(connection: Connection, head: bytes) -> None:
        asked = int(head.split(b" ")[1].removeprefix(b"/v1/"))
        await connection.send(response(b"asked %d" % asked))
        if asked == 0:
            await asyncio.sleep(0.01)
            await connection.send(response(b"unasked"))
            unasked.set()

    async with opened(serve) as (transport, server, _):
        for number in range(3):
            answer = await transport.send(Request(f"/{number}"), {})
            assert answer is not None
            assert answer.wire_body == b"asked %d" % number
            await unasked.wait()
            await asyncio.sleep(0.03)  # the client reads it before this is over
        assert server.connections == 2


@pytest.mark.parametrize("coding", ["chunked, x", "x, chunked", "\x18chunked", "identity"])
async def test_a_body_that_ends_with_its_connection_is_refused_whatever_its_coding_is_called(
    coding: str,
) -> None:
    with pytest.raises(BulkfetchError):
        await sent(response(BODY, length=None, headers={"Transfer-Encoding": coding}))


async def test_a_second_content_coding_does_not_hide_the_first() -> None:
    served = response(gzip.compress(BODY), headers={"Content-Encoding": "gzip"})
    answer = await sent(served.replace(b"\r\n\r\n", b"\r\nContent-Encoding: identity\r\n\r\n", 1))
    with pytest.raises(MalformedBodyError, match="content coding"):
        answer.body()
