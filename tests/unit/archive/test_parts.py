from __future__ import annotations

import errno
import hashlib
import io
import itertools
import os
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkfetch.archive import parts
from bulkfetch.archive import parts as parts_module
from bulkfetch.archive.footers import footer_of
from bulkfetch.archive.parts import CHUNK_ROWS, PartWriter, StagedPart, stage_table, weigh
from bulkfetch.billing.details import DETAILS, schema_of
from bulkfetch.billing.schemas import INVOICE_ARROW
from bulkfetch.billing.transfers import Transfer
from bulkfetch.budget import Budget
from bulkfetch.budget import Memory as Taken
from bulkfetch.decoding.pages import PageDecoder
from bulkfetch.errors import StorageError
from bulkfetch.storage.disk import LocalStore
from bulkfetch.storage.store import Store

SCHEMA = pa.schema(
    [
        pa.field("line_number", pa.int64(), nullable=False),
        pa.field("name", pa.string()),
        pa.field("amount", pa.decimal128(38, 24)),
        pa.field("tags", pa.list_(pa.string())),
    ]
)


def rows(count: int, start: int = 0) -> pa.Table:
    numbers = range(start, start + count)
    return pa.table(
        {
            "line_number": list(numbers),
            "name": [None if n % 7 == 0 else f"customer {n % 50}" for n in numbers],
            "amount": [Decimal(n).scaleb(-3) for n in numbers],
            "tags": [[f"t{n % 3}"] * (n % 4) for n in numbers],
        },
        schema=SCHEMA,
    )


def cut(table: pa.Table, lengths: Sequence[int]) -> list[pa.RecordBatch]:
    """Cut a table into batches of these lengths, over and over, each in memory of its own."""
    batches: list[pa.RecordBatch] = []
    start = turn = 0
    while start < table.num_rows:
        length = lengths[turn % len(lengths)]
        piece = pa.table(table.slice(start, length).to_pydict(), schema=table.schema)
        batches += piece.to_batches() or []
        start, turn = start + length, turn + 1
    return batches


class Memory:
    """A Store's staging area in memory, which may have room for so many bytes only."""

    def __init__(self, room: int = 1 << 40) -> None:
        self.room = room
        self.files: dict[PurePosixPath, _File] = {}

    def create(self, name: PurePosixPath) -> BinaryIO:
        self.files[name] = _File(self)
        return cast("BinaryIO", self.files[name])

    def seal(self, file: BinaryIO) -> None:
        file.close()

    def unlink(self, name: PurePosixPath) -> bool:
        """Leave it, so that tests can look at what a crash would leave."""
        return False

    def content(self, part: StagedPart) -> bytes:
        return bytes(self.files[part.name].content)


class _File:
    def __init__(self, disk: Memory) -> None:
        self.disk = disk
        self.content = bytearray()

    def write(self, data: Any) -> int:
        taken = bytes(data)[: self.disk.room]
        self.content += taken
        self.disk.room -= len(taken)
        if len(taken) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return len(data)

    def close(self) -> None:
        pass


def name_of(number: int) -> PurePosixPath:
    return PurePosixPath(f"{number:05d}.part")


def writer(store: Any, *, part_rows: int = 1_000_000, row_group_rows: int = 100_000) -> PartWriter:
    return PartWriter(store, name_of, part_rows=part_rows, row_group_rows=row_group_rows)


def written(
    table: pa.Table, lengths: Sequence[int] = (2000,), **sizes: int
) -> tuple[list[StagedPart], list[bytes]]:
    store = Memory()
    parts_of = writer(store, **sizes)
    for batch in cut(table, lengths):
        parts_of.write(batch)
    parts = parts_of.finish(table.schema)
    return parts, [store.content(part) for part in parts]


def row_groups(content: bytes) -> list[int]:
    metadata = pq.ParquetFile(io.BytesIO(content)).metadata
    return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]


