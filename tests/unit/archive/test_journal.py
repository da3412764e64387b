from __future__ import annotations

import io
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from whole.durability.journals import DAMAGES

from bulkfetch.archive.journal import JournalFile, PackedRows, TakenPage, read_records
from bulkfetch.billing.sources import Bookmark
from bulkfetch.errors import DamagedError, StorageError
from bulkfetch.storage.disk import LocalStore

NAME = PurePosixPath("T.journal")
HEAD = {"shape": {"invoice_id": "I"}, "parts": []}
SCHEMA = pa.schema([("line_number", pa.int64()), ("name", pa.string())])


def rows(first: int, count: int) -> pa.RecordBatch:
    numbers = list(range(first, first + count))
    columns = {"line_number": numbers, "name": [f"customer {n % 5}" for n in numbers]}
    return pa.RecordBatch.from_pydict(columns, schema=SCHEMA)


def page(first: int, count: int) -> TakenPage:
    place = Bookmark(first, {"page": first, "token": f"t{first}"})
    return TakenPage(place, count, Decimal(first), {"colour": first})


def journal(root: Path, sizes: list[int], head: Mapping[str, object] = HEAD) -> JournalFile:
    file, first = JournalFile(LocalStore(root), NAME, head), 0
    for size in sizes:
        file.append(page(first, size), PackedRows.of(rows(first, size)))
        first += size
    return file


def pages_in(content: bytes) -> list[tuple[TakenPage, pa.RecordBatch]]:
    records = read_records(io.BytesIO(content))
    if next(records, None) is None:
        return []
    return [(TakenPage.from_facts(each.facts), each.rows.unpack(SCHEMA)) for each in records]


def test_what_was_appended_is_read_page_by_page(tmp_path: Path) -> None:
    journal(tmp_path, [3, 1, 5]).close()

    found = pages_in(tmp_path.joinpath(NAME).read_bytes())

    assert [each for each, _ in found] == [page(0, 3), page(3, 1), page(4, 5)]
    assert pa.Table.from_batches([batch for _, batch in found]).equals(
        pa.Table.from_batches([rows(0, 9)])
    )


def test_a_total_that_is_unknown_stays_unknown() -> None:
    taken = TakenPage(Bookmark(5), 2)
    assert TakenPage.from_facts(taken.to_facts()) == taken


@pytest.mark.parametrize(("first", "end"), [(0, 9), (0, 1), (2, 3), (2, 8), (3, 4), (8, 9)])
def test_rows_are_read_back_while_it_is_written(first: int, end: int, tmp_path: Path) -> None:
    file = journal(tmp_path, [3, 1, 5])

    found = pa.Table.from_batches(file.read(first, end, SCHEMA), SCHEMA)

    assert found.column("line_number").to_pylist() == list(range(first, end))
    file.close()


def test_pages_that_overlap_are_read_back_once(tmp_path: Path) -> None:
    file = journal(tmp_path, [3, 4])
    file.append(page(3, 6), PackedRows.of(rows(3, 6)))  # asked for again, and longer

    found = pa.Table.from_batches(file.read(1, 9, SCHEMA))

    assert found.column("line_number").to_pylist() == list(range(1, 9))
    file.close()


def test_rows_that_were_altered_while_in_use_are_not_read_back(tmp_path: Path) -> None:
    file, path = journal(tmp_path, [3, 4]), tmp_path / NAME
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    assert len(list(file.read(0, 3, SCHEMA))) == 1
    with pytest.raises(DamagedError, match="altered while it was in use"):
        list(file.read(0, 7, SCHEMA))
    path.unlink()
    with pytest.raises(StorageError):
        list(file.read(0, 7, SCHEMA))
    file.close()


SIZES = [3, 1, 40, 5]


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    what=st.sampled_from(sorted(DAMAGES)),
    place=st.floats(0, 1, exclude_max=True),
    more=st.integers(1, 600),
)
def test_of_a_damaged_journal_pages_before_the_damage_are_left_and_no_others(
    what: str, place: float, more: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("journal")
    journal(root, SIZES).close()
    content = root.joinpath(NAME).read_bytes()
    whole = pages_in(content)
    ends = [*_ends(root), len(content)]
    at = int(place * len(content))
    damaged = DAMAGES[what](content, at, more)
    same = _length_in_common(content, damaged)

    found = pages_in(damaged)

    untouched = sum(end <= same for end in ends[1:])
    assert [each for each, _ in found] == [each for each, _ in whole[:untouched]]
    for (_, one), (_, other) in zip(found, whole, strict=False):
        assert one.equals(other)


def _ends(root: Path) -> list[int]:
    """Where the head and each page but the last end, found by writing them alone."""
    ends = []
    for count in range(len(SIZES)):
        part = root / str(count)
        part.mkdir()
        journal(part, SIZES[:count]).close()
        ends.append(part.joinpath(NAME).stat().st_size)
    return ends


def _length_in_common(one: bytes, other: bytes) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def test_records_count_only_behind_those_they_were_written_behind(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for root, head in ((one, HEAD), (other, {**HEAD, "parts": ["another"]})):
        root.mkdir()
        journal(root, [3, 4], head).close()
    first, second = (root.joinpath(NAME).read_bytes() for root in (one, other))
    (head_bytes, *_) = _ends(one)

    spliced = first[:head_bytes] + second[len(second) - len(first) + head_bytes :]

    assert pages_in(spliced) == []


def test_a_journal_that_cannot_be_begun_is_closed(tmp_path: Path) -> None:
    class Full(LocalStore):
        def create(self, name: PurePosixPath) -> io.BufferedWriter:
            super().create(name).close()
            return open("/dev/full", "wb", buffering=0)  # type: ignore[return-value]

    with pytest.raises(OSError, match="No space left"):
        JournalFile(Full(tmp_path), NAME, HEAD)
