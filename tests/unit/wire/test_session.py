from __future__ import annotations

import gzip
import json
import uuid
from collections.abc import Callable

import anyio
import pytest
from support.fakes import Bench, Reply, Sent, answered, bench, one_after_the_other

from bulkfetch.errors import (
    BulkfetchError,
    ConnectionFailedError,
    ConnectionLostError,
    ForeignLinkError,
    HttpStatusError,
    MalformedBodyError,
    NoProgressError,
    RequestError,
    ServerUnavailableError,
    SignInError,
    TooManyFilesError,
)
from bulkfetch.wire.messages import Answer, Request
from bulkfetch.wire.refusals import advice_on
from bulkfetch.wire.retry import RetryPolicy

ANYTHING = Request("/invoices/D1", (("size", "5"),))


def read(body: bytes) -> str:
    if b"bad" in body:
        raise MalformedBodyError("the body is not JSON")
    return body.decode()


async def get(at: Bench, request: Request = ANYTHING) -> str:
    return await at.session.get(request, read)


def ids(at: Bench, header: str) -> list[str]:
    return [sent.headers[header] for sent in at.transport.sent]


async def error_of(
    answer: Callable[[Sent], Reply], request: Request = ANYTHING
) -> tuple[BulkfetchError, Bench]:
    """Ask once, and return the error it ends with."""
    async with bench(answer) as at:
        try:
            await get(at, request)
        except BulkfetchError as error:
            return error, at
    raise AssertionError("there was no error")


async def test_a_request_carries_the_headers_the_api_wants() -> None:
    async with bench(one_after_the_other(answered(200, b"ok"))) as at:
        assert (
            await at.session.get(Request("/x", headers={"MS-ContinuationToken": "t"}), read) == "ok"
        )
    headers = dict(at.transport.sent[0].headers)
    assert uuid.UUID(headers.pop("MS-RequestId"))
    assert headers == {
        "Accept": "application/json",
        "Accept-Encoding": "gzip",
        "Authorization": "Bearer token-0",
        "MS-Contract-Version": "v1",
        "MS-PartnerCenter-Application": "bulkfetch",
        "MS-CorrelationId": at.session.correlation_id,
        "MS-ContinuationToken": "t",
    }


async def test_retries_keep_the_request_id_and_a_run_its_correlation_id() -> None:
    broken = ConnectionFailedError("it broke")
    answer = one_after_the_other(answered(503), answered(200, b"bad"), broken, answered(200, b"ok"))
    async with bench(answer) as at:
        assert await get(at) == "ok"
        assert await get(at) == "ok"
    assert len(set(ids(at, "MS-RequestId")[:4])) == 1
    assert len(set(ids(at, "MS-RequestId"))) == 2
    assert set(ids(at, "MS-CorrelationId")) == {at.session.correlation_id}
    assert (at.stats.requests, at.stats.retries, at.stats.throttled, at.stats.in_flight) == (
        5,
        3,
        0,
        0,
    )


# --- What is tried again, and how often.


@pytest.mark.parametrize("status", [400, 403, 404, 409, 410, 204, 206, 501])
async def test_a_refusal_is_not_tried_again(status: int) -> None:
    error, at = await error_of(one_after_the_other(answered(status)))
    assert isinstance(error, HttpStatusError)
    assert error.status == status
    assert at.stats.requests == 1
    assert "(1 attempt;" in str(error)


@pytest.mark.parametrize("status", [301, 302, 303, 304, 307, 308])
async def test_a_redirect_is_never_followed(status: int) -> None:
    error, at = await error_of(
        one_after_the_other(answered(status, location="https://elsewhere.test/"))
    )
    assert isinstance(error, ForeignLinkError)
    assert at.stats.requests == 1


@pytest.mark.parametrize(
    "reply",
    [
        answered(500),
        answered(408),
        ConnectionFailedError("refused"),
        ConnectionLostError("it broke"),
    ],
)
async def test_a_failing_request_is_tried_eight_times_with_full_jitter(
    reply: Answer | RequestError,
) -> None:
    error, at = await error_of(lambda sent: reply)
    assert isinstance(error, HttpStatusError if isinstance(reply, Answer) else type(reply))
    assert at.stats.requests == 8
    bounds = [0.1, 0.3, 0.9, 2.7, 8.1, 24.3, 30]
    assert len(at.time.slept) == len(bounds)
    assert all(0 <= slept <= bound for slept, bound in zip(at.time.slept, bounds, strict=True))
    assert len(set(at.time.slept)) == len(bounds)
    assert "8 attempts" in str(error)


