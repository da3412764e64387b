from __future__ import annotations

import gc
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, RemoteDisconnected
from itertools import chain
from pathlib import Path

import obstore
import pytest
from obstore.exceptions import BaseError, GenericError
from support.servers.wire import unused_port
from support.stores.objectservers import AzureServer, ObjectServer, S3Server, opened
from support.stores.storeproxy import (
    SERVER_BUSY,
    SLOW_DOWN,
    CutAnswer,
    Decide,
    Delay,
    DropAnswer,
    Fault,
    FaultyProxy,
    ResetBefore,
    ResetInRequest,
    Seen,
    Slow,
    Stall,
    Status,
    at_random,
    azure_error,
    no_fault,
    s3_error,
    throttle,
)

pytestmark = pytest.mark.slow  # these test what tests use

MIB = 1 << 20


def first(fault: Fault) -> Decide:
    """Decide for the first request."""
    return lambda seen: fault if seen.number == 1 else None


def always(fault: Fault) -> Decide:
    return lambda seen: fault


def seen(number: int, path: str = "/lake/x", attempt: int = 1) -> Seen:
    return Seen(number, "PUT", path, {}, {}, attempt, attempt)


def test_what_is_asked_without_a_fault_passes(object_server: ObjectServer, container: str) -> None:
    content = os.urandom(12 * MIB)
    with FaultyProxy(object_server.port) as proxy:
        store = opened(object_server, container, proxy.port)

        obstore.put(store, "a é+%/small", b"small")
        with obstore.open_writer(store, "big", buffer_size=5 * MIB) as writer:
            writer.write(content)
        obstore.copy(store, "a é+%/small", "copy")

        assert bytes(obstore.get(store, "big").bytes()) == content
        assert bytes(obstore.get_range(store, "big", start=5, length=7)) == content[5:12]
        assert obstore.head(store, "copy")["size"] == 5
        assert {found["path"] for found in obstore.list(store).collect()} == {
            "a é+%/small",
            "big",
            "copy",
        }
        obstore.delete(store, ["a é+%/small", "copy"])

    assert object_server.names(container) == {"big": len(content)}
    assert {entry.fault for entry in proxy.log} == {None}
    assert all(entry.status is not None and entry.status < 300 for entry in proxy.log)


def test_the_log_tells_what_was_asked_in_order(s3_server: S3Server) -> None:
    s3_server.create("logged")
    with FaultyProxy(
        s3_server.port, lambda seen: DropAnswer() if seen.attempt == 2 else None
    ) as proxy:
        store = opened(s3_server, "logged", proxy.port)
        obstore.put(store, "a b", b"1")
        with pytest.raises(GenericError):
            obstore.put(store, "a b", b"2")
        obstore.list(store, prefix="x").collect()
        with pytest.raises(GenericError):
            obstore.list(store, prefix="y").collect()

    log = proxy.log
    assert [(entry.seen.number, entry.seen.method, entry.seen.path) for entry in log] == [
        (1, "PUT", "/logged/a%20b"),
        (2, "PUT", "/logged/a%20b"),
        (3, "GET", "/logged"),
        (4, "GET", "/logged"),
    ]
    assert [(entry.seen.attempt, entry.seen.repeat) for entry in log] == [
        (1, 1),
        (2, 2),
        (1, 1),
        (2, 1),
    ]
    assert [entry.seen.query.get("prefix") for entry in log] == [None, None, "x/", "y/"]
    assert [entry.fault for entry in log] == [None, DropAnswer(), None, DropAnswer()]
    assert [entry.status for entry in log] == [200] * 4
    assert log[0].seen.headers["host"] == f"127.0.0.1:{proxy.port}"


def test_the_store_gets_the_head_as_it_was_sent(
    object_server: ObjectServer, container: str
) -> None:
    """Azure's signature covers most of it; this one would be refused."""
    with FaultyProxy(object_server.port) as proxy:
        store = opened(object_server, container, proxy.port)
        obstore.put(store, "x", b"x", attributes={"Content-Type": "a/b", "meta": "data"})

        assert obstore.get(store, "x").attributes["meta"] == "data"


@pytest.mark.parametrize(
    "fault", [ResetBefore(), Stall(0.05), SLOW_DOWN, SERVER_BUSY], ids=lambda fault: str(fault)[:9]
)
def test_what_is_not_forwarded_is_not_stored(
    fault: Fault, object_server: ObjectServer, container: str
) -> None:
    with FaultyProxy(object_server.port, first(fault)) as proxy:
        store = opened(object_server, container, proxy.port)
        with pytest.raises(GenericError):
            obstore.put(store, "x", os.urandom(3 * MIB))
        assert object_server.names(container) == {}

        obstore.put(store, "x", b"again")

    assert object_server.names(container) == {"x": 5}
    assert [entry.fault for entry in proxy.log] == [fault, None]


