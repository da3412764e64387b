from __future__ import annotations

import string
import unicodedata
from pathlib import PurePosixPath
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.archive.layout import (
    COMMITS,
    LINE_ITEMS,
    STAGING,
    UNBILLED_LINE_ITEMS,
    commit_name,
    document_name,
    document_named,
    id_name,
    is_of_tables,
    next_name,
    old_name,
    part_name,
    partition,
    published_as,
    record_named,
    staged_name,
    transfer_name,
    word_name,
)
from bulkfetch.billing.documents import Document
from bulkfetch.billing.spelling import PERIODS
from bulkfetch.billing.transfers import Transfer

HOSTILE = [
    "",
    ".",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "C:\\x",
    "x=y",
    "100%",
    "%2F",
    "two words",
    "ü",
    unicodedata.normalize("NFD", "ü"),
    "𝔘",
    "nul\0",
    "new\nline",
    "_hidden",
    ".hidden",
    "CON",
    "con",
    "~",
    "A",
    "a",
    "A-00000",
    "A+office",
    "I" * 300,
    "i" * 300,
    "I" * 301,
    "ü" * 300,
    "\ud800",
    "\ud801",
    "ß",
    "ss",
    "K",  # the Kelvin sign, a capital k to some
]
names = st.text(max_size=80) | st.text(st.characters(), max_size=80) | st.sampled_from(HOSTILE)
billed = st.builds(Transfer, names, names, names)
unbilled = st.builds(
    lambda provider, kind, period, currency: Transfer(
        "unbilled", provider, kind, (period, currency)
    ),
    names,
    names,
    st.sampled_from(PERIODS),
    names,
)
transfers = billed | unbilled


SHA256 = "0123456789ab" + "c" * 52


def commit_of_part(name: PurePosixPath) -> PurePosixPath | None:
    published = published_as(name)
    return None if published is None else published.record


def seen_alike(path: PurePosixPath) -> str:
    """Return what two paths share if a file system that ignores case and normal forms takes them
    for one."""
    return unicodedata.normalize("NFC", str(path)).casefold()


def test_a_real_part_lies_where_the_design_says() -> None:
    transfer = Transfer("D070002EGD", "office", "billing_line_items")

    assert str(part_name(transfer, 7, SHA256)) == (
        "line_items/provider=office/line_item_type=billing_line_items/"
        "D070002EGD-00007-0123456789ab.parquet"
    )
    assert (
        str(commit_name(transfer)) == "_bulkfetch/commits/D070002EGD+office+billing_line_items.json"
    )


@given(transfers, st.integers(0, 10**7))
def test_whatever_a_server_calls_things_files_stay_where_they_belong(
    transfer: Transfer, number: int
) -> None:
    for path, home, depth in (
        (
            part_name(transfer, number, SHA256),
            *((UNBILLED_LINE_ITEMS, 6) if transfer.unbilled else (LINE_ITEMS, 4)),
        ),
        (staged_name(transfer, number), STAGING, 3),
        (commit_name(transfer), COMMITS, 3),
    ):
        assert path.parts[: len(home.parts)] == home.parts
        assert len(path.parts) == depth
        for word in path.parts:
            assert set(word) <= set(string.ascii_letters + string.digits + "_-=%~+.")
            assert word not in (".", "..")
            assert len(f"{word}.tmp") <= 255  # what file systems hold


@given(transfers, transfers)
def test_two_transfers_never_share_a_file_not_even_where_case_is_ignored(
    one: Transfer, two: Transfer
) -> None:
    if one == two:
        return

    assert seen_alike(part_name(one, 0, SHA256)) != seen_alike(part_name(two, 0, SHA256))
    assert seen_alike(staged_name(one, 0)) != seen_alike(staged_name(two, 0))
    assert seen_alike(commit_name(one)) != seen_alike(commit_name(two))


@pytest.mark.parametrize("name_of", [id_name, word_name])
def test_hostile_names_are_all_different(name_of: object) -> None:
    assert callable(name_of)
    assert len({name_of(name).casefold() for name in HOSTILE}) == len(HOSTILE)


@given(transfers, st.integers(0, 10**6), st.integers(0, 10**6))
def test_parts_of_a_transfer_are_different_files(transfer: Transfer, one: int, two: int) -> None:
    assert (part_name(transfer, one, SHA256) == part_name(transfer, two, SHA256)) is (one == two)
    assert (staged_name(transfer, one) == staged_name(transfer, two)) is (one == two)


@given(transfers, transfers, st.integers(0, 10**6))
def test_a_part_is_known_as_one_of_its_own_transfer_only(
    one: Transfer, two: Transfer, number: int
) -> None:
    assert commit_of_part(part_name(one, number, SHA256)) == commit_name(one)
    if one != two:
        assert commit_of_part(part_name(one, number, SHA256)) != commit_name(two)


