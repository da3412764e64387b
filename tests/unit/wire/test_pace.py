from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.wire.pace import (
    Belief,
    Pace,
    PacePolicy,
    Refusal,
    Sent,
    Window,
    explain,
    is_surprising,
    learn,
    pace_after,
    refusal_after,
    return_s,
)

POLICY = PacePolicy()
KNOWN = Belief(least=90.0, most=100.0, wait_s=1.0)


def refused(pace: float, rate: float, burst: float, *, left: float) -> Refusal:
    """What is seen of a server with this rate and burst that had so much left, when it is asked at
    an even pace until it refuses."""
    served_at: list[float] = []
    level, now = left, 0.0
    while level >= 1:
        served_at.append(now)
        now += 1 / pace
        level = min(burst, level - 1 + rate / pace)
    return refusal_after(served_at, now, None)


# --- What refusals show.


def test_one_refusal_leaves_open_what_was_burst_and_what_was_rate() -> None:
    seen = explain([refused(pace=80.0, rate=60.0, burst=10, left=10)])
    assert seen is not None
    least, most = seen
    assert least < 30
    assert most == pytest.approx(80.0, rel=0.05)


def test_two_refusals_after_windows_of_different_length_tell_burst_and_rate_apart() -> None:
    seen = explain([refused(300.0, 60.0, 10, left=10), refused(65.0, 60.0, 10, left=10)])
    assert seen is not None
    least, most = seen
    assert 54 < least <= 61
    assert 60 <= most < 65


@given(
    st.floats(0.5, 6.0),  # windows of faster ones are too short to be measured
    st.integers(1, 200),
    st.lists(st.floats(1.2, 8.0), min_size=1, max_size=3),
)
def test_the_rate_of_a_server_is_among_those_that_explain_its_refusals(
    rate: float, burst: int, paces: list[float]
) -> None:
    seen = explain([refused(pace * rate, rate, burst, left=burst) for pace in paces])
    assert seen is not None
    least, most = seen
    assert least / 1.1 <= rate <= most * 1.1


def test_what_was_served_since_the_server_had_nothing_left_was_refilled() -> None:
    window = Window(0.5, 55)
    assert Refusal((window,)).rates(burst=56) == (0.0, 0.0)
    least, most = Refusal((window,), since_empty=Window(1.5, 90)).rates(burst=56)
    assert least == 60.0
    assert most == pytest.approx(182 / 3)


def test_the_bursts_count_that_explain_refusals_best() -> None:
    """Some others explain these with rates that are a tenth apart: from 3.4 to 4.5."""
    seen = explain([refused(8.0, 4.0, 3, left=3), refused(4.4, 4.0, 3, left=3)])
    assert seen is not None
    assert seen == pytest.approx((3.83, 4.02), rel=0.01)


def test_refusals_that_no_server_explains_are_of_a_limit_that_changed() -> None:
    before, after = refused(62.0, 60.0, 2, left=2), refused(22.0, 20.0, 2, left=2)
    assert explain([before, after]) is None
    belief, kept = learn(KNOWN, [before, after], 1.0, POLICY)
    assert kept == (after,)
    assert belief.strikes == 1
    assert belief.most == pytest.approx(22.0, rel=0.05)


def test_a_first_burst_is_taken_to_be_no_more_than_comes_in_the_wait() -> None:
    belief, _ = learn(None, [Refusal((Window(0.5, 90),))], 1.0, POLICY)
    assert belief.least == 60.0


# --- The pace after a refusal.


def test_the_pace_starts_below_the_likely_rate_and_is_at_the_most_after_the_wait() -> None:
    assert pace_after(KNOWN, 0.0, POLICY) == pytest.approx(0.97 * 90**0.4 * 100**0.6)
    assert pace_after(KNOWN, 1.0, POLICY) == pytest.approx(100.0)
    assert pace_after(KNOWN, 5.0, POLICY) == pytest.approx(200.0)


def test_each_refusal_that_confirms_the_rate_quadruples_the_time_until_the_next() -> None:
    returns = [return_s(Belief(90.0, 100.0, 1.0, strikes), POLICY) for strikes in (1, 2, 3, 4, 9)]
    assert returns == [1.0, 4.0, 16.0, 64.0, 64.0]


def test_a_slow_pace_rises_over_as_many_requests_as_measure_a_rate() -> None:
    assert return_s(Belief(1.0, 2.0, wait_s=1.0), POLICY) == 4.0
    assert return_s(Belief(1.0, 2.0, wait_s=1.0, strikes=2), POLICY) == 16.0
    assert return_s(Belief(1.0, 2.0, wait_s=5.0), POLICY) == 5.0


def test_what_was_confirmed_for_long_is_left_as_slowly() -> None:
    """A bucket of 40 would serve half as much again for so long that its limit seemed gone."""
    confirmed = Belief(9.0, 9.1, wait_s=1.0, strikes=4)
    assert pace_after(confirmed, 64.0 + 32.0, POLICY) == pytest.approx(1.25 * 9.18, rel=0.01)


@given(
    st.floats(0.01, 1e4), st.floats(1, 50), st.floats(1, 60), st.integers(1, 9), st.floats(0, 1e3)
)
def test_the_pace_never_falls_while_nothing_is_refused(
    least: float, factor: float, wait_s: float, strikes: int, used_s: float
) -> None:
    known = Belief(least, least * factor, wait_s, strikes)
    paces = [pace_after(known, used_s * part, POLICY) for part in (0, 0.1, 0.5, 0.99, 1)]
    assert paces[0] > 0
    assert all(later >= before * (1 - 1e-9) for before, later in pairwise(paces))