def test_a_request_that_breaks_off_is_not_stored(
    object_server: ObjectServer, container: str
) -> None:
    with FaultyProxy(object_server.port, first(ResetInRequest(0.7))) as proxy:
        store = opened(object_server, container, proxy.port)
        with pytest.raises(GenericError):
            obstore.put(store, "x", os.urandom(3 * MIB))
        time.sleep(0.2)
        assert object_server.names(container) == {}

        obstore.put(store, "x", b"again")

    assert object_server.names(container) == {"x": 5}
    assert proxy.log[0].status is None


def test_a_request_without_a_body_breaks_off_in_its_head(
    object_server: ObjectServer, container: str
) -> None:
    object_server.write(container, "x", b"x")
    with FaultyProxy(object_server.port, always(ResetInRequest())) as proxy:
        with pytest.raises(GenericError):
            obstore.head(opened(object_server, container, proxy.port), "x")
        connection = HTTPConnection("127.0.0.1", proxy.port, timeout=5)
        connection.request("DELETE", f"/{container}/x")
        with pytest.raises(ConnectionResetError):
            connection.getresponse()
        connection.close()

    assert object_server.names(container) == {"x": 1}


def test_what_is_stored_before_the_answer_is_dropped_is_there(
    object_server: ObjectServer, container: str
) -> None:
    with FaultyProxy(object_server.port, always(DropAnswer())) as proxy:
        with pytest.raises(GenericError):
            obstore.put(opened(object_server, container, proxy.port), "x", b"stored")

        assert object_server.read(container, "x") == b"stored"
        with pytest.raises(GenericError):
            obstore.delete(opened(object_server, container, proxy.port), "x")

    assert object_server.names(container) == {}
    assert len(proxy.log) == 2


def test_a_dropped_answer_may_end_in_a_reset_or_in_a_close(s3_server: S3Server) -> None:
    s3_server.create("dropped")
    with FaultyProxy(s3_server.port, lambda seen: DropAnswer(closed=seen.number == 2)) as proxy:
        for expected in (ConnectionResetError, RemoteDisconnected):
            connection = HTTPConnection("127.0.0.1", proxy.port, timeout=5)
            connection.request("PUT", "/dropped/x", body=b"x")
            with pytest.raises(ConnectionResetError) as caught:
                connection.getresponse()
            connection.close()
            assert caught.type is expected

    assert s3_server.names("dropped") == {"x": 1}


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_an_answer_breaks_off(share: float, object_server: ObjectServer, container: str) -> None:
    content = os.urandom(3 * MIB)
    object_server.write(container, "x", content)
    got = bytearray()
    with FaultyProxy(object_server.port, always(CutAnswer(share))) as proxy:
        answer = obstore.get(opened(object_server, container, proxy.port), "x")
        with pytest.raises(BaseError):
            got.extend(chain.from_iterable(map(bytes, answer.stream(min_chunk_size=1))))

    assert content.startswith(got)
    assert len(got) <= min(int(share * len(content)), len(content) - 1)
    assert proxy.log[0].status == 200


def test_an_answer_without_a_body_breaks_off_in_its_head(
    object_server: ObjectServer, container: str
) -> None:
    with (
        FaultyProxy(object_server.port, always(CutAnswer(0.5))) as proxy,
        pytest.raises(GenericError),
    ):
        obstore.put(opened(object_server, container, proxy.port), "x", b"stored")

    assert object_server.names(container) == {"x": 6}


def test_a_store_that_stalls_longer_than_the_client_waits_times_out(
    object_server: ObjectServer, container: str
) -> None:
    with FaultyProxy(object_server.port, first(Stall(60))) as proxy:
        store = opened(object_server, container, proxy.port, timeout="300ms")
        began = time.monotonic()
        with pytest.raises(GenericError, match="error sending request"):
            obstore.put(store, "x", b"x")
        assert 0.2 < time.monotonic() - began < 10

    assert time.monotonic() - began < 10


def test_an_answer_of_the_proxy_is_as_told(s3_server: S3Server) -> None:
    fault = Status(503, b"<Error/>", retry_after=7, headers={"x-ms-error-code": "ServerBusy"})
    with FaultyProxy(s3_server.port, always(fault)) as proxy:
        connection = HTTPConnection("127.0.0.1", proxy.port, timeout=5)
        for method in ("PUT", "HEAD", "GET"):
            connection.request(method, "/x", body=b"body" if method == "PUT" else None)
            answer = connection.getresponse()

            assert (answer.status, answer.reason) == (503, "Service Unavailable")
            assert (answer.headers["Retry-After"], answer.headers["x-ms-error-code"]) == (
                "7",
                "ServerBusy",
            )
            assert answer.read() == (b"" if method == "HEAD" else b"<Error/>")
        connection.close()

    assert [entry.status for entry in proxy.log] == [503] * 3


