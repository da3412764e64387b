"""A process of Spark asks from one thread, as far ahead as is waited for, and no further."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from anyio.from_thread import start_blocking_portal
from support.replay import MadeUp, Served, invoice, serving

from bulkfetch.engine.access import Access, shared_access
from bulkfetch.engine.coordinator import Coordinator
from bulkfetch.engine.options import Wanted
from bulkfetch.engine.plans import Plans
from bulkfetch.engine.reading import WAITING_BATCHES, plan_parts, planned_parts, read_batches
from bulkfetch.errors import EngineError, SettingsError, StalePartError, TransferError
from bulkfetch.runs.selection import Selection
from bulkfetch.settings.declared import Settings

CHAIN = ("one_time", "billing_line_items")
OFFSETS = ("office", "billing_line_items")
PAGES = 40
WANTED = Wanted(Selection(providers=CHAIN[0], line_item_types=CHAIN[1]))


@pytest.fixture(scope="module")
def tenant() -> MadeUp:
    rows = [f'{{"quantity":{number}}}' for number in range(PAGES)]
    return MadeUp([invoice("D1", CHAIN, OFFSETS), invoice("D2", CHAIN)], {("D1", *CHAIN): rows})


@pytest.fixture(scope="module")
def served(tenant: MadeUp) -> Iterator[Served]:
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serving(tenant)) as started,
    ):
        yield started


@pytest.fixture
def access(served: Served) -> Access:
    """Of a page for each row, which all come one after the other."""
    return Access(served.settings(page_size=1), idle_s=0.5)


def own_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "bulkfetch"]


def test_all_rows_of_a_part_come_in_order(access: Access) -> None:
    part, _ = plan_parts(access, WANTED)

    lines = [
        line for batch in read_batches(access, part) for line in batch["line_number"].to_pylist()
    ]

    assert lines == [*range(PAGES)]


def test_nothing_is_asked_for_that_nobody_takes(access: Access, served: Served) -> None:
    part, _ = plan_parts(access, WANTED)
    before = len(served.line_item_requests)

    batches = read_batches(access, part)
    next(batches)
    for _ in range(PAGES):  # while this is asked, so could be all pages
        plan_parts(access, WANTED)
    batches.close()
    asked = len(served.line_item_requests) - before
    plan_parts(access, WANTED)

    assert 1 <= asked <= WAITING_BATCHES + 4
    assert len(served.line_item_requests) - before <= asked + 1


def test_what_breaks_is_raised_behind_the_rows(access: Access) -> None:
    _, part = plan_parts(access, WANTED)

    with pytest.raises(TransferError, match="D2"):
        list(read_batches(access, part))


def test_a_process_has_one_thread_for_all_its_parts_and_none_for_long(access: Access) -> None:
    before = {*own_threads()}
    for part in plan_parts(access, WANTED)[:1] * 3:
        list(read_batches(access, part))
    opened = {*own_threads()} - before

    assert len(opened) <= 1  # none if that of another test is still open
    for thread in own_threads():
        thread.join(5)
    assert not own_threads()


@pytest.fixture
def coordinator(served: Served) -> Iterator[Coordinator]:
    calls = Plans(60).calls()
    with Coordinator(served.settings(), host="127.0.0.1", calls=calls) as started:
        yield started


@pytest.fixture
def shared(coordinator: Coordinator, served: Served) -> Access:
    return shared_access(served.settings(page_size=1), coordinator.handle)


def test_a_coordinator_signs_in_for_all_and_keeps_their_plans(
    shared: Access, served: Served
) -> None:
    before = len(served.requests)
    first = planned_parts(shared, WANTED)
    asked = len(served.requests) - before
    again = planned_parts(shared, WANTED)

    assert (asked, len(served.requests) - before) == (1, 1)
    assert first == again
    assert sum(batch.num_rows for batch in read_batches(shared, again[0])) == PAGES


def test_a_stale_part_has_its_plan_made_again(
    shared: Access, served: Served, tenant: MadeUp
) -> None:
    wanted = Wanted(Selection(providers=OFFSETS[0], line_item_types=OFFSETS[1]))
    access = replace(shared, settings=served.settings(page_size=2, part_rows=2))
    tenant.rows["D1", *OFFSETS] = [f'{{"quantity":{number}}}' for number in range(6)]
    part = planned_parts(access, wanted)[1]
    del tenant.rows["D1", *OFFSETS][0]

    with pytest.raises(StalePartError):
        list(read_batches(access, part))

    again = planned_parts(access, wanted)[1]
    assert [batch["quantity"].to_pylist() for batch in read_batches(access, again)] == [[3, 4], [5]]


def test_a_coordinator_that_cannot_be_reached_is_told_and_tried_again(
    coordinator: Coordinator, served: Served
) -> None:
    gone = replace(coordinator.handle, port=1)

    with pytest.raises(EngineError, match=r"127\.0\.0\.1:1, cannot be reached .* give share=True"):
        plan_parts(shared_access(served.settings(), gone), WANTED)


def test_a_process_that_lost_its_coordinator_looks_for_it_again(served: Served) -> None:
    with Coordinator(served.settings(), host="127.0.0.1") as first:
        access = shared_access(served.settings(), first.handle)
        plan_parts(access, WANTED)

    def plan_until_it_hears_of_it() -> None:
        for _ in range(1000):
            plan_parts(access, WANTED)

    with pytest.raises(EngineError, match="cannot be reached"):
        plan_until_it_hears_of_it()


def test_who_has_no_credentials_is_told(served: Served) -> None:
    nobody = Access(Settings(base_url=served.base_url))

    with pytest.raises(SettingsError, match="token"):
        plan_parts(nobody, WANTED)