@pytest.mark.parametrize(
    ("count", "part_rows", "row_group_rows", "expected"),
    [
        (0, 100, 10, [[]]),
        (1, 100, 10, [[1]]),
        (100, 100, 100, [[100]]),
        (101, 100, 100, [[100], [1]]),
        (250, 100, 30, [[30, 30, 30, 10], [30, 30, 30, 10], [30, 20]]),
        (200, 100, 50, [[50, 50], [50, 50]]),
        (3, 1, 1, [[1], [1], [1]]),
        (25_000, 1_000_000, 100_000, [[25_000]]),
        (25_000, 24_000, 12_345, [[12_345, 11_655], [1000]]),
    ],
)
def test_parts_and_row_groups_have_as_many_rows_as_the_settings_say(
    count: int, part_rows: int, row_group_rows: int, expected: list[list[int]]
) -> None:
    parts, contents = written(rows(count), part_rows=part_rows, row_group_rows=row_group_rows)

    assert [row_groups(content) for content in contents] == expected
    assert [part.rows for part in parts] == [sum(groups) for groups in expected]
    assert [part.first_line for part in parts] == [
        number * part_rows for number in range(len(expected))
    ]


def test_a_row_group_spans_many_pages() -> None:
    _, (content,) = written(rows(2 * CHUNK_ROWS + 1), lengths=(137,), row_group_rows=2 * CHUNK_ROWS)

    assert row_groups(content) == [2 * CHUNK_ROWS, 1]


def test_what_is_written_is_read_back_in_order() -> None:
    _, contents = written(rows(25_000), lengths=(1999, 1), part_rows=7000, row_group_rows=3000)

    read = pa.concat_tables([pq.read_table(io.BytesIO(content)) for content in contents])
    assert read.equals(rows(25_000))


def test_a_part_says_what_its_file_is_made_of() -> None:
    parts, contents = written(rows(250), part_rows=100, row_group_rows=100)

    assert [part.size_bytes for part in parts] == [len(content) for content in contents]
    assert [part.sha256 for part in parts] == [
        hashlib.sha256(content).hexdigest() for content in contents
    ]


def test_a_part_is_compressed_and_has_statistics_an_index_and_checksums() -> None:
    _, (content,) = written(rows(10_000))

    metadata = pq.ParquetFile(io.BytesIO(content)).metadata
    column = metadata.row_group(0).column(0)
    assert column.compression == "ZSTD"
    assert (column.statistics.min, column.statistics.max) == (0, 9999)
    assert column.has_offset_index
    assert column.has_column_index
    damaged = bytearray(content)
    damaged[column.data_page_offset + 60] ^= 1
    with pytest.raises((OSError, pa.ArrowException)):
        pq.read_table(io.BytesIO(bytes(damaged)), page_checksum_verification=True)


def dictionaries_of(content: bytes) -> set[str]:
    group = pq.ParquetFile(io.BytesIO(content)).metadata.row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    return {column.path_in_schema for column in columns if column.has_dictionary_page}


def test_columns_whose_values_come_again_have_dictionaries() -> None:
    _, (content,) = written(rows(CHUNK_ROWS))
    assert dictionaries_of(content) == {"name", "tags.list.element"}
    _, (content,) = written(rows(CHUNK_ROWS - 1))
    assert dictionaries_of(content) == set()


@pytest.mark.parametrize("schema", [row.schema.arrow for row in DETAILS.values() if row.schema])
def test_columns_of_every_type_can_have_dictionaries_and_need_not(schema: pa.Schema) -> None:
    """Booleans have none, and a column that never repeats is written as it is."""
    with_null = [pa.nulls(CHUNK_ROWS, field.type) for field in schema]
    loose = pa.schema([field.with_nullable(True) for field in schema])
    _, (content,) = written(pa.table(with_null, schema=loose))
    leaves = pq.ParquetFile(io.BytesIO(content)).schema
    paths = {leaves.column(number).path for number in range(len(leaves.names))}
    booleans = {field.name for field in schema if pa.types.is_boolean(field.type)}
    assert dictionaries_of(content) == paths - booleans


