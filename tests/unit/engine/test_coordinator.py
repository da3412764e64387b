from __future__ import annotations

import pickle
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread
import orjson
import pytest
from anyio.streams.tls import TLSStream

from bulkfetch.engine.certificate import client_context, make_identity
from bulkfetch.engine.coordinator import (
    GRAPH,
    PARTNER_CENTER,
    Calls,
    Coordinator,
    Patience,
    Peer,
    coordinate,
    handle_at,
)
from bulkfetch.engine.handle import Handle
from bulkfetch.engine.lines import HELLO_BYTES, LINE_BYTES
from bulkfetch.engine.remote import Remote, open_remote
from bulkfetch.errors import EngineError, GraphAccessError, SettingsError, SignInError
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.wire.limits import AdaptiveLimit, LimitPolicy
from bulkfetch.wire.session import TokenSource

SETTINGS = Settings(token=Secret("given-token"), base_url="http://127.0.0.1:9/v1")
AT = handle_at("127.0.0.1", 0, SETTINGS, readers=4)


@dataclass
class Numbered:
    """Tokens with numbers: each renewal is the next."""

    name: str
    number: int = 0
    failure: SignInError | None = None

    async def token(self) -> str:
        if self.failure is not None:
            raise self.failure
        return f"{self.name}-{self.number}"

    async def renew(self, refused: str) -> str:
        assert refused == await self.token()
        self.number += 1
        return await self.token()


@dataclass
class Held:
    """A coordinator in this event loop, and who connects to it."""

    limit: AdaptiveLimit
    tokens: Mapping[str, TokenSource]
    stack: AsyncExitStack
    handle: Handle = AT
    gone: list[Peer] = field(default_factory=list)

    async def connect(self) -> Remote:
        return await self.stack.enter_async_context(open_remote(self.handle))


@asynccontextmanager
async def holding(
    most: int = 2,
    tokens: Mapping[str, TokenSource] | None = None,
    patience: Patience | None = None,
) -> AsyncIterator[Held]:
    limit = AdaptiveLimit(
        LimitPolicy(ceiling=most, start=most), clock=anyio.current_time, sleep=anyio.sleep
    )

    async def echo(peer: Peer, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"said": dict(facts), "by": peer.number}

    async with AsyncExitStack() as stack:
        held = Held(limit, tokens or {}, stack)
        calls = Calls({"echo": echo}, held.gone.append)
        coordinating = coordinate(limit, held.tokens, AT, calls=calls, patience=patience)
        held.handle = await stack.enter_async_context(coordinating)
        yield held


async def until(is_so: Callable[[], bool]) -> None:
    with anyio.fail_after(5):
        while not is_so():  # noqa: ASYNC110  no event tells it
            await anyio.sleep(0.005)


async def can_take(remote: Remote) -> bool:
    """Whether a place can be had at once."""
    with anyio.move_on_after(0.03):
        async with remote.limit.slot():
            return True
    return False


async def connect_raw(handle: Handle) -> TLSStream:
    stream = await anyio.connect_tcp("127.0.0.1", handle.port)
    return await TLSStream.wrap(
        stream, server_side=False, ssl_context=client_context(), standard_compatible=False
    )


async def hear_end(stream: anyio.abc.ByteStream) -> bytes:
    """All that comes until the other side cuts the connection."""
    heard = b""
    with anyio.fail_after(5):
        try:
            while True:
                heard += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError, OSError):
            return heard


def line(**facts: Any) -> bytes:
    return orjson.dumps(facts) + b"\n"


# --- Places.


async def test_processes_share_the_places_of_one_limit() -> None:
    async with holding(most=2) as held:
        one, other = await held.connect(), await held.connect()
        async with one.limit.slot(), other.limit.slot():
            assert held.limit.in_flight == 2
            assert not await can_take(other)
            assert other.limit.idle == 0
        async with other.limit.slot(), other.limit.slot():
            assert held.limit.in_flight == 2
        await until(lambda: held.limit.in_flight == 0)