def test_errors_have_the_form_of_their_store() -> None:
    assert b"<Code>SlowDown</Code>" in SLOW_DOWN.body
    assert SERVER_BUSY.headers["x-ms-error-code"] == "ServerBusy"
    assert s3_error(500, "InternalError", 2).retry_after == 2
    assert azure_error(500, "InternalError").code == 500


def test_a_slow_connection_takes_its_time_both_ways(
    object_server: ObjectServer, container: str
) -> None:
    with FaultyProxy(object_server.port, always(Slow(400_000))) as proxy:
        store = opened(object_server, container, proxy.port)
        began = time.monotonic()
        obstore.put(store, "x", b"x" * 200_000)
        put_s = time.monotonic() - began
        content = bytes(obstore.get(store, "x").bytes())
        both_s = time.monotonic() - began

    assert content == b"x" * 200_000
    assert put_s > 0.45
    assert both_s - put_s > 0.45


def test_a_store_that_is_further_away_answers_later(
    object_server: ObjectServer, container: str
) -> None:
    with FaultyProxy(object_server.port, always(Delay(0.2))) as proxy:
        store = opened(object_server, container, proxy.port)
        began = time.monotonic()
        obstore.put(store, "x", b"x")

    assert time.monotonic() - began > 0.2


def test_a_bucket_of_tokens_lets_a_burst_pass_and_then_a_rate() -> None:
    now = 100.0
    decide = throttle(2, 3, clock=lambda: now)

    assert [decide(seen(number)) for number in range(5)] == [None, None, None, SLOW_DOWN, SLOW_DOWN]
    now += 0.5
    assert [decide(seen(number)) for number in range(2)] == [None, SLOW_DOWN]
    now += 60
    assert [decide(seen(number)) for number in range(4)] == [None, None, None, SLOW_DOWN]


def test_a_store_that_throttles_answers_some(object_server: ObjectServer, container: str) -> None:
    with FaultyProxy(object_server.port, throttle(0.001, 5)) as proxy:
        store = opened(object_server, container, proxy.port)
        for number in range(5):
            obstore.put(store, str(number), b"")
        with pytest.raises(GenericError, match=r"SlowDown|503"):
            obstore.put(store, "5", b"")

    assert len(object_server.names(container)) == 5


def test_faults_at_random_are_alike_in_every_order_and_differ_by_seed() -> None:
    requests = [
        seen(number, path=f"/lake/{number % 100}", attempt=number // 100) for number in range(1000)
    ]

    def drawn(seed: int, requests: list[Seen]) -> dict[int, Fault | None]:
        decide = at_random(seed, 0.3, ResetBefore(), DropAnswer())
        return {request.number: decide(request) for request in requests}

    ones = drawn(1, requests)
    assert ones == drawn(1, requests[::-1])
    assert ones != drawn(2, requests)
    assert 250 < sum(fault is not None for fault in ones.values()) < 350
    assert set(ones.values()) == {None, ResetBefore(), DropAnswer()}
    assert set(drawn(1, requests).values()) - set(map(at_random(1, 0, DropAnswer()), requests)) == {
        ResetBefore(),
        DropAnswer(),
    }


def test_a_client_that_retries_gets_through_faults_at_random(
    object_server: ObjectServer, container: str
) -> None:
    faults = at_random(
        3,
        0.3,
        ResetBefore(),
        ResetInRequest(),
        DropAnswer(),
        CutAnswer(),
        s3_error(500, "InternalError"),
    )
    with FaultyProxy(object_server.port, faults) as proxy:
        store = opened(object_server, container, proxy.port)

        def put(number: int) -> None:
            for _ in range(50):
                try:
                    obstore.put(store, f"{number}", f"{number}".encode() * 1000)
                except GenericError:
                    continue
                return

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(put, range(100)))

    assert object_server.names(container) == {
        f"{number}": 1000 * len(f"{number}") for number in range(100)
    }
    assert len({type(entry.fault) for entry in proxy.log}) == 6
    assert [entry.seen.number for entry in proxy.log] == list(range(1, len(proxy.log) + 1))


