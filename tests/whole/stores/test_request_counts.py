"""How many requests a run sends to an object store, and how often it lists a directory: what each
invoice costs, and what a run costs that has nothing to do."""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

from support.replay import MadeUp, invoice, serving
from support.stores.objects_in_memory import Memory

from bulkfetch.archive.layout import ARCHIVE, DATA, SUPERSEDED
from bulkfetch.maintenance.verify import verify_store
from bulkfetch.runs.export import archive, writing_to
from bulkfetch.runs.run import ExportOptions
from bulkfetch.stats import RunStats
from bulkfetch.storage.disk import LocalStore
from bulkfetch.storage.store import Store

OFFICE = ("office", "billing_line_items")


def tenant(invoices: int, amount: int = 1) -> MadeUp:
    row = f'{{"customerName":"c","totalForCustomer":{amount}}}'
    names = [f"D{number}" for number in range(invoices)]
    return MadeUp(
        [invoice(name, OFFICE, totalCharges=amount) for name in names],
        {(name, *OFFICE): [row] for name in names},
    )


async def run(store: Store, has: MadeUp, **settings: Any) -> None:
    async with serving(has) as server, writing_to(store):
        options = ExportOptions("lake")
        report = await archive(options, server.settings(**settings), store, RunStats())
    assert report.exit_code == 0


async def requests_of(memory: Memory, has: MadeUp) -> Counter[str]:
    store, requests = memory.counted()
    assert not store.lacks(ARCHIVE)
    await run(store, has)
    return requests


async def test_a_small_first_transfer_costs_four_requests_and_one_that_is_there_one() -> None:
    costs = {}
    for invoices in (10, 30):
        memory = Memory()
        first = await requests_of(memory, tenant(invoices))
        again = await requests_of(memory, tenant(invoices))
        store, verified = memory.counted()
        assert verify_store(store, "lake", deep=False).exit_code == 0
        costs[invoices] = first, again, verified

    more = [big - small for small, big in zip(*costs.values(), strict=True)]
    each = [{kind: count / 20 for kind, count in counts.items()} for counts in more]
    assert each == [{"put": 3, "delete": 1}, {"get": 1}, {"get": 3}]
    first, again, verified = costs[10]
    fixed = [first.total() - 40, again.total() - 10, verified.total() - 30]
    assert all(count <= most for count, most in zip(fixed, (20, 22, 10), strict=True)), fixed


async def test_a_run_lists_what_was_replaced_once_and_reads_no_more_than_the_views(
    tmp_path: Path,
) -> None:
    store = Listing(tmp_path)
    for amount in (1, 2, 3):
        await run(store, tenant(4, amount), keep_snapshots="all")
    store.listed.clear()
    store.read_names.clear()

    await run(store, tenant(4, 3), keep_snapshots=7)

    assert {name: store.listed[name] for name in (SUPERSEDED, *DATA)} == dict.fromkeys(
        (SUPERSEDED, *DATA), 1
    )
    replaced = [name.name for name in store.read_names if name.is_relative_to(SUPERSEDED)]
    assert replaced == ["invoices.json.old"] * 2, "not the eight commits beside them"


class Listing(LocalStore):
    """A store in a directory that notes what is listed and read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.listed: Counter[PurePosixPath] = Counter()
        self.read_names: list[PurePosixPath] = []

    def list(self, directory: PurePosixPath) -> list[PurePosixPath]:
        self.listed[directory] += 1
        return super().list(directory)

    def read(self, name: PurePosixPath) -> bytes | None:
        self.read_names.append(name)
        return super().read(name)