ODD_ROWS = [
    '{"unitPrice":null}',
    '{"new":1,"new":2}',
    '{"New":1e999,"new":{"a":1}}',
    '{"quantity":"x","unitPrice":[],"dyn\\u00e9":"\\ud800"}',
    '{"unitPrice":1.5}',
]


@given(st.lists(st.sampled_from(ODD_ROWS), min_size=1, max_size=30), st.integers(1, 30))
def test_the_footer_counts_the_same_rescues_whether_a_page_is_in_one_part_or_two(
    texts: list[str], part_rows: int
) -> None:
    transfer = Transfer("D1", "office", "billing_line_items")
    schema = schema_of("office", "billing_line_items")
    assert schema is not None
    decoder = PageDecoder("D1", schema)
    page = decoder.decode(f'{{"items":[{",".join(texts)}]}}'.encode()).page
    batch, store = decoder.batch(page, 0), Memory()
    parts = PartWriter(
        cast("Store", store),
        name_of,
        part_rows=part_rows,
        row_group_rows=part_rows,
        transfer=transfer,
        total_column=schema.total,
    )
    parts.write(batch, page.columns.rescues)
    counted: Counter[str] = Counter()
    for part in parts.finish(schema.arrow):
        file = pq.ParquetFile(io.BytesIO(store.content(part)))
        footer = footer_of(file.metadata.metadata)
        assert footer is not None
        counted.update(footer.rescues)
    assert counted == page.columns.rescues


@pytest.mark.parametrize("count", [0, 1, 99, 100])
@pytest.mark.parametrize(
    "schema",
    [INVOICE_ARROW, *(row.schema.arrow for row in DETAILS.values() if row.schema is not None)],
)
def test_parquet_alone_tells_the_schema_of_a_part(schema: pa.Schema, count: int) -> None:
    nothing = [pa.nulls(count, field.type) for field in schema]
    loose = pa.schema([field.with_nullable(True) for field in schema])
    table = pa.table(nothing, schema=loose)

    _, (content,) = written(table)

    file = pq.ParquetFile(io.BytesIO(content))
    assert file.schema_arrow.remove_metadata() == loose.remove_metadata()
    assert b"ARROW:schema" not in (file.metadata.metadata or {})
    assert file.read().num_rows == count


@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 700), min_size=1, max_size=8),
    count=st.integers(0, 3000),
    part_rows=st.integers(400, 4000),
    row_group_rows=st.integers(50, 400),
)
def test_the_bytes_of_a_part_depend_on_its_rows_alone_however_they_came(
    lengths: list[int], count: int, part_rows: int, row_group_rows: int
) -> None:
    table = rows(count)

    one = written(table, lengths, part_rows=part_rows, row_group_rows=row_group_rows)
    other = written(table, (10_000,), part_rows=part_rows, row_group_rows=row_group_rows)

    assert one == other


def test_the_bytes_of_a_large_part_depend_on_its_rows_alone() -> None:
    table = rows(3 * CHUNK_ROWS + 17)

    contents = [
        written(table, lengths, row_group_rows=2 * CHUNK_ROWS)[1]
        for lengths in ((2000,), (137,), (40_000,))
    ]

    assert contents[0] == contents[1] == contents[2]


def is_readable(content: bytes) -> bool:
    try:
        pq.read_table(io.BytesIO(content))
    except (OSError, pa.ArrowException):
        return False
    return True


