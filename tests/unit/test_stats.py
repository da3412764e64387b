from __future__ import annotations

import pytest

from bulkfetch.stats import RunStats


def test_time_starts_with_the_first_sample() -> None:
    stats = RunStats()
    assert stats.elapsed_s(500.0) == 0.0
    stats.sample(1000.0)
    stats.sample(1001.0)
    assert stats.elapsed_s(1004.5) == 4.5


def test_the_rate_is_unknown_until_time_has_passed() -> None:
    stats = RunStats(rows=50)
    assert stats.rows_per_s(0.0) == 0.0
    stats.sample(10.0)
    assert stats.rows_per_s(10.0) == 0.0


def test_the_rate_is_that_of_the_last_ten_seconds() -> None:
    stats = RunStats()
    for second in range(61):
        stats.sample(float(second))
        stats.rows += 1000 if second < 30 else 10
    assert stats.rows_per_s(60.5) == 110 / 10.5


def test_the_rate_falls_while_nothing_comes() -> None:
    stats = RunStats()
    stats.sample(0.0)
    stats.rows = 100
    stats.sample(5.0)
    assert stats.rows_per_s(5.0) == 20.0
    assert stats.rows_per_s(10.0) == 10.0
    stats.sample(16.0)
    assert stats.rows_per_s(16.0) == 0.0


def test_few_samples_far_apart_still_give_a_rate() -> None:
    stats = RunStats()
    for now in (0.0, 60.0, 120.0):
        stats.rows = int(now) * 7
        stats.sample(now)
    assert stats.rows_per_s(120.0) == 7.0


def test_samples_do_not_pile_up() -> None:
    stats = RunStats()
    for tick in range(10_000):
        stats.sample(tick / 4)
    assert len(stats._samples) <= 42


def test_the_time_left_is_unknown_before_a_transfer_is_done() -> None:
    stats = RunStats(transfers=10)
    stats.sample(0.0)
    stats.rows = 1000
    assert stats.time_left_s(1.0) is None


def test_the_time_left_takes_transfers_to_come_to_be_as_large_as_those_done() -> None:
    stats = RunStats(transfers=10, transfers_skipped=3, transfers_failed=1)
    stats.sample(0.0)
    stats.rows, stats.rows_committed, stats.transfers_done = 1000, 1000, 2
    assert stats.time_left_s(5.0) == 4 * 500 / 200


def test_the_time_left_counts_the_rows_of_transfers_under_way_as_done() -> None:
    stats = RunStats(transfers=10)
    stats.sample(0.0)
    stats.rows, stats.rows_committed, stats.transfers_done = 1600, 1000, 2
    assert stats.time_left_s(4.0) == (8 * 500 - 600) / 400


def test_the_time_left_is_unknown_when_what_is_under_way_is_larger_than_what_was_done() -> None:
    stats = RunStats(transfers=2, transfers_done=1, rows_committed=10)
    stats.sample(0.0)
    stats.rows = 5000
    assert stats.time_left_s(1.0) is None


def test_the_time_left_is_unknown_while_nothing_moves() -> None:
    stats = RunStats(transfers=2, transfers_done=1, rows=100, rows_committed=100)
    stats.sample(0.0)
    assert stats.time_left_s(30.0) is None


def test_empty_transfers_are_timed_by_their_number() -> None:
    stats = RunStats(transfers=10)
    stats.sample(0.0)
    stats.transfers_done = 4
    assert stats.time_left_s(8.0) == 12.0


def test_nothing_is_left_when_every_transfer_has_ended() -> None:
    stats = RunStats(transfers=3, transfers_done=1, transfers_skipped=1, transfers_failed=1)
    assert stats.transfers_ended == 3
    assert stats.time_left_s(5.0) == 0.0


def test_the_longest_hold_is_the_one_that_counts() -> None:
    stats = RunStats()
    stats.held("throttled", 20.0)
    stats.held("the server is failing", 12.0)
    assert (stats.held_by, stats.held_until) == ("throttled", 20.0)


# What a run waits for


def waiting(**changes: object) -> RunStats:
    """Statistics of a run at work, sampled every second up to 30 s."""
    stats = RunStats(transfers=5, transfers_done=1, in_flight=2, bytes_received=1)
    for name, value in changes.items():
        setattr(stats, name, value)
    for second in range(31):
        stats.sample(float(second))
    return stats


def test_a_run_that_gets_on_waits_for_nothing() -> None:
    stats = waiting(in_flight=0)
    assert stats.waits_for(30.0) == ""


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"signing_in": 3, "held_until": 70.0}, "waiting for sign-in"),
        (
            {"held_until": 69.5, "held_by": "server says come back in"},
            "server says come back in 40 s",
        ),
        ({"storing": 1, "in_flight": 0}, "storage slow: no step done for 30 s"),
        ({"storing": 1, "in_flight": 1}, "no answer from the server for 30 s"),
        ({"in_flight": 2}, "no answer from the server for 30 s"),
        ({"in_flight": 0, "retry_at": 37.2}, "trying again in 8 s"),
        (
            {"in_flight": 0, "transfers_done": 4, "chains": {"D0300019BM a/b": 1}},
            "one chain left: D0300019BM, 1 page",
        ),
        (
            {"in_flight": 0, "transfers_done": 4, "chains": {"X" * 40 + " a/b": 1234}},
            "one chain left: XXXXXXXXX.., 1,234 pages",
        ),
        ({"in_flight": 0, "transfers_done": 3, "chains": {"D1 a/b": 1}}, ""),
        ({"in_flight": 0, "transfers_done": 4, "chains": {}}, ""),
    ],
)
def test_what_a_run_waits_for_is_said_in_words_that_fit_forty_columns(
    changes: dict[str, object], text: str
) -> None:
    shown = waiting(**changes).waits_for(30.0)
    assert shown == text
    assert len(shown) <= 40


def test_a_silence_ends_with_the_next_byte_and_slow_storage_with_the_next_step() -> None:
    stats = waiting(in_flight=1)
    stats.bytes_received += 1
    stats.sample(31.0)
    assert stats.waits_for(32.0) == ""
    stats.sample(41.0)
    assert stats.waits_for(41.0) == "no answer from the server for 10 s"
    with stats.at_storage():
        stats.in_flight = 0
        stats.sample(42.0)
        stats.sample(48.0)
        assert stats.waits_for(48.0) == "storage slow: no step done for 6 s"
    stats.sample(49.0)
    assert stats.waits_for(49.0) == ""


def test_the_first_of_several_retries_is_the_one_that_is_waited_for() -> None:
    stats = RunStats()
    stats.will_retry(10.0, 8.0)
    stats.will_retry(11.0, 2.0)
    assert stats.waits_for(12.0) == "trying again in 1 s"
    stats.will_retry(20.0, 5.0, why="the proxy is failing")
    assert stats.waits_for(20.0) == "the proxy is failing, trying again in 5 s"
