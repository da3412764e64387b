from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.archive.witness import Mark
from bulkfetch.billing.transfers import Transfer
from bulkfetch.runs.witness import (
    Answer,
    Asked,
    Charge,
    Choice,
    Share,
    Source,
    choose,
    sum_of_answers,
    transfers_to_ask,
)

OFFICE = Transfer("I", "office", "billing_line_items")
AZURE = Transfer("I", "azure", "billing_line_items")
USAGE = Transfer("I", "azure", "usage_line_items")
FIRST, SECOND, ARCHIVED = Source.FIRST, Source.SECOND, Source.ARCHIVED
EMPTY = Answer(0, None)


def rows(count: int, total: str | None = None, digest: str = "") -> Answer:
    return Answer(count, Decimal(count if total is None else total), digest or str(total))


def charge(amount: str) -> Charge:
    return Charge(Decimal(amount), "EUR")


@dataclass(frozen=True)
class Case:
    """One row of the rules: what an invoice charges, what came, what to ask, what to take."""

    name: str
    charged: str | None
    asked: tuple[Asked, ...]
    to_ask: tuple[Transfer, ...] = ()
    picks: tuple[Source, ...] = ()
    refused: tuple[Transfer, ...] = ()
    mark: Mark | None = None
    counts: bool = True