@given(transfers, st.integers(0, 10**6))
def test_a_part_leads_to_its_commit(transfer: Transfer, number: int) -> None:
    assert commit_of_part(part_name(transfer, number, SHA256)) == commit_name(transfer)


@pytest.mark.parametrize(
    "stray",
    [
        "invoices/part-00000.parquet",
        "line_items/provider=a/line_item_type=b/x-00000.parquet",
        "line_items/provider=a/line_item_type=b/x-00000-0123456789AB.parquet",
        "documents/contract-2020.pdf",
        "line_items/x.parquet",
        "line_items/provider=a/line_item_type=b/x.parquet",
        "unbilled_line_items/provider=a/line_item_type=b/unbilled-00000.parquet",
    ],
)
def test_a_file_that_is_not_named_like_a_part_leads_to_no_commit(stray: str) -> None:
    assert commit_of_part(PurePosixPath(stray)) is None


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=400))
def test_a_partition_decodes_to_text_and_to_the_name_itself_if_that_is_short(name: str) -> None:
    decoded = unquote(word_name(name), errors="strict")

    if 0 < len(word_name(name)) < 68 and "~" not in word_name(name):
        assert decoded == name


def test_a_partition_of_something_that_is_not_unicode_decodes_all_the_same() -> None:
    assert unquote(word_name("x\ud800"), errors="strict").startswith("x")


@given(transfers, st.integers(0, 10**6))
def test_a_part_says_where_it_was_staged_and_what_it_holds(transfer: Transfer, number: int) -> None:
    published = published_as(part_name(transfer, number, SHA256))

    assert published is not None
    assert published.staged == staged_name(transfer, number)
    assert (published.digits, published.number) == (SHA256[:12], number)


@pytest.mark.parametrize("what", ["json", "next", "20261128T030405.123456Z"])
@given(transfers)
def test_a_record_is_known_by_each_of_its_names(what: str, transfer: Transfer) -> None:
    record = commit_name(transfer)
    names = {"json": record, "next": next_name(record)}
    name = names.get(what) or old_name(record, what)

    assert record_named(name) == (record, what)
    assert len(name.name) <= 255


@pytest.mark.parametrize("name", ["T.json.tmp", "T.txt", "T.now.old", "T"])
def test_other_names_are_not_of_a_record(name: str) -> None:
    assert record_named(COMMITS / name) is None
    assert record_named(STAGING / "T.json") is None


@given(names, names)
def test_a_document_is_known_by_its_name_where_that_says_all(invoice: str, receipt: str) -> None:
    document = Document(invoice, receipt)
    found = document_named(document_name(document, SHA256))

    assert found in (document, None)
    if max(len(invoice), len(receipt)) < 5 and "~" not in str(document_name(document, SHA256)):
        assert found == document


def test_real_words_are_written_as_they_are() -> None:
    assert partition("one_time", "usage_line_items") == LINE_ITEMS / "provider=one_time" / (
        "line_item_type=usage_line_items"
    )
    assert id_name("D080002CPL") == "D080002CPL"
    assert transfer_name(Transfer("unbilled", "all", "x")) == "%75%6E%62%69%6C%6C%65%64+all+x"


def test_names_fit_a_file_system_however_long_all_three_are() -> None:
    for length in range(1, 400):
        transfer = Transfer("I" * length, "p" * length, "t" * length)
        for path in (
            part_name(transfer, 123_456, SHA256),
            staged_name(transfer, 123_456),
            commit_name(transfer),
        ):
            assert max(len(f"{word}.tmp") for word in path.parts) <= 255


@pytest.mark.parametrize(
    ("name", "is_of_a_table"),
    [
        ("line_items/provider=p/line_item_type=t/_delta_log/00000000000000000000.json", True),
        ("line_items/provider=p/line_item_type=t/_delta_log/_last_checkpoint", True),
        ("invoices/_delta_log/0.checkpoint.parquet", True),
        ("tables/invoices/part-00000-0123456789ab.parquet", True),
        ("_iceberg/csp/office/metadata/00000.metadata.json", True),
        ("_bulkfetch/tables/p/t/0123456789ab.compacted", True),
        ("_bulkfetch/tables/p/t/_delta_log/0.checkpoint.parquet", True),
        ("_bulkfetch/tables/p/t/part-00000-of-others.parquet", False),
        ("line_items/provider=p/line_item_type=t/A-00000-0123456789ab.parquet", False),
        ("line_items/provider=p/line_item_type=t/_A.parquet", False),
        ("_bulkfetch/commits/A+p+t.json", False),
        ("other/_delta_log/0.json", False),
        ("tables", False),
    ],
)
def test_what_belongs_to_tables_is_told_by_its_folder(name: str, is_of_a_table: bool) -> None:
    assert is_of_tables(PurePosixPath(name)) == is_of_a_table
