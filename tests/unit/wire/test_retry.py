from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.errors import (
    BulkfetchError,
    ConnectionFailedError,
    ConnectionLostError,
    ForeignLinkError,
    HttpStatusError,
    MalformedBodyError,
    NoProgressError,
    SignInError,
    TooManyFilesError,
    UntrustedServerError,
)
from bulkfetch.wire.retry import (
    Attempts,
    RetryBudget,
    RetryPolicy,
    backoff_s,
    hold_s,
    is_failing,
    is_over,
    is_throttled,
    is_too_long,
    may_retry,
    may_wait,
    outage_hold_s,
    retry_after_s,
)

POLICY = RetryPolicy()
NOW = datetime(2021, 6, 30, 12, 0, tzinfo=UTC)


def status(code: int, retry_after_s: float | None = None) -> HttpStatusError:
    return HttpStatusError("", status=code, retry_after_s=retry_after_s)


@pytest.mark.parametrize("code", [408, 500, 502, 503, 504])
def test_a_failing_server_is_asked_as_often_as_the_policy_says(code: int) -> None:
    assert may_retry(status(code), Attempts(7), POLICY)
    assert not may_retry(status(code), Attempts(8), POLICY)


@pytest.mark.parametrize("code", [204, 206, 400, 401, 403, 404, 405, 409, 410, 412, 422, 501])
def test_a_refusal_is_not_asked_again(code: int) -> None:
    assert not may_retry(status(code), Attempts(1), POLICY)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionFailedError("refused"),
        ConnectionLostError("it broke"),
        TooManyFilesError("no more"),
    ],
)
def test_a_broken_connection_is_tried_again(error: BulkfetchError) -> None:
    assert may_retry(error, Attempts(7), POLICY)
    assert not may_retry(error, Attempts(8), POLICY)


def test_a_page_that_does_not_come_is_asked_for_three_times_in_all() -> None:
    assert may_retry(NoProgressError("nothing came"), Attempts(7, stalled=2), POLICY)
    assert not may_retry(NoProgressError("nothing came"), Attempts(3, stalled=3), POLICY)


def test_a_malformed_body_is_asked_for_three_times_in_all() -> None:
    assert may_retry(MalformedBodyError("cut"), Attempts(7, malformed=2), POLICY)
    assert not may_retry(MalformedBodyError("cut"), Attempts(3, malformed=3), POLICY)


@pytest.mark.parametrize(
    "error",
    [
        UntrustedServerError("the server's certificate is not trusted"),
        ForeignLinkError("a redirect"),
        SignInError("no"),
    ],
)
def test_what_will_not_mend_is_not_tried_again(error: BulkfetchError) -> None:
    assert not may_retry(error, Attempts(1), POLICY)


def test_throttled_is_a_429_or_a_503_that_says_how_long() -> None:
    assert is_throttled(status(429))
    assert is_throttled(status(503, 0.0))
    assert not is_throttled(status(503))
    assert not is_throttled(status(500, 5.0))
    assert not is_throttled(NoProgressError(""))


def test_a_throttled_request_waits_again_until_it_was_refused_often_and_nothing_succeeds() -> None:
    assert may_wait(9, 1e6, POLICY)
    assert may_wait(10**6, 899.0, POLICY)
    assert not may_wait(10, 900.0, POLICY)


def test_everybody_is_held_as_long_as_the_server_asks() -> None:
    assert hold_s(57.0, 1, 0.9, POLICY) == 57.0


@pytest.mark.parametrize("asked", [None, 0.0])
def test_everybody_is_held_for_a_while_where_the_server_names_no_wait(asked: float | None) -> None:
    assert hold_s(asked, 1, 0.0, POLICY) == 0.25
    assert hold_s(asked, 3, 0.5, POLICY) == 1.5
    assert hold_s(asked, 1000, 0.999, POLICY) <= 30.0


