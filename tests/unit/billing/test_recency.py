"""When Graph is asked again, and what it means that it has nothing: tables of plain values."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal

import pytest

from bulkfetch.billing.details import GRAPH
from bulkfetch.billing.recency import (
    ASK_AGAIN,
    YOUNG,
    Nothing,
    Recheck,
    decide_nothing,
    is_young,
    last_two_periods,
)
from bulkfetch.billing.transfers import Transfer, unbilled_transfer

TODAY = date(2026, 11, 28)
OLD, NEW = TODAY - YOUNG, TODAY - YOUNG + timedelta(days=1)


def transfer(
    kind: str = "usage",
    *,
    day: date | None = OLD,
    charged: str | None = "5.00",
    or_v1: bool = False,
    period: date | None = date(2026, 10, 1),
) -> Transfer:
    return Transfer(
        "G1",
        GRAPH,
        kind,
        charged=None if charged is None else Decimal(charged),
        billed_from=period,
        invoiced_on=day,
        or_v1=or_v1,
    )


SNAPSHOT = unbilled_transfer(GRAPH, "usage", period="last", currency="EUR")


@pytest.mark.parametrize(
    ("each", "archived_rows", "decision"),
    [
        (transfer(), None, Nothing.UNAVAILABLE),
        (transfer(day=NEW), None, Nothing.NOT_YET),
        (transfer(day=TODAY + timedelta(days=3)), None, Nothing.NOT_YET),
        (transfer(day=None), None, Nothing.UNAVAILABLE),
        (transfer("reconciliation"), None, Nothing.UNAVAILABLE),
        (transfer("reconciliation", day=NEW), None, Nothing.NOT_YET),
        (transfer("reconciliation", charged="0"), None, Nothing.EMPTY),
        (transfer("reconciliation", charged="0", day=NEW), None, Nothing.EMPTY),
        (transfer("reconciliation", charged="-1"), None, Nothing.UNAVAILABLE),
        (transfer("reconciliation", charged=None), None, Nothing.UNAVAILABLE),
        (transfer(charged="0"), None, Nothing.UNAVAILABLE),
        (transfer(or_v1=True), None, Nothing.ASK_V1),
        (transfer(or_v1=True), 7, Nothing.STAYS),
        (transfer(), 7, Nothing.STAYS),
        (transfer(), 0, Nothing.STAYS),
        (transfer(day=NEW), 7, Nothing.STAYS),
        (SNAPSHOT, None, Nothing.EMPTY),
        (SNAPSHOT, 0, Nothing.EMPTY),
        (SNAPSHOT, 7, Nothing.STAYS),
    ],
)
def test_that_graph_has_nothing_means_one_of_five_things(
    each: Transfer, archived_rows: int | None, decision: Nothing
) -> None:
    assert decide_nothing(each, archived_rows, TODAY) is decision


@pytest.mark.parametrize(
    ("each", "decision"),
    [
        (transfer(), Nothing.STAYS),
        (transfer(day=NEW), Nothing.STAYS),
        (transfer("reconciliation", charged="0"), Nothing.STAYS),
        (transfer(or_v1=True), Nothing.ASK_V1),
        (transfer(or_v1=True, day=NEW), Nothing.ASK_V1),
    ],
)
def test_what_the_archive_has_from_v1_stays_unless_v1_may_have_something_newer(
    each: Transfer, decision: Nothing
) -> None:
    assert decide_nothing(each, 7, TODAY, from_v1=True) is decision
    assert decide_nothing(each, 0, TODAY, from_v1=True) is decision


def test_an_invoice_is_young_for_ten_days() -> None:
    days = [TODAY - timedelta(days=age) for age in range(20)]
    assert [is_young(transfer(day=day), TODAY) for day in days] == [True] * 10 + [False] * 10


YESTERDAY = TODAY - timedelta(days=1)


@pytest.mark.parametrize(
    ("period", "checked", "due"),
    [
        (date(2026, 10, 1), None, True),
        (date(2026, 9, 1), YESTERDAY, True),
        (date(2026, 8, 1), None, False),
        (date(2026, 8, 1), YESTERDAY, False),
        (date(2026, 10, 1), TODAY, False),
        (date(2026, 10, 1), TODAY + timedelta(days=2), False),
        (None, None, False),
    ],
)
def test_what_is_archived_of_the_last_two_periods_is_checked_once_a_day(
    period: date | None, checked: date | None, due: bool
) -> None:
    each = transfer(period=period)
    assert Recheck(TODAY, date(2026, 9, 1)).is_due(each, checked) is due
    assert Recheck(TODAY, date(2026, 9, 1), always=True).is_due(each, checked)
    assert not Recheck(TODAY, None).is_due(each, checked)


@pytest.mark.parametrize(("age", "due"), [(0, False), (1, False), (29, False), (30, True)])
def test_what_graph_never_had_is_asked_for_after_thirty_days(age: int, due: bool) -> None:
    since = TODAY - timedelta(days=age)
    old = TODAY - 10 * ASK_AGAIN
    recheck = Recheck(TODAY, date(2026, 9, 1))
    assert recheck.is_due(transfer(), None, since) is due
    assert recheck.is_due(transfer(), since, old) is due
    assert recheck.is_due(transfer(), old, since) is due


@pytest.mark.parametrize(
    ("periods", "first"),
    [
        ([], None),
        ([None], None),
        ([date(1, 1, 1)], None),
        ([date(2026, 1, 1), None, date(2024, 5, 1)], date(2025, 12, 1)),
        ([date(2026, 3, 1)], date(2026, 2, 1)),
    ],
)
def test_the_last_two_periods_are_those_up_to_the_newest_invoice(
    periods: list[date | None], first: date | None
) -> None:
    assert last_two_periods(periods) == first