def test_a_refusal_below_what_was_confirmed_is_a_surprise() -> None:
    confirmed = Belief(98.0, 100.0, wait_s=1.0, strikes=3)
    assert is_surprising(confirmed, 1.0, POLICY)
    assert not is_surprising(confirmed, 10.0, POLICY)
    assert not is_surprising(Belief(90.0, 100.0, wait_s=1.0, strikes=3), 0.1, POLICY)
    assert not is_surprising(Belief(98.0, 100.0, wait_s=1.0), 0.0, POLICY)


# --- The pace.


def send(pace: Pace, now: float, *, was_due: bool = False, on_trial: bool = False) -> Sent:
    return pace.note_sent(now, limit=4.0, on_trial=on_trial, was_due=was_due)


def slowed(rate: float = 10.0, policy: PacePolicy = POLICY) -> Pace:
    """A pace that learned about this rate from a refusal after 20 s of it."""
    pace = Pace(policy)
    for number in range(int(20 * rate)):
        send(pace, number / rate)
        pace.note_answer(latency_s=0.1)
    pace.slow_down(send(pace, 20.0), wait_s=1.0)
    pace.hold(21.0)
    return pace


def test_nothing_is_spaced_once_the_round_trip_is_known_and_nothing_was_refused() -> None:
    pace = Pace(POLICY)
    send(pace, 0.0)
    pace.note_answer(latency_s=0.1)
    for _ in range(100):
        send(pace, 1.0)
    assert pace.wait_s(1.0) <= 0
    assert pace.rate is None


def test_the_first_requests_are_spread_until_the_round_trip_is_known() -> None:
    pace = Pace(POLICY)
    send(pace, 0.0)
    assert pace.wait_s(0.0) == pytest.approx(0.05)
    pace.note_answer(latency_s=0.1)
    send(pace, 0.1)
    assert pace.wait_s(0.1) <= 0


def test_a_refusal_spaces_what_follows_by_the_rate_that_was_served() -> None:
    pace = slowed()
    assert pace.rate == pytest.approx(9.5, rel=0.05)
    send(pace, 22.0, was_due=True)
    assert pace.wait_s(22.0) == pytest.approx(0.1, rel=0.6)


def test_a_refusal_before_anything_was_served_teaches_no_pace() -> None:
    pace = Pace(POLICY)
    pace.slow_down(send(pace, 0.0), wait_s=1.0)
    assert pace.rate is None


def test_what_turns_out_to_be_refused_as_well_was_not_served() -> None:
    """The first of a burst to be told that it is refused need not be the first that was."""
    told, exact = slowed(), slowed()
    for pace, refused_too in ((told, 3), (exact, 0)):
        pace.note_answer(latency_s=0.1)
        sent = [send(pace, 21.5 + number / 100) for number in range(3 + refused_too)]
        last = send(pace, 21.6)
        pace.slow_down(last, wait_s=1.0)
        for each in [last, *sent[3:]]:
            pace.note_refused(each)
    assert told.rate == exact.rate


def test_a_refusal_teaches_nothing_once_all_before_it_were_refused_as_well() -> None:
    pace = Pace(POLICY)
    others, first = [send(pace, 0.0), send(pace, 0.01)], send(pace, 0.02)
    pace.slow_down(first, wait_s=1.0)
    assert pace.rate is not None
    for each in [first, *others]:
        pace.note_refused(each)
    assert pace.rate is None


def test_a_pace_that_is_not_to_be_learned_is_not() -> None:
    assert slowed(policy=PacePolicy(learned=False)).rate is None


def test_a_bound_that_is_gone_is_forgotten_once_it_was_used_and_no_sooner() -> None:
    pace = slowed()
    for second in range(100):
        send(pace, 30.0 + second)
    assert pace.rate == pytest.approx(9.5, rel=0.05)
    now = 200.0
    while pace.rate is not None and now < 300.0:
        now = max(now, now + pace.wait_s(now))
        send(pace, now, was_due=True)
    assert 202.0 < now < 220.0


def test_a_fixed_bound_holds_whatever_was_learned() -> None:
    pace = Pace(PacePolicy(ceiling=2.0))
    assert pace.rate == 2.0
    send(pace, 0.0)
    assert pace.wait_s(0.0) == 0.5
    assert slowed(policy=PacePolicy(ceiling=2.0)).rate == 2.0


def test_a_delay_of_the_event_loop_is_caught_up_but_not_a_pause() -> None:
    pace = Pace(PacePolicy(ceiling=10.0))
    send(pace, 0.0)
    send(pace, 0.13, was_due=True)
    assert pace.wait_s(0.13) == pytest.approx(0.07)
    send(pace, 9.0)
    assert pace.wait_s(9.0) == pytest.approx(0.1)


def test_a_limit_on_trial_is_not_filled_by_a_burst() -> None:
    pace = Pace(POLICY)
    send(pace, 0.0)
    pace.note_answer(latency_s=0.2)
    send(pace, 5.0, on_trial=True)
    assert pace.wait_s(5.0) == pytest.approx(0.05)