@pytest.mark.parametrize("reply", [answered(200, b"bad"), NoProgressError("nothing came")])
async def test_a_body_that_is_malformed_or_does_not_come_is_asked_for_three_times(
    reply: Reply,
) -> None:
    error, at = await error_of(lambda sent: reply)
    assert isinstance(error, MalformedBodyError | NoProgressError)
    assert at.stats.requests == 3


async def test_a_cut_gzip_body_is_asked_for_again() -> None:
    whole = gzip.compress(b"ok")
    replies = [
        answered(200, whole[:-1], content_encoding="gzip"),
        answered(200, whole, content_encoding="gzip"),
    ]
    async with bench(one_after_the_other(*replies)) as at:
        assert await get(at) == "ok"


async def test_an_idle_connection_that_was_given_up_costs_one_free_retry_at_once() -> None:
    async with bench(one_after_the_other(None, answered(200, b"ok"))) as at:
        assert await get(at) == "ok"
    assert at.time.slept == []
    assert (at.stats.requests, at.stats.retries) == (2, 1)
    assert at.transport.sent[0].headers == at.transport.sent[1].headers


async def test_connections_that_are_given_up_every_time_are_a_failure_like_others() -> None:
    error, at = await error_of(lambda sent: None)
    assert isinstance(error, ConnectionLostError)
    assert at.stats.requests == 2 * 8
    assert "16 attempts" in str(error)


