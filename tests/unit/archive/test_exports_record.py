"""What an archive remembers of exports."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from bulkfetch.archive.commits import Commit, Unavailable, parse_commit
from bulkfetch.archive.exports import Exports, read_exports, write_exports
from bulkfetch.archive.layout import EXPORTS
from bulkfetch.billing.details import GRAPH
from bulkfetch.billing.transfers import Transfer
from bulkfetch.errors import DamagedError
from bulkfetch.storage.disk import LocalStore

G1, G2 = Transfer("G1", GRAPH, "usage"), Transfer("G2", GRAPH, "usage")
DAY, LATER = date(2026, 11, 28), date(2026, 12, 5)


def test_what_is_written_is_read_again_and_the_same_twice_is_written_once(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert read_exports(store) == Exports()
    known = Exports().after(checked={G1: DAY, G2: DAY}, awaited={G1: LATER})
    write_exports(store, known)
    assert read_exports(store) == known
    assert known.is_awaited(G1, DAY)
    assert not known.is_awaited(G1, LATER)
    assert not known.is_awaited(G2, DAY)
    assert (known.checked_on(G2), known.checked_on(Transfer("G3", GRAPH, "usage"))) == (DAY, None)
    written = (tmp_path / EXPORTS).stat().st_mtime_ns
    write_exports(store, known)
    assert (tmp_path / EXPORTS).stat().st_mtime_ns == written


def test_what_has_come_is_awaited_no_more_and_what_was_not_asked_for_stays() -> None:
    known = Exports().after(checked={G1: DAY, G2: DAY}, awaited={G1: LATER, G2: LATER})
    after = known.after(checked={G1: LATER}, awaited={})
    assert not after.is_awaited(G1, DAY)
    assert after.is_awaited(G2, DAY)
    assert (after.checked_on(G1), after.checked_on(G2)) == (LATER, DAY)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"awaited": {"a": 5}}', b"\xff"])
def test_a_damaged_record_counts_as_none(content: bytes, tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.write(EXPORTS, content)
    assert read_exports(store) == Exports()


def test_a_commit_keeps_that_graph_had_nothing_and_then_has_no_rows() -> None:
    commit = Commit(G1, 0, (), unavailable=Unavailable("5000", "2026-11-28"))
    again = parse_commit(commit.to_json(), commit.record_name)
    assert again.unavailable == commit.unavailable
    assert again.to_json() == commit.to_json()
    for wrong in (
        Commit(G1, 3, (), unavailable=Unavailable("5000", "2026-11-28")),
        Commit(G1, 0, (), unavailable=Unavailable("5000", "yesterday")),
    ):
        with pytest.raises(DamagedError):
            parse_commit(wrong.to_json(), wrong.record_name)