@given(st.integers(1, 10**9), st.floats(0, 1, exclude_max=True))
def test_backoff_is_drawn_below_a_bound_that_triples_up_to_the_cap(
    attempts: int, draw: float
) -> None:
    bound = 0.1 * 3 ** (attempts - 1) if attempts < 8 else 30.0
    assert 0.0 <= backoff_s(attempts, draw, POLICY) <= min(bound, 30.0)
    assert backoff_s(attempts, 0.0, POLICY) == 0.0
    assert backoff_s(attempts, 0.5, POLICY) == pytest.approx(min(bound, 30.0) / 2)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("57", 57.0),
        (" 57 ", 57.0),
        ("0", 0.0),
        ("000000000000005", 5.0),
        ("3601", 3601.0),
        ("9" * 5000, math.inf),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW + timedelta(days=9000), usegmt=True), 9000 * 86_400.0),
        (format_datetime(NOW, usegmt=True), None),
        (format_datetime(NOW - timedelta(seconds=1), usegmt=True), None),
        *[
            (odd, None)
            for odd in (
                *("-5", "+5", "5.0", "inf", "nan", "1e3", "1_000", "٥", "²", "12, 13", "soon", ""),
                *(
                    "Wed, 99 Jun 2021 12:00:00 GMT",
                    "Wed, 30 Jun 0000 12:00:00 GMT",
                    "30 Jun 2099 12:00:00",
                ),
                *("Wed, 30 Xyz 2021 12:00:00 GMT", "Wed, 30 Jun 2021 99:00:00 GMT"),
            )
        ],
    ],
)
def test_retry_after_is_read_strictly(value: str, seconds: float | None) -> None:
    assert (
        retry_after_s({"retry-after": value, "date": format_datetime(NOW, usegmt=True)}) == seconds
    )


@pytest.mark.parametrize("name", ["retry-after-ms", "x-ms-retry-after-ms"])
def test_milliseconds_win_over_seconds(name: str) -> None:
    assert retry_after_s({name: "1500", "retry-after": "57"}) == 1.5
    assert retry_after_s({name: "soon", "retry-after": "57"}) == 57.0


def test_an_answer_without_a_wait_names_none() -> None:
    assert retry_after_s({}) is None


def test_a_date_is_measured_against_our_clock_where_the_answer_has_none() -> None:
    value = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    wait = retry_after_s({"retry-after": value})
    assert wait is not None
    assert 90 < wait <= 100


@pytest.mark.parametrize("skew", [timedelta(days=-1), timedelta(days=1)])
def test_a_clock_that_is_a_day_off_does_not_change_the_wait(skew: timedelta) -> None:
    now = datetime.now(UTC) + skew
    headers = {
        "date": format_datetime(now, usegmt=True),
        "retry-after": format_datetime(now + timedelta(seconds=30), usegmt=True),
    }
    assert retry_after_s(headers) == 30.0


@given(
    st.text() | st.from_regex("[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT"),
    st.text(),
)
def test_no_retry_after_is_too_odd(value: str, date: str) -> None:
    wait = retry_after_s({"retry-after": value, "date": date})
    assert wait is None or wait >= 0


def test_a_wait_of_more_than_an_hour_is_too_long() -> None:
    assert not is_too_long(None, POLICY)
    assert not is_too_long(3600.0, POLICY)
    assert is_too_long(3600.5, POLICY)
    assert is_too_long(math.inf, POLICY)


# --- Outages.


def test_a_server_that_refuses_one_request_is_not_failing() -> None:
    assert is_failing(status(500))
    assert is_failing(ConnectionLostError("it broke"))
    assert not is_failing(status(404))
    assert not is_failing(MalformedBodyError("cut"))
    assert not is_failing(TooManyFilesError("no more"))


def test_an_outage_holds_everybody_for_longer_and_longer() -> None:
    assert [outage_hold_s(holds, 0.0, POLICY) for holds in (1, 2, 3, 6, 1000)] == [
        0.5,
        1,
        2,
        15,
        15,
    ]
    assert outage_hold_s(1000, 0.999, POLICY) < 30


def test_an_outage_ends_a_run_after_15_minutes_or_after_two_if_nothing_ever_worked() -> None:
    assert not is_over(5, 899.0, POLICY, ever_worked=True)
    assert is_over(5, 900.0, POLICY, ever_worked=True)
    assert not is_over(5, 119.0, POLICY, ever_worked=False)
    assert is_over(5, 120.0, POLICY, ever_worked=False)
    assert not is_over(4, 1e6, POLICY, ever_worked=False)


def test_a_budget_that_is_used_up_ends_the_run_when_nothing_has_succeeded_for_a_while() -> None:
    budget = RetryBudget(size=3, patience_s=60)
    budget.note_success(0.0)
    assert [budget.spend(now) for now in (1.0, 2.0, 3.0, 59.0, 61.0)] == [
        True,
        True,
        True,
        True,
        False,
    ]


def test_ten_successes_pay_for_one_retry() -> None:
    budget = RetryBudget(size=2, give_back=0.125, patience_s=0.0)
    assert [budget.spend(0.0) for _ in range(3)] == [True, True, False]
    for _ in range(8):
        budget.note_success(0.0)
    assert [budget.spend(1.0) for _ in range(2)] == [True, False]


def test_a_budget_does_not_grow_beyond_its_size() -> None:
    budget = RetryBudget(size=1, patience_s=0.0)
    for _ in range(100):
        budget.note_success(0.0)
    assert [budget.spend(1.0) for _ in range(2)] == [True, False]