async def test_a_dead_server_ends_the_run_soon_however_many_ask() -> None:
    """It ends the run, not one request: the first one to see it ends them all."""
    ends: list[ServerUnavailableError] = []

    async def ask(at: Bench, everybody: anyio.CancelScope) -> None:
        try:
            await get(at)
        except ServerUnavailableError as error:
            ends.append(error)
            everybody.cancel()
        except HttpStatusError:
            pass

    async with (
        bench(lambda sent: answered(500), limit=64) as at,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(64):
            tasks.start_soon(ask, at, tasks.cancel_scope)
    assert "has answered nothing useful for 1" in str(ends[0])
    assert "its last failure: the server answered 500" in str(ends[0])
    assert at.stats.requests <= 64
    assert 120 <= at.time.now < 120 + 30


def down(since: float, until: float) -> Callable[[Sent], Reply]:
    """A server that fails for a while."""
    return lambda sent: answered(503) if since <= sent.at < until else answered(200, b"ok")


async def test_an_outage_of_a_minute_is_survived_with_few_requests() -> None:
    async with bench(down(5, 65), limit=16) as at, anyio.create_task_group() as tasks:
        for _ in range(1500):
            tasks.start_soon(get, at)
    assert at.time.now < 65 + 30 + 20
    assert sum(5 <= sent.at < 65 for sent in at.transport.sent) <= 2 * 16 + 10
    assert at.stats.requests <= 1500 + 2 * 16 + 10


async def test_a_single_request_survives_an_outage_of_a_minute() -> None:
    async with bench(down(5, 65)) as at:
        await get(at)
        await at.time.wait(10)
        assert await get(at) == "ok"


async def test_a_server_that_is_not_reached_for_five_minutes_costs_no_request_its_attempts() -> (
    None
):
    def answer(sent: Sent) -> Reply:
        return ConnectionFailedError("refused") if 5 <= sent.at < 305 else answered(200, b"ok")

    async with bench(answer) as at:
        await get(at)
        await at.time.wait(10)
        assert await get(at) == "ok"
    assert at.stats.requests < 45


@pytest.mark.parametrize(
    "reply", [answered(503), ConnectionFailedError("refused"), ConnectionLostError("it broke")]
)
async def test_a_run_is_given_up_when_the_server_stays_away_for_a_quarter_of_an_hour(
    reply: Reply,
) -> None:
    async with bench(lambda sent: reply if sent.at > 5 else answered(200, b"ok")) as at:
        await get(at)
        await at.time.wait(10)
        with pytest.raises(ServerUnavailableError, match=r"nothing useful for 9\d\d s"):
            await get(at)
    assert at.stats.requests < 150


async def test_pages_that_the_server_cannot_make_are_no_outage() -> None:
    """Nothing else is left to do, so nothing succeeds; yet what was served before still is."""

    def answer(sent: Sent) -> Reply:
        return answered(500) if sent.request.path.startswith("/bad") else answered(200, b"ok")

    async def fail(at: Bench, number: int) -> None:
        with pytest.raises(HttpStatusError):
            await get(at, Request(f"/bad/{number}"))

    async with bench(answer, limit=16) as at:
        await get(at)
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(fail, at, number)
    assert at.time.now < 90
    assert at.stats.requests <= 1 + 8 * 10 + 8 * 10 / 5


async def test_one_request_that_always_fails_does_not_hold_up_a_server_that_works() -> None:
    async def others(at: Bench) -> None:
        for _ in range(300):
            await get(at, Request("/good"))

    def answer(sent: Sent) -> Reply:
        return answered(500) if sent.request.path == "/bad" else answered(200, b"ok")

    async with bench(answer) as at, anyio.create_task_group() as tasks:
        tasks.start_soon(others, at)
        with pytest.raises(HttpStatusError):
            await get(at, Request("/bad"))
        assert sum(sent.request.path == "/bad" for sent in at.transport.sent) == 8
    assert at.time.now < 90


async def test_too_many_open_files_lower_the_limit_and_cost_no_budget() -> None:
    def answer(sent: Sent) -> Reply:
        return TooManyFilesError("no more") if at.transport.in_flight > 6 else answered(200, b"ok")

    async with bench(answer, limit=32) as at, anyio.create_task_group() as tasks:
        for _ in range(500):
            tasks.start_soon(get, at)
    assert at.limit.limit <= 10
    assert at.stats.requests < 550


async def test_a_server_that_asks_for_a_day_ends_the_run_at_once_and_says_when_to_come_back() -> (
    None
):
    error, at = await error_of(lambda sent: answered(429, retry_after="97200"))
    assert isinstance(error, ServerUnavailableError)
    assert "the server asks to wait 27.0 hours; run the same command again after that" in str(error)
    assert at.stats.requests == 1
    error, _ = await error_of(lambda sent: answered(429, retry_after="9" * 400))
    assert "asks to wait for months" in str(error)


# --- The token.


async def test_an_expired_token_is_renewed_once_for_all_who_ask() -> None:
    def answer(sent: Sent) -> Reply:
        return answered(200 if sent.headers["Authorization"] == "Bearer token-1" else 401, b"ok")

    async with bench(answer, limit=64) as at, anyio.create_task_group() as tasks:
        for _ in range(64):
            tasks.start_soon(get, at)
    assert at.tokens.renewed == 1
    assert at.stats.requests <= 2 * 64
    assert at.time.slept == []


async def test_a_token_that_is_refused_when_new_ends_the_run() -> None:
    refused = answered(401, {"code": 400, "description": "Access denied."})
    error, at = await error_of(lambda sent: refused, Request("/invoices"))
    assert isinstance(error, SignInError)
    assert "just issued: the server answered 401 (code 400): Access denied." in str(error)
    assert at.stats.requests == 2
    assert ids(at, "Authorization") == ["Bearer token-0", "Bearer token-1"]


async def test_a_token_that_is_refused_what_only_users_may_see_ends_nothing_else() -> None:
    error, at = await error_of(lambda sent: answered(401), Request("/invoices/D1"))
    assert isinstance(error, HttpStatusError)
    assert "sign in with `bulkfetch login`" in advice_on(error)
    assert ids(at, "Authorization") == ["Bearer token-0", "Bearer token-1"]


async def test_a_token_that_worked_and_was_revoked_before_its_turn_came_is_renewed_again() -> None:
    def answer(sent: Sent) -> Reply:
        if sent.request.path == "/unlucky" and sent.headers["Authorization"] in (
            "Bearer token-0",
            "Bearer token-1",
        ):
            return answered(401)
        return answered(200, b"ok")

    async def others(at: Bench) -> None:
        while True:
            await get(at)

    async with bench(answer) as at, anyio.create_task_group() as tasks:
        tasks.start_soon(others, at)
        assert await get(at, Request("/unlucky")) == "ok"
        tasks.cancel_scope.cancel()
    assert at.tokens.renewed == 2


async def test_failures_of_one_kind_do_not_count_for_another() -> None:
    lost = ConnectionLostError("it broke")
    replies: list[Reply] = [
        answered(500),
        lost,
        answered(200, b"bad"),
        NoProgressError("nothing"),
        lost,
    ]
    async with bench(one_after_the_other(*replies, answered(200, b"ok"))) as at:
        assert await get(at) == "ok"


async def test_a_request_that_is_refused_with_tokens_that_work_for_others_fails_alone() -> None:
    async def others(at: Bench) -> None:
        while True:
            await get(at)

    def answer(sent: Sent) -> Reply:
        return answered(401 if sent.request.path == "/never" else 200, b"ok")

    async with bench(answer) as at, anyio.create_task_group() as tasks:
        tasks.start_soon(others, at)
        await at.time.wait(1)
        with pytest.raises((HttpStatusError, SignInError)) as caught:
            await get(at, Request("/never"))
        tasks.cancel_scope.cancel()
    assert isinstance(caught.value, SignInError | HttpStatusError)
    assert at.tokens.renewed <= 3


async def test_a_token_that_expires_while_a_request_waits_is_renewed_again() -> None:
    """The second refusal is of a token that worked, an hour of failures ago."""
    replies = [answered(401), answered(500), answered(401), answered(200, b"ok")]
    async with bench(one_after_the_other(*replies)) as at:
        assert await get(at) == "ok"
    assert at.tokens.renewed == 2


async def test_a_request_that_waited_at_the_gate_takes_the_token_of_the_moment() -> None:
    replies = [answered(429, retry_after="3000"), answered(200, b"ok")]
    async with bench(one_after_the_other(*replies)) as at, anyio.create_task_group() as tasks:
        tasks.start_soon(get, at)
        await at.time.wait(1)
        at.tokens.renewed = 5
    assert ids(at, "Authorization") == ["Bearer token-0", "Bearer token-5"]


# --- Throttling.


async def test_a_throttled_request_waits_as_long_as_the_server_asked() -> None:
    async with bench(
        one_after_the_other(answered(429, retry_after="57"), answered(200, b"ok"))
    ) as at:
        assert await get(at) == "ok"
    first, second = (sent.at for sent in at.transport.sent)
    assert second == pytest.approx(first + 0.1 + 57)
    assert (at.stats.throttled, at.stats.retries) == (1, 1)


@pytest.mark.parametrize(
    ("retry_after", "least"), [("30", 30.0), (None, 0.25), ("soon", 0.25), ("0", 0.25)]
)
async def test_a_throttled_answer_holds_everybody(retry_after: str | None, least: float) -> None:
    asked = 0

    def answer(sent: Sent) -> Reply:
        nonlocal asked
        asked += 1
        headers = {"retry_after": retry_after} if retry_after else {}
        return answered(429, **headers) if asked == 3 else answered(200, b"ok")

    async with bench(answer, limit=4) as at, anyio.create_task_group() as tasks:
        for _ in range(30):
            tasks.start_soon(get, at)
    refused_at = 0.1
    after = sorted(sent.at for sent in at.transport.sent if sent.at > refused_at)
    assert after[0] >= refused_at + least
    assert at.stats.throttled == 1
    asked_for = "server says come back in"
    assert at.stats.held_by == (asked_for if least > 1 else "throttled, resuming in")


async def test_a_burst_of_refusals_halves_the_limit_once() -> None:
    answer = one_after_the_other(*[answered(429)] * 4, answered(200, b"ok"))
    async with bench(answer, limit=4) as at, anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(get, at)
        await at.time.wait(0.11)
        assert at.stats.throttled == 4
        assert at.limit.limit in (
            1,
            2,
        )  # half of those that were in flight when the first was refused


@pytest.mark.parametrize("hidden", [1, 4, 8, 16])
async def test_a_hidden_limit_of_the_server_costs_few_refused_requests(hidden: int) -> None:
    """A server that takes so many at once, and a client that may send 32."""

    def answer(sent: Sent) -> Reply:
        return (
            answered(429, retry_after="1")
            if at.transport.in_flight > hidden
            else answered(200, b"ok")
        )

    async with bench(answer, limit=32) as at, anyio.create_task_group() as tasks:
        for _ in range(1500):
            tasks.start_soon(get, at)
    assert at.stats.requests == 1500 + at.stats.throttled
    assert at.stats.throttled < 0.02 * at.stats.requests
    assert at.time.now < 1.5 * (1500 * 0.1 / hidden) + 10


async def test_throttled_answers_do_not_use_up_the_attempts() -> None:
    replies = [answered(429, retry_after="1")] * 50 + [answered(200, b"ok")]
    async with bench(one_after_the_other(*replies)) as at:
        assert await get(at) == "ok"
    assert at.stats.throttled == 50


async def test_attempts_are_counted_apart_from_throttled_answers() -> None:
    replies = [answered(500), answered(429)] * 7 + [answered(200, b"ok")]
    async with bench(one_after_the_other(*replies)) as at:
        assert await get(at) == "ok"


@pytest.mark.parametrize("headers", [{"retry_after": "57"}, {}, {"retry_after": "1"}])
async def test_a_storm_of_throttled_answers_ends_after_a_quarter_of_an_hour(
    headers: dict[str, str],
) -> None:
    error, at = await error_of(lambda sent: answered(429, **headers))
    assert isinstance(error, ServerUnavailableError)
    assert "the server has throttled every request for 9" in str(error)
    assert 900 <= at.time.now < 1000
    assert at.stats.requests < 1000


async def test_a_storm_without_waits_is_asked_less_and_less() -> None:
    def answer(sent: Sent) -> Reply:
        return answered(429) if 5 <= sent.at < 125 else answered(200, b"ok")

    async with bench(answer, limit=16) as at, anyio.create_task_group() as tasks:
        for _ in range(1500):
            tasks.start_soon(get, at)
    assert sum(5 <= sent.at < 125 for sent in at.transport.sent) <= 2 * 16 + 20
    assert at.time.now < 125 + 30 + 30


async def test_a_failure_after_many_throttled_answers_waits_as_a_first_one() -> None:
    replies = [answered(429, retry_after="1")] * 8 + [answered(500), answered(200, b"ok")]
    async with bench(one_after_the_other(*replies)) as at:
        assert await get(at) == "ok"
    assert max(at.time.slept) <= 0.1


async def test_a_server_that_asks_for_long_waits_is_given_ten_of_them() -> None:
    error, at = await error_of(lambda sent: answered(429, retry_after="3600"))
    assert isinstance(error, ServerUnavailableError)
    assert at.stats.requests == 10
    assert 9 * 3600 <= at.time.now < 9.1 * 3600


async def test_a_storm_does_not_end_while_others_succeed() -> None:
    def answer(sent: Sent) -> Reply:
        if sent.request.path == "/slow":
            return answered(429, retry_after="30") if sent.at < 3000 else answered(200, b"ok")
        return answered(200, b"ok")

    async def others(at: Bench) -> None:
        while at.time.now < 3000:
            await get(at)
            await at.time.wait(100)

    async with bench(answer) as at, anyio.create_task_group() as tasks:
        tasks.start_soon(others, at)
        assert await get(at, Request("/slow")) == "ok"


# --- What errors say.


@pytest.mark.parametrize(
    ("status", "body", "code", "words"),
    [
        (
            400,
            {
                "code": 3000,
                "description": "One or more properties.",
                "data": ["offset"],
                "source": "PartnerFD",
            },
            "3000",
            "One or more properties.",
        ),
        (
            404,
            b'{ "statusCode": 404, "message": "Resource not found" }',
            None,
            "Resource not found",
        ),
        (400, {"message": "The request is invalid."}, None, "The request is invalid."),
        (
            400,
            {
                "error": "invalid_grant",
                "error_description": "AADSTS70002: Expired.",
                "error_codes": [70002],
            },
            "invalid_grant",
            "AADSTS70002: Expired.",
        ),
        (403, {"error": {"code": "Forbidden", "message": "No right."}}, "Forbidden", "No right."),
        (500, b"", None, None),
        (500, b"<html>Bad gateway</html>", None, "an HTML page of a proxy or portal"),
        (500, b"[]", None, None),
        (500, b'"\xff"', None, '"\ufffd"'),
        (
            400,
            b'\xef\xbb\xbf{"code":900126,"description":"Cannot parse enum."}',
            "900126",
            "Cannot parse enum.",
        ),
        (400, '{"code":1,"description":"Sixteen"}'.encode("utf-16"), "1", "Sixteen"),
    ],
)
async def test_an_error_says_what_the_api_said(
    status: int, body: object, code: str | None, words: str | None
) -> None:
    error, at = await error_of(lambda sent: answered(status, body))
    assert isinstance(error, HttpStatusError)
    assert (error.status, error.code, error.description) == (status, code, words)
    assert f"the server answered {status}" in str(error)
    for said in (code, words):
        assert said is None or said in str(error)
    assert f"MS-RequestId {ids(at, 'MS-RequestId')[0]}" in str(error)
    assert f"MS-CorrelationId {at.session.correlation_id}" in str(error)
    assert "GET /invoices/D1" in str(error)


async def test_an_error_body_is_read_compressed_too() -> None:
    body = gzip.compress(json.dumps({"code": 1000, "description": "Not found."}).encode())
    error, _ = await error_of(lambda sent: answered(404, body, content_encoding="gzip"))
    assert "(code 1000): Not found." in str(error)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"code":1,"description":"' + b"x" * 70_000 + b'"}', id="large"),
        pytest.param(
            gzip.compress(b'{"code":1,"description":"' + b"x" * 70_000 + b'"}'), id="compressed"
        ),
        pytest.param(gzip.compress(b'{"code":1}')[:-1], id="damaged"),
    ],
)
async def test_an_error_body_that_is_large_or_damaged_is_left_alone(body: bytes) -> None:
    coding = {"content_encoding": "gzip"} if body[0] == 0x1F else {}
    error, _ = await error_of(lambda sent: answered(404, body, **coding))
    assert isinstance(error, HttpStatusError)
    assert error.code is None


