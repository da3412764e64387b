from __future__ import annotations

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