def test_a_part_that_is_given_up_can_not_be_read() -> None:
    for count in (1, 150, 450):
        store = Memory()
        given_up = writer(store, part_rows=400, row_group_rows=100)
        for batch in cut(rows(count), (50,)):
            given_up.write(batch)

        given_up.abort()
        del given_up  # a ParquetWriter that is collected closes itself

        assert store.files or count == 1
        whole = [is_readable(bytes(file.content)) for file in store.files.values()]
        assert whole == [number < count // 400 for number in range(len(whole))]


def test_giving_up_removes_every_staged_file(tmp_path: Path) -> None:
    given_up = writer(LocalStore(tmp_path), part_rows=100, row_group_rows=50)
    given_up.write(rows(250).combine_chunks().to_batches()[0])
    assert len(list(tmp_path.iterdir())) == 3

    given_up.abort()

    assert list(tmp_path.iterdir()) == []


def attempt(store: Memory, table: pa.Table) -> list[StagedPart]:
    """Write as the worker does: to the end, or not at all."""
    parts_of = writer(store, part_rows=400, row_group_rows=100)
    try:
        for batch in cut(table, (50,)):
            parts_of.write(batch)
        return parts_of.finish(table.schema)
    except BaseException:
        parts_of.abort()
        raise


def test_a_disk_that_fills_up_at_any_byte_is_a_storage_error_and_leaves_no_readable_part() -> None:
    table = rows(1000)
    plenty = Memory()
    needed = sum(part.size_bytes for part in attempt(plenty, table))

    for room in [*range(12), *range(12, needed, 173), needed - 9, needed - 1]:
        store = Memory(room)
        with pytest.raises(StorageError, match="the disk is full"):
            attempt(store, table)
        *sealed, last = store.files.values()
        assert all(is_readable(bytes(file.content)) for file in sealed)
        assert not is_readable(bytes(last.content)), room

    assert attempt(Memory(needed), table)


def test_a_table_is_staged_as_one_file(tmp_path: Path) -> None:
    table = rows(25_000)

    part = stage_table(LocalStore(tmp_path), PurePosixPath("table.part"), table)

    assert pq.read_table(tmp_path / "table.part").equals(table)
    assert part.rows == 25_000


def test_a_table_that_cannot_be_staged_leaves_nothing(tmp_path: Path) -> None:
    class Full(LocalStore):
        def create(self, name: PurePosixPath) -> BinaryIO:
            super().create(name).close()
            return open("/dev/full", "wb")  # the writer closes it

    with pytest.raises(StorageError) as caught:
        stage_table(Full(tmp_path), PurePosixPath("x"), rows(9))

    assert str(caught.value).startswith(
        "/dev/full: the disk is full"
    )  # where the file is, not its name in the archive
    assert list(tmp_path.iterdir()) == []


class Journal:
    """Keeps what a writer was given, and reads it back."""

    def __init__(self) -> None:
        self.batches: list[pa.RecordBatch] = []
        self.read_rows = 0

    def read(self, first: int, end: int) -> list[pa.RecordBatch]:
        self.read_rows += end - first
        table = pa.Table.from_batches(self.batches)
        batches: list[pa.RecordBatch] = table.slice(first, end - first).to_batches()
        return batches


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 700), min_size=1, max_size=8),
    count=st.integers(0, 3000),
    part_rows=st.integers(400, 4000),
    row_group_rows=st.integers(50, 400),
    roomy_bytes=st.sampled_from([0, 5_000, 20_000, 1 << 30]),
    released=st.lists(st.booleans(), min_size=1, max_size=5),
)
def test_the_bytes_of_a_part_do_not_depend_on_where_its_rows_waited(
    lengths: list[int],
    count: int,
    part_rows: int,
    row_group_rows: int,
    roomy_bytes: int,
    released: list[bool],
) -> None:
    journal, budget, store = Journal(), Budget(roomy_bytes * 8 // 3), Memory()
    crowded = PartWriter(
        cast(Any, store),
        name_of,
        part_rows=part_rows,
        row_group_rows=row_group_rows,
        budget=budget,
    )

    for number, batch in enumerate(cut(rows(count), lengths)):
        crowded.write(batch)
        journal.batches.append(batch)
        assert budget.used == crowded.held_bytes
        if released[number % len(released)]:
            crowded.release(journal.read)
            assert budget.used <= roomy_bytes
    parts = crowded.finish(SCHEMA)

    assert budget.used == 0
    expected = written(rows(count), lengths, part_rows=part_rows, row_group_rows=row_group_rows)
    assert [store.content(part) for part in parts] == expected[1]


@pytest.mark.parametrize(("batches_kept", "rows_read"), [(0, 200), (1, 100), (2, 0)])
def test_only_rows_that_memory_has_no_room_for_are_read_back(
    batches_kept: int, rows_read: int
) -> None:
    first, _, last = cut(rows(300), [100])
    room_bytes = batches_kept * max(each.get_total_buffer_size() for each in (first, last))
    journal, budget = Journal(), Budget(-(-room_bytes * 8 // 3))
    crowded = PartWriter(
        cast(Any, Memory()), name_of, part_rows=1000, row_group_rows=300, budget=budget
    )
    for batch in cut(rows(300), [100]):
        crowded.write(batch)
        journal.batches.append(batch)
        crowded.release(journal.read)

    assert journal.read_rows == rows_read


def test_what_is_given_up_no_longer_counts_as_waiting() -> None:
    budget = Budget(1 << 20)
    given_up = PartWriter(
        cast(Any, Memory()), name_of, part_rows=1000, row_group_rows=300, budget=budget
    )
    given_up.write(cut(rows(100), [100])[0])
    assert budget.used > 0

    given_up.abort()

    assert budget.used == 0


@pytest.mark.parametrize(
    ("others", "grown", "released"), [(0, 0, 0), (1, 0, 1), (15, 0, 8), (0, 1 << 30, 8)]
)
def test_what_row_groups_free_is_given_back_more_often_with_more_writers_or_a_grown_process(
    others: int, grown: int, released: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[None] = []
    monkeypatch.setattr(parts, "release_gaps", lambda: calls.append(None))
    group_bytes = sum(each.get_total_buffer_size() for each in cut(rows(300), [300]))
    taken = itertools.chain([0], itertools.repeat(grown))
    budget = Budget(group_bytes, lambda: Taken(next(taken)))
    writers = [
        PartWriter(cast(Any, Memory()), name_of, part_rows=9000, row_group_rows=300, budget=budget)
        for _ in range(others + 1)
    ]
    for each in writers:
        each.write(cut(rows(1), [1])[0])

    for group in range(8):
        writers[0].write(cut(rows(300, 300 * group), [300])[0])

    assert len(calls) == released
    for each in writers:
        each.abort()


@settings(max_examples=25, deadline=None)
@given(
    weights=st.lists(st.integers(0, 900), min_size=1, max_size=60),
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=6),
    row_group_rows=st.integers(40, 200),
)
def test_a_row_group_of_heavy_rows_ends_by_their_bytes_wherever_pages_are_cut(
    weights: list[int], lengths: list[int], row_group_rows: int
) -> None:
    count = 300
    table = rows(count).set_column(
        1, SCHEMA.field(1), pa.array(["x" * weights[n % len(weights)] for n in range(count)])
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts_module, "_GROUP_BYTES", 20_000)
        patch.setattr(parts_module, "_STEP_ROWS", 10)
        sizes = {"part_rows": 150, "row_group_rows": min(150, row_group_rows)}
        _, contents = written(table, lengths, **sizes)
        assert contents == written(table, [count], **sizes)[1]
        for content in contents:
            file = pq.ParquetFile(io.BytesIO(content))
            groups = [file.read_row_group(number) for number in range(file.num_row_groups)]
            for group in groups:
                heavy = group.slice(0, group.num_rows - 10).combine_chunks().to_batches()
                assert sum(map(weigh, heavy)) < 20_000
            for group in groups[:-1]:
                weight = sum(map(weigh, group.combine_chunks().to_batches()))
                assert group.num_rows == sizes["row_group_rows"] or weight >= 20_000