async def test_what_a_process_learns_of_the_server_all_heed() -> None:
    async with holding(most=8) as held:
        one, other = await held.connect(), await held.connect()
        async with one.limit.slot() as slot:
            one.limit.note_throttled(slot, wait_s=0.05)
            assert 0 < one.limit.closed_s <= 0.05
            await until(lambda: held.limit.closed_s > 0)
        assert held.limit.limit < 8
        async with other.limit.slot() as slot:
            assert (held.limit.closed_s, other.limit.holds_in_vain) == (0, 1)
            assert other.limit.limit == held.limit.limit
            other.limit.note_answer(slot)
        await until(lambda: held.limit.holds_in_vain == 0)
        one.limit.hold(0.01, one_first=True)
        await until(lambda: held.limit.holds_in_vain == 2)
        one.limit.release()
        await until(lambda: held.limit.holds_in_vain == 0)


async def test_idle_places_are_those_heard_of_and_those_left_since() -> None:
    async with holding(most=3) as held:
        remote = await held.connect()
        assert remote.limit.idle == 3
        async with remote.limit.slot():
            assert remote.limit.idle == 2
        assert remote.limit.idle == 3


async def test_who_has_gone_gives_its_places_back_those_it_waits_for_too() -> None:
    async with holding(most=2) as held:
        stream = await connect_raw(held.handle)
        takes = b"".join(line(do="take", slot=number) for number in range(5))
        await stream.send(line(hello=held.handle.nonce.reveal()) + takes)
        await until(lambda: held.limit.in_flight == 2)
        await anyio.aclose_forcefully(stream)  # without a word: its process was killed
        remote = await held.connect()
        with anyio.fail_after(5):
            async with remote.limit.slot(), remote.limit.slot():
                assert held.limit.in_flight == 2
        await until(lambda: held.limit.in_flight == 0)
        assert [peer.number for peer in held.gone] == [1]


async def test_who_is_silent_for_long_counts_as_gone() -> None:
    async with holding(most=2, patience=Patience(silence_s=0.1)) as held:
        stream = await connect_raw(held.handle)
        await stream.send(line(hello=held.handle.nonce.reveal()) + line(do="take", slot=1))
        assert b'"slot":1' in await hear_end(stream)
        assert held.limit.in_flight == 0
        await anyio.aclose_forcefully(stream)


async def test_a_place_that_nobody_waits_for_any_more_is_not_kept() -> None:
    async with holding(most=1) as held:
        remote = await held.connect()
        async with remote.limit.slot():
            assert not await can_take(remote)
        await until(lambda: held.limit.in_flight == 0)


# --- Tokens and calls.


async def test_tokens_of_both_apis_come_from_one_place_and_are_renewed_once() -> None:
    tokens = {PARTNER_CENTER: Numbered("pc"), GRAPH: Numbered("graph")}
    async with holding(tokens=tokens) as held:
        processes = [await held.connect() for _ in range(3)]
        sources = [each.tokens(PARTNER_CENTER) for each in processes]
        assert {await each.token() for each in sources} == {"pc-0"}
        assert await processes[0].tokens(GRAPH).token() == "graph-0"
        assert [await each.renew("pc-0") for each in sources] == ["pc-1"] * 3
        assert {await each.token() for each in sources} == {"pc-1"}
        assert (tokens[PARTNER_CENTER].number, tokens[GRAPH].number) == (1, 0)


async def test_why_there_is_no_token_is_told_as_the_error_that_it_is() -> None:
    failing = Numbered("pc", failure=SignInError("the secret has expired: make a new one"))
    refused = Numbered("graph", failure=GraphAccessError("no permission", "add it"))
    async with holding(tokens={PARTNER_CENTER: failing, GRAPH: refused}) as held:
        remote = await held.connect()
        with pytest.raises(SignInError, match="the secret has expired: make a new one"):
            await remote.tokens(PARTNER_CENTER).token()
        with pytest.raises(GraphAccessError) as caught:
            await remote.tokens(GRAPH).token()
        assert caught.value.advice == "add it"
        with pytest.raises(SignInError, match="no tokens for weather"):
            await remote.tokens("weather").token()


async def test_calls_are_answered_each_with_its_own() -> None:
    async with holding() as held:
        one, other = await held.connect(), await held.connect()
        assert await one.call("echo", x=1) == {"said": {"x": 1}, "by": 1}
        assert await other.call("echo", text="ü" * 100_000) == {
            "said": {"text": "ü" * 100_000},
            "by": 2,
        }


# --- Strangers.

