from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.wire.pace import Pace, PacePolicy, Refusal, learn_refusal, pace_after

POLICY = PacePolicy()


def refusal(
    elapsed_s: float, before: Refusal | None = None, rate: float = 100.0, wait_s: float = 0.0
) -> Refusal:
    return learn_refusal(before, rate=rate, elapsed_s=elapsed_s, wait_s=wait_s, policy=POLICY)


# --- The decisions.


@pytest.mark.parametrize(
    ("elapsed_s", "start"), [(0.0, 60.0), (1.0, 80.0), (9.0, 96.0), (39.0, 99.0)]
)
def test_the_longer_a_rate_was_served_the_less_it_goes_down(elapsed_s: float, start: float) -> None:
    assert refusal(elapsed_s).start == pytest.approx(start)


def test_what_was_refused_is_reached_again_after_four_times_the_wait_that_it_cost() -> None:
    assert refusal(1.0).return_s == 4.0
    assert refusal(1.0, wait_s=57.0).return_s == 228.0


def test_each_refusal_at_about_the_same_rate_doubles_the_time_until_the_next_trial() -> None:
    first = refusal(1.0)
    second = refusal(1.0, first, rate=110.0)
    assert (second.strikes, second.return_s) == (2, 8.0)
    assert refusal(1.0, second, rate=50.0).strikes == 1
    many = first
    for _ in range(50):
        many = refusal(1.0, many)
    assert many.return_s == 4.0 * 16


def test_the_pace_rises_to_what_was_refused_and_then_away_from_it() -> None:
    known = Refusal(rate=100.0, start=80.0, return_s=10.0)
    assert [pace_after(known, seconds) for seconds in (0.0, 5.0, 10.0)] == [80.0, 90.0, 100.0]
    assert pace_after(known, 11.0) == pytest.approx(101.0)
    assert pace_after(known, 20.0) == pytest.approx(200.0)


@given(st.floats(0, 1e4), st.floats(0.1, 1e4), st.floats(0, 1e3))
def test_the_pace_never_falls_while_nothing_is_refused(
    elapsed_s: float, rate: float, step_s: float
) -> None:
    known = refusal(elapsed_s, rate=rate)
    assert 0 < pace_after(known, 0.0) <= pace_after(known, step_s) <= pace_after(known, 2 * step_s)


# --- The pace.


def test_nothing_is_spaced_before_anything_was_refused() -> None:
    pace = Pace(POLICY)
    for _ in range(100):
        pace.note_sent(1.0, limit=4.0, on_trial=False, was_due=False)
    assert pace.wait_s(1.0) <= 0
    assert pace.rate(1.0) is None


def test_a_refusal_spaces_what_follows_by_the_rate_of_answers() -> None:
    pace = Pace(POLICY)
    pace.note_sent(0.0, limit=4.0, on_trial=False, was_due=False)
    for number in range(1, 200):
        pace.note_answer(number / 10, latency_s=0.1)
    pace.note_throttled(20.0, reopens_at=21.0, too_fast=True)
    assert pace.rate(21.0) == pytest.approx(10.0 * (1 - 0.4 / 21), rel=0.03)
    pace.note_sent(22.0, limit=4.0, on_trial=False, was_due=True)
    assert pace.wait_s(22.0) == pytest.approx(0.1, rel=0.6)


def test_a_refusal_before_any_answer_teaches_no_pace() -> None:
    pace = Pace(POLICY)
    pace.note_throttled(1.0, reopens_at=2.0, too_fast=True)
    assert pace.rate(2.0) is None


def test_a_bound_that_is_gone_is_forgotten() -> None:
    pace = Pace(POLICY)
    pace.note_sent(0.0, limit=4.0, on_trial=False, was_due=False)
    for number in range(1, 50):
        pace.note_answer(number / 10, latency_s=0.1)
    pace.note_throttled(5.0, reopens_at=5.0, too_fast=True)
    pace.note_answer(6.0, latency_s=0.1)
    assert pace.rate(6.0) is not None
    pace.note_answer(60.0, latency_s=0.1)
    assert pace.rate(60.0) is None


def test_a_fixed_bound_holds_whatever_was_learned() -> None:
    pace = Pace(PacePolicy(ceiling=2.0))
    assert pace.rate(0.0) == 2.0
    pace.note_sent(0.0, limit=4.0, on_trial=False, was_due=False)
    assert pace.wait_s(0.0) == 0.5


def test_a_delay_of_the_event_loop_is_caught_up_but_not_a_pause() -> None:
    pace = Pace(PacePolicy(ceiling=10.0))
    pace.note_sent(0.0, limit=4.0, on_trial=False, was_due=False)
    pace.note_sent(0.13, limit=4.0, on_trial=False, was_due=True)
    assert pace.wait_s(0.13) == pytest.approx(0.07)
    pace.note_sent(9.0, limit=4.0, on_trial=False, was_due=False)
    assert pace.wait_s(9.0) == pytest.approx(0.1)


def test_a_limit_on_trial_is_not_filled_by_a_burst() -> None:
    pace = Pace(POLICY)
    pace.note_sent(0.0, limit=4.0, on_trial=False, was_due=False)
    pace.note_answer(0.2, latency_s=0.2)
    pace.note_sent(5.0, limit=4.0, on_trial=True, was_due=False)
    assert pace.wait_s(5.0) == pytest.approx(0.05)
