from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.archive.commits import (
    Commit,
    CommittedPart,
    commit_names,
    parse_commit,
    read_commit,
)
from bulkfetch.archive.layout import ARCHIVE, COMMITS, commit_name, part_name
from bulkfetch.archive.origin import claim_archive, read_archive
from bulkfetch.archive.records import Withdrawal, is_sealed, money, sealed, unsealed
from bulkfetch.billing.transfers import Transfer
from bulkfetch.errors import DamagedArchiveError, DamagedError, OutputError, StorageError
from bulkfetch.storage.disk import LocalStore

TRANSFER = Transfer("D080002CPL", "office", "billing_line_items")
COMMIT = Commit(
    transfer=TRANSFER,
    rows=147,
    parts=(CommittedPart(str(part_name(TRANSFER, 0, "ab" * 32)), 0, 147, 4711, "ab" * 32),),
    total_column="totalForCustomer",
    total=Decimal("26560.39"),
    rescues={"orderDate": 2},
)
NAME = commit_name(TRANSFER)
counts = st.integers(0, 2**53)
hashes = st.text("0123456789abcdef", min_size=64, max_size=64)


def with_parts(commit: Commit, facts: list[tuple[int, int, int, str]]) -> Commit:
    parts = tuple(
        CommittedPart(str(part_name(commit.transfer, number, each[3])), *each)
        for number, each in enumerate(facts)
    )
    return replace(commit, parts=parts)


commits = st.builds(
    Commit,
    transfer=st.builds(Transfer, *[st.text(st.characters(exclude_categories=["Cs"]))] * 3),
    rows=counts,
    parts=st.just(()),
    total_column=st.none() | st.just("totalForCustomer"),
    total=st.none()
    | st.decimals(allow_nan=False, allow_infinity=False, places=24, min_value=-(10**14)),
    rescues=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), counts),
)


@given(commits, st.lists(st.tuples(counts, counts, counts, hashes), max_size=4), st.booleans())
def test_a_commit_reads_back_as_it_was_written(
    commit: Commit, facts: list[tuple[int, int, int, str]], rebuilt: bool
) -> None:
    commit = replace(with_parts(commit, facts), rebuilt=rebuilt)
    assert parse_commit(commit.to_json(), commit_name(commit.transfer)) == commit


def test_the_same_commit_is_written_in_the_same_bytes() -> None:
    other_order = replace(COMMIT, rescues={"b": 1, "a": 2})

    assert COMMIT.to_json() == replace(COMMIT).to_json()
    assert other_order.to_json() == replace(COMMIT, rescues={"a": 2, "b": 1}).to_json()


def test_a_commit_tells_the_size_of_all_its_parts() -> None:
    assert replace(COMMIT, parts=COMMIT.parts * 3).size_bytes == 3 * 4711


def test_a_transfer_is_done_once_its_commit_is_written(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert read_commit(store, TRANSFER) is None

    store.write(NAME, COMMIT.to_json())

    assert read_commit(store, TRANSFER) == COMMIT
    assert commit_names(store) == [NAME]


def test_what_is_no_commit_is_not_listed_as_one(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.write(NAME, COMMIT.to_json())
    store.write(COMMITS / "half.json.tmp", b"{")

    assert commit_names(store) == [NAME]


def test_a_bit_that_flips_anywhere_in_a_commit_is_noticed() -> None:
    content = COMMIT.to_json()

    for place in range(len(content)):
        for bit in (0, 2, 5):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            with pytest.raises(StorageError, match="_bulkfetch/commits"):
                parse_commit(bytes(damaged), NAME)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b"1", b"{}", b'{"format_version":2}', COMMIT.to_json()[:-9], b"\xff"],
)
def test_what_is_no_commit_is_damaged(content: bytes) -> None:
    with pytest.raises(DamagedError, match=r"is damaged .*; run `bulkfetch repair`"):
        parse_commit(content, NAME)


def test_a_commit_under_the_name_of_another_transfer_is_damaged() -> None:
    with pytest.raises(StorageError, match="it belongs to D080002CPL office/billing_line_items"):
        parse_commit(
            COMMIT.to_json(), commit_name(Transfer("D080002CPL", "azure", "billing_line_items"))
        )


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "line_items/x.parquet",
        "documents/D080002CPL-statement-abababababab.pdf",
        str(part_name(Transfer("other", "office", "billing_line_items"), 0, "ab" * 32)),
        str(part_name(TRANSFER, 1, "ab" * 32)),
        str(part_name(TRANSFER, 0, "cd" * 32)),
        "",
    ],
)
def test_a_commit_names_only_parts_that_its_transfer_can_have(name: str) -> None:
    hostile = replace(COMMIT, parts=(replace(COMMIT.parts[0], name=name),))

    with pytest.raises(DamagedError, match="is not the name of a part"):
        parse_commit(hostile.to_json(), NAME)