STRANGE = {
    "wrong nonce": line(hello="no"),
    "no hello": line(do="take", slot=1),
    "nonce of another kind": line(hello=["a"]),
    "not an object": b"[]\n",
    "not JSON": b"GET / HTTP/1.1\r\n\r\n",
    "not text": bytes(range(255, 9, -1)) + b"\n",
    "nothing": b"",
    "a line without an end": b'{"hello":"' + b"x" * HELLO_BYTES,
    "a huge line": b"x" * (LINE_BYTES // 4),
}


@pytest.mark.parametrize("said", STRANGE.values(), ids=STRANGE)
async def test_a_stranger_is_cut_off_and_hears_nothing(said: bytes) -> None:
    async with holding(patience=Patience(hello_s=0.5)) as held:
        remote = await held.connect()
        stream = await connect_raw(held.handle)
        async with remote.limit.slot():
            with suppress(anyio.BrokenResourceError, OSError):  # it may be cut off before
                await stream.send(said)
            assert await hear_end(stream) == b""
            assert held.limit.in_flight == 1
        assert await remote.call("echo") == {"said": {}, "by": 1}
        await anyio.aclose_forcefully(stream)


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff"])
async def test_who_does_not_speak_tls_is_cut_off(said: bytes) -> None:
    async with holding(patience=Patience(hello_s=0.1)) as held:
        stream = await anyio.connect_tcp("127.0.0.1", held.handle.port)
        await stream.send(said)
        await hear_end(stream)
        await anyio.aclose_forcefully(stream)
        assert await (await held.connect()).call("echo") == {"said": {}, "by": 1}


@pytest.mark.parametrize(
    "said",
    [
        line(do="leave", slot=7),
        line(do="answered", slot=7),
        line(do="throttled", slot=1, wait_s="long"),
        line(do="call", name="nobody", call=1, facts={}),
        line(do="dance"),
        line(do="take", slot=1) + line(do="take", slot=1),
        b"".join(line(do="take", slot=number) for number in range(1_001)),
    ],
)
async def test_a_process_that_says_what_none_of_ours_says_is_cut_off_and_leaves_nothing(
    said: bytes,
) -> None:
    async with holding() as held:
        stream = await connect_raw(held.handle)
        await stream.send(line(hello=held.handle.nonce.reveal()) + said)
        await hear_end(stream)
        await until(lambda: held.limit.in_flight == 0)
        assert len(held.gone) == 1
        await anyio.aclose_forcefully(stream)


async def test_many_silent_strangers_keep_no_process_of_the_run_out() -> None:
    async with holding(patience=Patience(hello_s=30)) as held:
        idle = [await anyio.connect_tcp("127.0.0.1", held.handle.port) for _ in range(70)]
        remote = await held.connect()
        assert await remote.call("echo") == {"said": {}, "by": 1}
        assert await hear_end(idle[0]) == b""  # the oldest was cut off for it
        for each in idle:
            await anyio.aclose_forcefully(each)


async def test_a_server_with_another_certificate_is_not_told_the_nonce() -> None:
    heard = b""
    identity = make_identity()

    async def serve(stream: anyio.abc.SocketStream) -> None:
        nonlocal heard
        async with stream:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError, ssl.SSLError):
                secure = await TLSStream.wrap(
                    stream,
                    server_side=True,
                    ssl_context=identity.context,
                    standard_compatible=False,
                )
                heard += await secure.receive()

    async with holding() as held, anyio.create_task_group() as tasks:
        listener = (await anyio.create_tcp_listener(local_host="127.0.0.1")).listeners[0]
        tasks.start_soon(listener.serve, serve)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with open_remote(replace(held.handle, port=port)) as remote:
            assert "its certificate is not the coordinator's" in remote.why_lost
        assert heard == b""
        tasks.cancel_scope.cancel()
    await listener.aclose()


# --- Without a coordinator.


async def test_where_it_cannot_be_reached_a_process_goes_on_with_its_share_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with holding() as held:
        handle = replace(held.handle, share=2)
    async with open_remote(handle) as remote:
        async with remote.limit.slot() as slot, remote.limit.slot():
            assert (remote.limit.limit, remote.limit.idle) == (2, 0)
            assert not await can_take(remote)
            remote.limit.note_answer(slot)
            remote.limit.note_throttled(slot, wait_s=0.01)
            assert remote.limit.closed_s > 0
        remote.limit.hold(0.01)
        remote.limit.release()
        with pytest.raises(SignInError, match=f"127.0.0.1:{handle.port} cannot be reached"):
            await remote.tokens(PARTNER_CENTER).token()
        with pytest.raises(EngineError, match="cannot be reached"):
            await remote.call("echo")
    said = [record.getMessage() for record in caplog.records if record.name == "bulkfetch"]
    assert len(said) == 1
    assert "goes on with its share, 2 requests in flight" in said[0]


