from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from whole.durability.disks import Died, WatchedDisk, dying

from bulkfetch.archive import headers
from bulkfetch.archive.headers import HeadersCommit, read_headers, stage_headers
from bulkfetch.archive.layout import HEADERS_COMMIT, INVOICES, STAGED_HEADERS
from bulkfetch.archive.publishing.publish import Publishing
from bulkfetch.billing.invoices import Invoice
from bulkfetch.billing.schemas import INVOICE_ARROW
from bulkfetch.decoding.jsontext import Json, Number, Pairs, dumps
from bulkfetch.errors import StorageError
from bulkfetch.storage.disk import LocalStore


def keep_headers(store: LocalStore, invoices: list[Invoice]) -> None:
    publishing = Publishing(store)
    publishing.settle()
    commit = stage_headers(store, invoices)
    publishing.publish(commit, {STAGED_HEADERS: commit.sha256})


def table_of(store: LocalStore) -> Path:
    (path,) = store.root.joinpath(INVOICES).iterdir()
    return path


def header(identifier: str, day: int = 1, **fields: Json) -> Invoice:
    date = f"2021-06-{day:02}T00:00:00Z"
    source = Pairs([("id", identifier), ("invoiceDate", date), *fields.items()])
    return Invoice(identifier, source_text=dumps(source))


def ids(store: LocalStore) -> list[str]:
    table = read_headers(store)
    assert table is not None
    return [str(each) for each in table.column("id").to_pylist()]


def test_an_archive_without_headers_has_none(tmp_path: Path) -> None:
    assert read_headers(LocalStore(tmp_path)) is None


def test_headers_are_kept_in_the_order_of_their_dates(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)

    keep_headers(store, [header("C", 1), header("A", 3), header("B", 1)])

    assert ids(store) == ["B", "C", "A"]
    assert pq.read_schema(table_of(store)).equals(INVOICE_ARROW)


def test_memory_goes_back_to_the_system_once_no_table_is_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    invoices = [header(f"D{number}", state="x" * 100) for number in range(2000)]
    before, left = pa.total_allocated_bytes(), []
    monkeypatch.setattr(headers, "release_gaps", lambda: left.append(pa.total_allocated_bytes()))

    stage_headers(LocalStore(tmp_path), invoices)

    assert len(left) == 1
    assert left[0] - before < 100_000


def test_no_invoices_are_a_table_without_rows(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)

    keep_headers(store, [])

    assert ids(store) == []


def test_headers_of_earlier_runs_are_kept_and_new_ones_win(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    keep_headers(store, [header("A", 1, paidAmount=Number("0.0")), header("B", 2)])

    keep_headers(store, [header("A", 1, paidAmount=Number("12.5")), header("C", 3)])

    table = read_headers(store)
    assert table is not None
    assert ids(store) == ["A", "B", "C"]
    assert str(table.column("paidAmount").to_pylist()[0].normalize()) == "12.5"


def test_the_same_headers_are_the_same_bytes_and_not_written_again(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    keep_headers(store, [header("A"), header("B")])
    before = {
        path: (path.read_bytes(), path.stat().st_ino)
        for path in tmp_path.rglob("*")
        if path.is_file()
    }

    keep_headers(store, [header("B"), header("A")])

    after = {
        path: (path.read_bytes(), path.stat().st_ino)
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    assert after == before


def test_any_bit_that_flips_in_the_table_is_noticed_before_it_is_copied(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    keep_headers(store, [header("A", 1, totalCharges=Number("30154.25"))])
    path = table_of(store)
    content = path.read_bytes()

    for place in range(0, len(content), 41):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(StorageError, match="its sha256 is not the one in"):
            read_headers(store)
        with pytest.raises(StorageError, match="`bulkfetch repair` writes it again"):
            keep_headers(store, [header("B")])
        assert path.read_bytes() == damaged


@pytest.mark.parametrize("record", [None, b"", b"{", b"[]", b'{"sha256":7}', b'{"sha256":["0"]}'])
def test_a_table_whose_record_is_lost_is_not_trusted(record: bytes | None, tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    keep_headers(store, [header("A")])
    if record is None:
        store.remove(HEADERS_COMMIT)
    else:
        store.write(HEADERS_COMMIT, record)

    with pytest.raises(StorageError, match=r"is damaged|is gone"):
        read_headers(store)


def test_something_that_is_no_parquet_is_damaged_even_if_it_is_on_record(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    commit = HeadersCommit(0, 0, empty)
    store.write(commit.name, b"")
    store.write(HEADERS_COMMIT, commit.to_json())

    with pytest.raises(StorageError, match="is damaged"):
        read_headers(store)


@pytest.mark.slow
def test_a_run_killed_at_any_step_leaves_the_old_table_or_the_new_one(tmp_path: Path) -> None:
    died = 0
    for last in range(60):
        root = tmp_path / str(last)
        root.mkdir()
        keep_headers(LocalStore(root), [header("A")])

        try:
            keep_headers(LocalStore(root, WatchedDisk(dying(last))), [header("B")])
        except Died:
            died += 1

        store = LocalStore(root)
        Publishing(store).settle()
        assert ids(store) in (["A"], ["A", "B"])
        keep_headers(store, [header("B")])
        assert ids(store) == ["A", "B"]
        assert len(list(root.joinpath(INVOICES).iterdir())) == 1
    assert died > 20