A30, A29, A0 = rows(30), rows(29), EMPTY
CASES = [
    Case("what adds up is taken", "30", (Asked(OFFICE, A30),), (), (FIRST,)),
    Case(
        "what differs is asked for once more",
        *("30", (Asked(OFFICE, A29),), (OFFICE,), (FIRST,)),
        mark=Mark.UNCONFIRMED,
    ),
    Case(
        "the same again is confirmed",
        *("30", (Asked(OFFICE, A29, A29),), (), (FIRST,)),
        mark=Mark.CONFIRMED,
    ),
    Case("a second answer that adds up wins", "30", (Asked(OFFICE, A0, A30),), (), (SECOND,)),
    Case(
        "if neither adds up, the one with more rows is taken",
        *("31", (Asked(OFFICE, A29, A30),), (), (SECOND,)),
        mark=Mark.UNSTABLE,
    ),
    Case(
        "as many other rows are unstable, and the first stay",
        *("31", (Asked(OFFICE, A30, replace(A30, digest="x")),), (), (FIRST,)),
        mark=Mark.UNSTABLE,
    ),
    Case(
        "an archived generation is asked about before it gives way to fewer rows",
        *("31", (Asked(OFFICE, A0, archived=A30),), (OFFICE,), (ARCHIVED,), (OFFICE,)),
        mark=Mark.UNCONFIRMED,
    ),
    Case(
        "an archived generation with more rows stays",
        *("31", (Asked(OFFICE, A0, A0, A30),), (), (ARCHIVED,), (OFFICE,)),
        mark=Mark.CONFIRMED,
    ),
    Case(
        "an archived generation that adds up stays, even with fewer rows",
        *("29", (Asked(OFFICE, A30, A30, A29),), (), (ARCHIVED,), (OFFICE,)),
    ),
    Case(
        "a new generation that adds up wins, even with fewer rows",
        *("29", (Asked(OFFICE, A29, archived=A30),), (), (FIRST,)),
    ),
    Case(
        "a new generation with as many rows takes the archived one's place",
        *("40", (Asked(OFFICE, rows(30, "31"), rows(30, "31"), A30),), (), (FIRST,)),
        mark=Mark.CONFIRMED,
    ),
    Case(
        "rows that were archived under the same charge are a first answer",
        *("31", (Asked(OFFICE, A30, archived=A30, is_current=True),), (), (FIRST,)),
        mark=Mark.CONFIRMED,
    ),
    Case(
        "rows that were archived and not asked for since are asked for",
        *("31", (Asked(OFFICE, archived=A30, is_current=True),), (OFFICE,), (ARCHIVED,)),
        mark=Mark.UNCONFIRMED,
    ),
    Case(
        "empty transfers are asked for first, then short ones, then small ones",
        "100",
        (Asked(OFFICE, A30), Asked(AZURE, A0), Asked(USAGE, A30, is_charged=False)),
        (AZURE, OFFICE),
        (FIRST, FIRST, FIRST),
        mark=Mark.UNCONFIRMED,
    ),
    Case(
        "one second answer can be all that was missing",
        *("59", (Asked(OFFICE, A30), Asked(AZURE, A0, A29)), (), (FIRST, SECOND)),
    ),
    Case(
        "all transfers have to be confirmed",
        *("60", (Asked(OFFICE, A30, A30), Asked(AZURE, A29)), (AZURE,), (FIRST, FIRST)),
        mark=Mark.UNCONFIRMED,
    ),
    Case(
        "one archived transfer can stay while another is replaced",
        "61",
        (Asked(OFFICE, A0, A0, A30), Asked(AZURE, rows(31), archived=A29)),
        (AZURE,),
        (ARCHIVED, FIRST),
        (OFFICE,),
    ),
    Case(
        "a sum that does not count asks for nothing",
        *("31", (Asked(OFFICE, A30),), (), (FIRST,)),
        counts=False,
    ),
    Case(
        "no rows at all always count",
        *("31", (Asked(OFFICE, A0),), (OFFICE,), (FIRST,)),
        mark=Mark.UNCONFIRMED,
        counts=False,
    ),
    Case(
        "no rows at all, twice, are confirmed",
        *("31", (Asked(OFFICE, A0, A0),), (), (FIRST,)),
        mark=Mark.CONFIRMED,
        counts=False,
    ),
    Case("no rows add up to no charge", "0", (Asked(OFFICE, A0),), (), (FIRST,)),
    Case(
        "where nothing can be compared, fewer rows are asked for and refused all the same",
        *(None, (Asked(OFFICE, A29, archived=A30),), (OFFICE,), (ARCHIVED,), (OFFICE,)),
    ),
    Case(
        "usage that is gone is asked for, though the invoice adds up",
        "30",
        (Asked(OFFICE, A30), Asked(USAGE, A0, archived=A30, is_charged=False)),
        (USAGE,),
        (FIRST, ARCHIVED),
        (USAGE,),
    ),
    Case(
        "fewer usage rows of an invoice that adds up are taken",
        "30",
        (Asked(OFFICE, A30), Asked(USAGE, A29, archived=A30, is_charged=False)),
        (),
        (FIRST, FIRST),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_difference_is_asked_about_and_decided_by_the_rules(case: Case) -> None:
    header = None if case.charged is None else charge(case.charged)

    assert transfers_to_ask(header, case.asked, counts=case.counts) == list(case.to_ask)
    assert choose(header, case.asked, counts=case.counts) == Choice(
        {each.transfer: pick for each, pick in zip(case.asked, case.picks, strict=True)},
        frozenset(case.refused),
        case.mark,
    )


def test_an_empty_answer_makes_no_difference_a_rounding_one() -> None:
    many = Answer(10**6, Decimal("5000000.50"))

    assert charge("5000000").is_met_by([many])
    assert not charge("5000000").is_met_by([many, EMPTY])
    assert charge("5000000.50").is_met_by([many, EMPTY])


def test_a_charge_that_is_no_number_cannot_be_compared() -> None:
    assert charge("5").compare([Answer(3, None)]) is None
    assert sum_of_answers([Answer(3, None), EMPTY]) is None
    assert sum_of_answers([EMPTY]) == 0


@pytest.mark.parametrize(
    ("requests", "pages"), [(0, 20), (199, 20), (200, 20), (210, 21), (100_000, 10_000)]
)
def test_asking_again_costs_a_tenth_of_the_requests_or_20(requests: int, pages: int) -> None:
    share = Share(requests)

    assert share.take((pages - 1) * 2000, 2000)
    assert share.take(0, 2000)
    assert not share.take(0, 2000)


def test_a_transfer_that_costs_too_much_leaves_the_share_to_smaller_ones() -> None:
    share = Share(0)

    assert not share.take(20 * 2000 + 1, 2000)
    assert share.take(20 * 2000, 2000)


ANSWERS = st.builds(
    Answer,
    rows=st.integers(0, 4),
    total=st.none() | st.integers(-3, 3).map(Decimal),
    digest=st.sampled_from("ab"),
)


def asked(transfer: Transfer) -> st.SearchStrategy[Asked]:
    maybe = st.none() | ANSWERS
    name, is_charged = st.just(transfer), st.just(transfer is not USAGE)
    fetched = st.builds(Asked, name, ANSWERS, maybe, maybe, st.booleans(), is_charged)
    kept = st.builds(Asked, name, st.none(), st.none(), ANSWERS, st.booleans(), is_charged)
    return fetched | kept


INVOICES = st.tuples(asked(OFFICE), asked(AZURE), asked(USAGE)).flatmap(
    lambda three: st.permutations(three).map(lambda order: order[: max(1, len(order))])
)
CHARGES = st.none() | st.integers(-5, 5).map(lambda amount: Charge(Decimal(amount), "EUR"))


def taken(choice: Choice, each: Asked) -> Answer:
    answers = {FIRST: each.first, SECOND: each.second, ARCHIVED: each.archived}
    answer = answers[choice.picks[each.transfer]]
    assert answer is not None
    return answer


def adds_up(header: Charge | None, answers: list[Answer]) -> bool:
    """An oracle in fractions for small amounts, of which a millionth is never a cent."""
    if header is None or any(answer.rows and answer.total is None for answer in answers):
        return False
    listed = sum(Fraction(answer.total or 0) for answer in answers if answer.rows)
    return listed == Fraction(header.amount)


@given(header=CHARGES, invoice=INVOICES, counts=st.booleans())
def test_no_rows_give_way_to_fewer_unless_the_invoice_adds_up(
    header: Charge | None, invoice: list[Asked], counts: bool
) -> None:
    choice = choose(header, invoice, counts=counts)
    charged = [each for each in invoice if each.transfer is not USAGE]

    if adds_up(header, [taken(choice, each) for each in charged]):
        return
    for each in invoice:
        known = [answer for answer in (each.first, each.second, each.archived) if answer]
        assert taken(choice, each).rows == max(answer.rows for answer in known)


@given(header=CHARGES, invoice=INVOICES, counts=st.booleans())
def test_rows_that_add_up_are_always_found(
    header: Charge | None, invoice: list[Asked], counts: bool
) -> None:
    choice = choose(header, invoice, counts=counts)
    charged = [each for each in invoice if each.transfer is not USAGE]
    known = [[a for a in (each.first, each.second, each.archived) if a] for each in charged]

    can_add_up = any(adds_up(header, list(answers)) for answers in product(*known))
    assert adds_up(header, [taken(choice, each) for each in charged]) is can_add_up


@given(header=CHARGES, invoice=INVOICES, counts=st.booleans(), seed=st.randoms())
def test_the_order_of_the_transfers_does_not_matter(
    header: Charge | None, invoice: list[Asked], counts: bool, seed: object
) -> None:
    shuffled = sorted(invoice, key=lambda each: hash((each.transfer, id(seed))))

    assert choose(header, invoice, counts=counts) == choose(header, shuffled, counts=counts)
    assert transfers_to_ask(header, invoice, counts=counts) == transfers_to_ask(
        header, shuffled, counts=counts
    )


@given(header=CHARGES, invoice=INVOICES, counts=st.booleans())
def test_asking_comes_to_an_end(header: Charge | None, invoice: list[Asked], counts: bool) -> None:
    questions = 0
    while to_ask := transfers_to_ask(header, invoice, counts=counts):
        questions += 1
        invoice = [
            each
            if each.transfer != to_ask[0]
            else replace(each, first=Answer(1, Decimal(1), "c"))
            if each.first is None
            else replace(each, second=Answer(1, Decimal(1), "d"))
            for each in invoice
        ]

    assert questions <= 2 * 3


@given(header=CHARGES, invoice=INVOICES, counts=st.booleans())
def test_only_what_was_archived_and_answered_otherwise_is_refused(
    header: Charge | None, invoice: list[Asked], counts: bool
) -> None:
    choice = choose(header, invoice, counts=counts)

    for each in invoice:
        is_kept = each.first is not None and choice.picks[each.transfer] is ARCHIVED
        assert (each.transfer in choice.refused) is is_kept


@given(invoice=INVOICES, amount=st.integers(-5, 5), zeros=st.integers(0, 3))
def test_a_currency_with_smaller_units_is_decided_alike(
    invoice: list[Asked], amount: int, zeros: int
) -> None:
    def scaled(answer: Answer | None) -> Answer | None:
        if answer is None or answer.total is None:
            return answer
        return replace(answer, total=answer.total.scaleb(zeros))

    larger = [
        replace(
            each,
            first=scaled(each.first),
            second=scaled(each.second),
            archived=scaled(each.archived),
        )
        for each in invoice
    ]

    assert choose(Charge(Decimal(amount)), invoice, counts=True) == choose(
        Charge(Decimal(amount).scaleb(zeros)), larger, counts=True
    )
