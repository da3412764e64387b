"""Whatever happens to an archive and its tables: a sync makes these say what the commits say."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tables.tabled import (
    claim,
    committed_files,
    hashes,
    in_order,
    office,
    put,
    put_headers,
    read_committed,
    read_delta,
    unbilled,
    withdraw,
)

from bulkfetch.archive.layout import partition
from bulkfetch.archive.publishing.publish import Publishing
from bulkfetch.archive.superseded import prune
from bulkfetch.settings.declared import Settings
from bulkfetch.storage.disk import LocalStore
from bulkfetch.tables.leaving import Leaving
from bulkfetch.tables.sync import sync_tables, tables_status

deltalake = pytest.importorskip("deltalake", reason="the extra delta is not installed")

ROOT = str(partition("office", "billing_line_items"))
INVOICES = ["A", "B b", "C%61"]
CURRENCIES = ["EUR", "USD"]


class World:
    """An archive, what a run does to it, and what others do to its tables."""

    def __init__(self, root: Path) -> None:
        self.store = LocalStore(root)
        claim(self.store)
        self.is_watched = False
        """Whether no table names a file that is gone: from a sync on, while runs look after it."""

    def table(self) -> Any:
        if not (self.store.root / ROOT / "_delta_log").exists():
            return None
        return deltalake.DeltaTable(str(self.store.root / ROOT))

    def replace(self, invoice: str, rows: int) -> None:
        """Publish a transfer as a run does that looks after tables."""
        leaving = Leaving(self.store, ["delta"], Settings(), "run")
        publishing = Publishing(self.store, before_replacing=leaving.take_out)
        put(self.store, office(invoice), rows, part_rows=3, publishing=publishing)

    def replace_unseen(self, invoice: str, rows: int) -> None:
        """Publish a transfer as a run does that knows of no tables."""
        put(self.store, office(invoice), rows, part_rows=3)
        self.is_watched = False

    def withdraw(self, invoice: str) -> None:
        leaving = Leaving(self.store, ["delta"], Settings(), "run")
        withdraw(
            self.store, office(invoice), Publishing(self.store, before_replacing=leaving.take_out)
        )

    def snapshot(self, currency: str, rows: int) -> None:
        put(self.store, unbilled(currency), rows)

    def list_invoices(self, count: int) -> None:
        put_headers(self.store, *INVOICES[:count])

    def prune(self) -> None:
        prune(self.store, datetime.now(UTC) + timedelta(days=1))

    def optimize(self) -> None:
        table = self.table()
        if table is not None and self.is_watched:
            table.optimize.compact()
            self.is_watched = False

    def vacuum(self) -> None:
        table = self.table()
        if table is not None:
            assert table.vacuum(dry_run=False) == []

    def delete(self) -> None:
        table = self.table()
        if table is not None and self.is_watched:
            table.delete("line_number > 0")
            self.is_watched = False

    def append(self) -> None:
        table = self.table()
        if table is not None and self.is_watched:
            rows = read_delta(self.store.root / ROOT).slice(0, 2)
            deltalake.write_deltalake(table, rows, mode="append")

    def forget(self) -> None:
        shutil.rmtree(self.store.root / ROOT / "_delta_log", ignore_errors=True)

    def sync(self) -> None:
        before = hashes(self.store)
        report = sync_tables(self.store.root, ["delta"])
        assert report.complete, report.lines()
        assert hashes(self.store) == before
        assert tables_status(self.store.root).complete
        again = sync_tables(self.store.root, ["delta"])
        assert all(table.is_current for table in again.tables)
        for root, names in self.committed().items():
            table = deltalake.DeltaTable(str(self.store.root / root))
            adds = pa.table(table.get_add_actions()).column("path").to_pylist()
            found = {str(self.store.root / root / unquote(name)) for name in adds}
            assert found == {str(self.store.root / name) for name in names}
        if self.table() is not None:
            rows = read_delta(self.store.root / ROOT)
            truth = read_committed(self.store, ROOT)
            rows = in_order(rows.drop_columns(["provider", "line_item_type"]))
            assert rows.equals(truth) if len(truth) else len(rows) == 0
        self.is_watched = True

    def committed(self) -> dict[str, list[PurePosixPath]]:
        return {**committed_files(self.store), **committed_files(self.store, unbilled=True)}

    def check(self) -> None:
        """No table of runs that look after it names a file that is gone."""
        table = self.table()
        if table is not None and self.is_watched:
            for name in pa.table(table.get_add_actions()).column("path").to_pylist():
                assert (self.store.root / ROOT / unquote(name)).exists(), name


INVOICE, ROWS = st.sampled_from(INVOICES), st.integers(0, 7)
Act = Callable[[World], None]
ACTS: st.SearchStrategy[Act] = st.one_of(
    st.builds(lambda invoice, rows: lambda world: world.replace(invoice, rows), INVOICE, ROWS),
    st.builds(
        lambda invoice, rows: lambda world: world.replace_unseen(invoice, rows), INVOICE, ROWS
    ),
    st.builds(lambda invoice: lambda world: world.withdraw(invoice), INVOICE),
    st.builds(
        lambda currency, rows: lambda world: world.snapshot(currency, rows),
        st.sampled_from(CURRENCIES),
        ROWS,
    ),
    st.builds(lambda count: lambda world: world.list_invoices(count), st.integers(1, 3)),
    st.sampled_from([World.prune, World.optimize, World.vacuum, World.delete]),
    st.sampled_from([World.append, World.forget, World.sync, World.sync, World.sync]),
)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.lists(ACTS, max_size=14))
def test_after_any_history_a_sync_puts_tables_right(acts: list[Act]) -> None:
    with TemporaryDirectory() as folder:
        world = World(Path(folder))
        for act in [*acts, World.sync]:
            act(world)
            world.check()