async def test_control_characters_of_the_server_do_not_reach_the_terminal() -> None:
    fault = {
        "code": "7\r\nX",
        "description": "a\x1b[2J\x07b\r\nINFO all is well \u202e \x9b \x00 c",
    }
    error, _ = await error_of(lambda sent: answered(400, fault))
    assert all(character.isprintable() for character in str(error))
    assert "INFO all is well" in str(error)


async def test_long_words_of_the_server_are_cut() -> None:
    error, _ = await error_of(
        lambda sent: answered(400, {"code": "9" * 500, "description": "x" * 5000})
    )
    assert len(str(error)) < 700


@pytest.mark.parametrize(
    "reply",
    [answered(401), answered(403), answered(500), answered(429), answered(200, b"bad"), None],
)
async def test_no_error_holds_the_token(reply: Reply) -> None:
    error: BaseException | None
    error, _ = await error_of(lambda sent: reply)
    while error is not None:
        assert "token-" not in f"{error!s} {error!r} {error.args!r} {vars(error)!r}"
        error = error.__cause__ or error.__context__


async def test_a_token_that_the_server_repeats_is_not_shown() -> None:
    error, _ = await error_of(
        lambda sent: answered(403, {"code": 1, "description": "no right for token-0 at all"})
    )
    assert "no right for *** at all" in str(error)