@pytest.mark.parametrize(
    "fault", [None, SLOW_DOWN, DropAnswer(), ResetInRequest()], ids=lambda fault: str(fault)[:9]
)
def test_a_body_in_chunks_passes_or_breaks_off(fault: Fault | None, s3_server: S3Server) -> None:
    container = f"chunks-{str(fault)[:4].lower()}"
    s3_server.create(container)
    with FaultyProxy(s3_server.port, always(fault) if fault else no_fault) as proxy:
        connection = HTTPConnection("127.0.0.1", proxy.port, timeout=5)
        try:
            connection.request(
                "PUT", f"/{container}/x", body=iter([b"one ", b"two"]), encode_chunked=True
            )
            status: int | None = connection.getresponse().status
        except ConnectionResetError:
            status = None
        connection.close()

    assert status == (503 if fault is SLOW_DOWN else 200 if fault is None else None)
    assert ("x" in s3_server.names(container)) == (fault in (None, DropAnswer()))


def test_a_client_that_waits_to_be_told_to_go_on_is(s3_server: S3Server) -> None:
    s3_server.create("expects")
    with FaultyProxy(s3_server.port) as proxy:
        connection = HTTPConnection("127.0.0.1", proxy.port, timeout=5)
        connection.putrequest("PUT", "/expects/x")
        connection.putheader("Expect", "100-continue")
        connection.putheader("Content-Length", "4")
        connection.endheaders()
        assert connection.sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.send(b"body")
        assert connection.getresponse().status == 200
        connection.close()

    assert s3_server.read("expects", "x") == b"body"


def test_a_connection_serves_many_requests_if_the_store_keeps_it(azure_server: AzureServer) -> None:
    """Azurite does; moto closes each, and so does the proxy."""
    with FaultyProxy(
        azure_server.port, lambda seen: SERVER_BUSY if seen.number % 2 else None
    ) as proxy:
        connection = HTTPConnection("127.0.0.1", proxy.port, timeout=5)
        connection.connect()
        kept = connection.sock
        for _ in range(6):
            connection.request("PUT", "/devstoreaccount1/lake/x", body=b"nobody signed this")
            connection.getresponse().read()
            assert connection.sock is kept
        connection.close()

    assert [entry.status for entry in proxy.log] == [503, 400] * 3


@pytest.mark.parametrize(
    "ending", ["idle", "in the middle of a request", "stalled", "nothing asked"]
)
def test_a_proxy_ends_with_connections_open_and_leaves_nothing(
    ending: str, s3_server: S3Server
) -> None:
    threads, files = threading.active_count(), open_files()
    began = time.monotonic()
    with FaultyProxy(
        s3_server.port, always(Stall(60)) if ending == "stalled" else no_fault
    ) as proxy:
        connection = HTTPConnection("127.0.0.1", proxy.port, timeout=5)
        asked(connection, ending)
    connection.close()
    gc.collect()

    assert (threading.active_count(), open_files()) == (threads, files)
    assert time.monotonic() - began < 5


def asked(connection: HTTPConnection, ending: str) -> None:
    connection.connect()
    if ending == "idle":
        connection.request("GET", "/")
        connection.getresponse().read()
    elif ending == "stalled":
        connection.request("GET", "/")
    elif ending == "in the middle of a request":
        connection.putrequest("PUT", "/lake/x")
        connection.putheader("Content-Length", "100")
        connection.endheaders(b"half")
    time.sleep(0.05)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_store_that_is_not_there_is_a_reset() -> None:
    with FaultyProxy(unused_port()) as proxy:
        connection = HTTPConnection("127.0.0.1", proxy.port, timeout=5)
        connection.request("GET", "/")
        with pytest.raises(ConnectionResetError):
            connection.getresponse()
        connection.close()

    assert proxy.log[0].status is None


def test_a_decision_that_fails_fails_the_test(s3_server: S3Server) -> None:
    def decide(seen: Seen) -> Fault | None:
        raise LookupError(seen.path)

    def ask(proxy: FaultyProxy) -> None:
        connection = HTTPConnection("127.0.0.1", proxy.port, timeout=5)
        connection.request("GET", "/asked")
        with pytest.raises(ConnectionResetError):
            connection.getresponse()
        connection.close()

    with pytest.raises(LookupError, match="/asked"), FaultyProxy(s3_server.port, decide) as proxy:
        ask(proxy)


def test_decisions_may_be_replaced(s3_server: S3Server) -> None:
    s3_server.create("replaced")
    with FaultyProxy(s3_server.port, always(SLOW_DOWN)) as proxy:
        store = opened(s3_server, "replaced", proxy.port)
        with pytest.raises(GenericError):
            obstore.put(store, "x", b"")
        proxy.decide = no_fault
        obstore.put(store, "x", b"")

    assert s3_server.names("replaced") == {"x": 0}