@pytest.mark.parametrize("facts", [{"size_bytes": -1}, {"sha256": "ab"}, {"sha256": "../" * 22}])
def test_a_commit_says_of_its_parts_what_can_be_checked(facts: dict[str, Any]) -> None:
    hostile = replace(COMMIT, parts=(replace(COMMIT.parts[0], **facts),))

    with pytest.raises(DamagedError):
        parse_commit(hostile.to_json(), NAME)


def test_an_archive_of_format_1_is_refused_in_one_line(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.write(ARCHIVE, b'{"format_version": 1, "part_rows": 5}')

    with pytest.raises(OutputError, match=r"format version 1; .*export into a new directory") as e:
        claim_archive(store, {})

    assert "\n" not in str(e.value)


def test_an_archive_goes_on_with_the_settings_it_was_made_with(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    claim_archive(store, {"part_rows": 5})
    made = store.read(ARCHIVE)

    claim_archive(store, {"part_rows": 5})

    assert store.read(ARCHIVE) == made
    assert (read_archive(store) or {})["part_rows"] == 5


@pytest.mark.parametrize(
    ("then", "now", "words"),
    [
        ({"part_rows": 5}, {"part_rows": 6}, "part_rows is 5, now 6: give part_rows=5"),
        ({"usage_period": "current"}, {"usage_period": "previous"}, "give usage_period='current'"),
        (
            {"source": "https://one"},
            {"source": "https://two"},
            "its source is https://one, now https://two: give base_url='https://one'",
        ),
        (
            {"tenant_id": "one"},
            {"tenant_id": "two"},
            "tenant_id is one, now two: give tenant_id='one'",
        ),
        (
            {"source": "sandbox, seed 1, 50 line items"},
            {"source": "sandbox, seed 2, 60 line items"},
            "give --sandbox --sandbox-seed 1 --sandbox-line-items 50; or export",
        ),
        (
            {"source": "sandbox, seed 1, 5 line items, details every"},
            {"source": "https://two"},
            "give --sandbox --sandbox-seed 1 --sandbox-line-items 5 --sandbox-details every; or",
        ),
        (
            {"source": "sandbox, seed 1, 5 line items"},
            {"source": "sandbox, seed 1, 5 line items, details every"},
            "--sandbox-line-items 5, without --sandbox-details; or",
        ),
        (
            {"source": "https://one"},
            {"source": "sandbox, seed 1, 5 line items"},
            "leave out --sandbox, and give base_url='https://one'; or",
        ),
        (
            {"part_rows": 100_000, "row_group_rows": 50_000},
            {"part_rows": 10, "row_group_rows": 10},
            "other settings: part_rows is 100000, now 10: give part_rows=100000; or export",
        ),
        (
            {"schema_version": 7},
            {},
            "schema_version is 7, this bulkfetch writes 2: continue with the version that wrote",
        ),
    ],
    ids=lambda value: str(value)[:20],
)
def test_an_archive_made_with_other_settings_says_what_to_do(
    then: dict[str, object], now: dict[str, object], words: str, tmp_path: Path
) -> None:
    store = LocalStore(tmp_path)
    claim_archive(store, then)
    made = store.read(ARCHIVE)

    with pytest.raises(OutputError, match="was made with other settings") as caught:
        claim_archive(store, now)

    assert words in str(caught.value)
    assert str(caught.value).endswith("; or export into a new directory")
    assert store.read(ARCHIVE) == made


def test_everything_that_differs_is_told_at_once(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    claim_archive(store, {"part_rows": 5, "row_group_rows": 4})

    with pytest.raises(
        OutputError,
        match=r"give part_rows=5; row_group_rows is 4, now 6: give row_group_rows=4",
    ):
        claim_archive(store, {"part_rows": 6, "row_group_rows": 6})


def test_an_archive_keeps_the_union_of_what_its_runs_selected(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for selection in ({"invoices": ["A"]}, {"since": "2020-01-01"}, {"invoices": ["A"]}):
        claim_archive(store, {}, selection)
    assert (read_archive(store) or {})["selections"] == [
        {"invoices": ["A"]},
        {"since": "2020-01-01"},
    ]

    claim_archive(store, {}, {})
    claim_archive(store, {}, {"invoices": ["B"]})

    assert (read_archive(store) or {})["selections"] == [{}]


def test_a_bit_that_flips_anywhere_in_the_archive_file_is_noticed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    claim_archive(store, {"part_rows": 5, "source": "https://one"})
    content = store.read(ARCHIVE) or b""

    for place in range(len(content)):
        tmp_path.joinpath(ARCHIVE).write_bytes(
            content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        )
        with pytest.raises(OutputError):
            read_archive(store)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'"archive"'])
def test_a_damaged_archive_file_is_an_error(content: bytes, tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.write(ARCHIVE, content)

    with pytest.raises(OutputError, match=r"archive\.json is damaged"):
        claim_archive(store, {})


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0", "0.00"),
        ("30154.250000000000000000000000", "30154.25"),
        ("3158969.73", "3158969.73"),
        ("-87993.070", "-87993.07"),
        ("0.1234500", "0.12345"),
        ("1E+3", "1000.00"),
        ("12345678901234.000000000000000000000001", "12345678901234.000000000000000000000001"),
    ],
)
def test_an_amount_has_no_tail_of_zeros_and_at_least_two_decimals(amount: str, text: str) -> None:
    assert str(money(Decimal(amount))) == text
    assert money(Decimal(amount)) == Decimal(amount)


def test_a_name_is_a_path_below_the_commits() -> None:
    assert NAME.parent == COMMITS
    assert isinstance(NAME, PurePosixPath)


RECORDS = (
    COMMIT.to_json(),
    replace(COMMIT, rescues={}, total=None, rebuilt=True).to_json(),
    Withdrawal((NAME,), {NAME.with_name("D080002CPL+azure+x.json"): "ab" * 32}).to_json(),
)


@given(st.sampled_from(RECORDS), st.data())
def test_a_record_with_any_byte_altered_is_refused(content: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 3)))
    altered = content[:start] + data.draw(st.binary(max_size=3)) + content[end:]

    assert is_sealed(content)
    assert is_sealed(altered) == (altered == content)