# --- Leaving.


async def test_a_cancelled_request_gives_its_place_back() -> None:
    async with bench(lambda sent: answered(200, b"ok"), limit=1, latency=lambda: 10.0) as at:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(get, at)
                await at.time.wait(1)
                scope.cancel()
        assert at.limit.in_flight == at.stats.in_flight == 0
        assert await get(at) == "ok"


async def test_a_bug_in_reading_is_not_taken_for_a_bad_answer() -> None:
    def buggy(body: bytes) -> str:
        raise ZeroDivisionError

    async with bench(lambda sent: answered(200, b"ok")) as at:
        with pytest.raises(ZeroDivisionError):
            await at.session.get(ANYTHING, buggy)
    assert at.stats.requests == 1


async def test_fewer_attempts_can_be_asked_for() -> None:
    async with bench(lambda sent: answered(500), policy=RetryPolicy(max_attempts=2)) as at:
        with pytest.raises(HttpStatusError):
            await get(at)
    assert at.stats.requests == 2


async def test_requests_that_wait_for_a_token_are_counted_while_they_wait() -> None:
    seen: list[int] = []
    answer = one_after_the_other(answered(401), answered(200, b"ok"))
    async with bench(answer) as at:
        at.tokens.meanwhile = lambda: seen.append(at.stats.signing_in)
        await get(at)
    assert seen == [1]
    assert at.stats.signing_in == 0