async def test_who_waits_while_the_coordinator_ends_goes_on_with_its_share() -> None:
    coordinator = Coordinator(replace(SETTINGS, max_in_flight=1), host="127.0.0.1")
    coordinator.start()
    async with open_remote(coordinator.handle) as remote, anyio.create_task_group() as tasks:
        tokens = remote.tokens(PARTNER_CENTER)
        assert await tokens.token() == "given-token"
        async with remote.limit.slot() as slot:
            has_taken = anyio.Event()

            async def take() -> None:
                async with remote.limit.slot():
                    has_taken.set()

            tasks.start_soon(take)
            await until(lambda: remote.limit.idle == 0)
            await anyio.to_thread.run_sync(coordinator.close)
            with anyio.fail_after(5):
                await has_taken.wait()
            remote.limit.note_answer(slot)  # nobody is there to be told
        assert await tokens.token() == "given-token"  # it may be valid for a while
        with pytest.raises(SignInError, match="cannot be reached"):
            await tokens.renew("given-token")


# --- The thread, the handle.


async def test_a_coordinator_in_a_thread_hands_out_the_tokens_of_its_settings() -> None:
    settings = replace(SETTINGS, graph_token=Secret("given-for-graph"))
    with Coordinator(settings, host="127.0.0.1", readers=4) as coordinator:
        handle = pickle.loads(pickle.dumps(coordinator.handle))
        async with open_remote(handle) as remote:
            assert await remote.tokens(PARTNER_CENTER).token() == "given-token"
            assert await remote.tokens(GRAPH).token() == "given-for-graph"
            async with remote.limit.slot():
                assert coordinator.in_flight == 1
        await until(lambda: coordinator.in_flight == 0)
    coordinator.close()  # once more does no harm
    assert handle.share == SETTINGS.max_in_flight // 4


async def test_the_handle_has_no_token_and_does_not_show_its_nonce() -> None:
    with Coordinator(SETTINGS, host="127.0.0.1") as coordinator:
        handle = coordinator.handle
    assert handle.nonce.reveal() not in repr(handle)
    assert b"given-token" not in pickle.dumps(handle)
    assert len(handle.nonce.reveal()) >= 32


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "0"])
def test_it_never_listens_on_all_addresses(host: str) -> None:
    with pytest.raises(SettingsError, match="stands for all addresses"):
        Coordinator(SETTINGS, host=host).start()


def test_an_address_of_another_machine_is_refused_in_words() -> None:
    with pytest.raises(EngineError, match=r"cannot listen on 192\.0\.2\.1, port any"):
        Coordinator(SETTINGS, host="192.0.2.1").start()


def test_without_credentials_it_does_not_start() -> None:
    with pytest.raises(SettingsError, match="token"):
        Coordinator(Settings(), host="127.0.0.1").start()


def test_it_can_be_used_only_once_it_has_started() -> None:
    coordinator = Coordinator(SETTINGS, host="127.0.0.1")
    with pytest.raises(EngineError, match="has not started"):
        coordinator.handle  # noqa: B018
    with coordinator, pytest.raises(EngineError, match="has started already"):
        coordinator.start()


async def test_a_peer_that_goes_while_it_is_answered_counts_as_gone_after_its_last_answer() -> None:
    """Else what it was just given would be held by nobody."""
    happened: list[str] = []
    news = anyio.Event()

    async def wait_for_news(peer: Peer, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            await news.wait()
        finally:
            happened.append("answered")
        return {}

    def forget(peer: Peer) -> None:
        happened.append("gone")
        news.set()

    limit = AdaptiveLimit(LimitPolicy(), clock=anyio.current_time, sleep=anyio.sleep)
    async with coordinate(limit, {}, AT, calls=Calls({"wait": wait_for_news}, forget)) as handle:
        stream = await connect_raw(handle)
        await stream.send(line(hello=handle.nonce.reveal()))
        await stream.send(line(do="call", name="wait", call=1, facts={}))
        await stream.receive()
        await anyio.sleep(0.05)
        await anyio.aclose_forcefully(stream)
        await until(lambda: "gone" in happened)
    assert happened == ["answered", "gone"]