@given(st.sampled_from(RECORDS), st.data())
def test_a_record_with_its_lines_moved_copied_or_left_out_is_refused(
    content: bytes, data: st.DataObject
) -> None:
    lines = content.splitlines(keepends=True)
    places = st.lists(st.integers(0, len(lines) - 1), max_size=len(lines) + 2)
    swapped = list(range(len(lines)))
    one, two = data.draw(st.integers(0, len(lines) - 1)), data.draw(st.integers(0, len(lines) - 1))
    swapped.insert(two, swapped.pop(one))
    altered = b"".join(lines[place] for place in data.draw(places | st.just(swapped)))

    assert is_sealed(altered) == (altered == content)


@given(
    st.dictionaries(
        st.sampled_from(["a", "commit_sha256x", "rows", "zz", "x\n"]),
        st.none() | st.booleans() | st.integers(0, 9) | st.text() | st.just({"k_sha256": "x"}),
        min_size=1,
    ),
    st.sampled_from(["commit_sha256", "a_sha256", "zzz_sha256"]),
)
def test_what_is_sealed_reads_back_wherever_its_hash_stands(
    facts: dict[str, Any], key: str
) -> None:
    content = sealed(facts, key)

    assert unsealed(content, key) == facts
    for other in (json.dumps(json.loads(content)), json.dumps(json.loads(content), indent=2)):
        with pytest.raises(ValueError, match=r"written as bulkfetch|hash does not match"):
            unsealed(other.encode(), key)


@pytest.mark.parametrize("content", [b"[]", b'"x"', b"1", b"null", b"[1]\n", b"", b"{}", b"{}\n"])
def test_json_that_is_no_record_is_refused(content: bytes) -> None:
    with pytest.raises((ValueError, KeyError)):
        unsealed(content, "commit_sha256")
    assert not is_sealed(content)


@pytest.mark.parametrize(
    "content", [b"null", b"[]", b"{}", b'{"format_version":"2"}', b'"x"', b"7"]
)
def test_an_archive_file_of_another_shape_is_damaged_in_plain_words(
    content: bytes, tmp_path: Path
) -> None:
    store = LocalStore(tmp_path)
    store.write(ARCHIVE, content)

    with pytest.raises(
        DamagedArchiveError, match=r"damaged \(it does not say which format it has\)"
    ):
        read_archive(store)

    store.write(ARCHIVE, b'{"format_version":2}')
    with pytest.raises(DamagedArchiveError, match=r"damaged \(it has no hash of its content\)"):
        read_archive(store)
