"""Where everything is stored in an archive, and how names from the server become names of files.

    invoices/part-00000-1f0c….parquet                       the invoice headers
    line_items/provider=office/line_item_type=billing_line_items/D070002EGD-00000-9b2e….parquet
    unbilled_line_items/provider=one_time/line_item_type=usage_line_items/period=current/
        currency_code=EUR/unbilled-00000-….parquet
    documents/D070002EGD-statement-….pdf
    tables/invoices/part-00000-1f0c….parquet                copies of invoice headers, for tables
    _bulkfetch/archive.json                                 makes a directory an archive
    _bulkfetch/commits/T.json                               a finished transfer
    _bulkfetch/documents/T.json                             a document
    _bulkfetch/headers/invoices.json                        the table of invoice headers
    _bulkfetch/staging/…                                    what is not published yet
    _bulkfetch/superseded/<moment>/…                        what has been replaced
    _bulkfetch/failures.jsonl                               what no run could complete so far
    _bulkfetch/exports.json                                 which exports are awaited or checked
    _bulkfetch/runs/…, logs/…                               what each run did, request by request
    _bulkfetch/tables/office/billing_line_items/1f0c….compacted   many small files, copied into one

Beside a record `T.json` there may be `T.next`, the one that replaces it, and `T.<moment>.old`, the
one that is being replaced. The 12 digits in a name are the first of the file's sha256.

The logs of tables are in folders that begin with an underscore: `_delta_log/` in the folder of
each table, and `_iceberg/`. Beside the log of a table of copies, `_sources/` says what each copy is
made of.
"""

from __future__ import annotations

import hashlib
import re
import string
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from urllib.parse import unquote

from bulkfetch.billing.details import NEW_COMMERCE
from bulkfetch.billing.documents import Document
from bulkfetch.billing.transfers import Transfer, periods_of, unbilled_transfer

FORMAT_VERSION = 2
"""Raised whenever what is on disk changes in a way that older versions cannot read."""

LINE_ITEMS = PurePosixPath("line_items")
UNBILLED_LINE_ITEMS = PurePosixPath(
    "unbilled_line_items"
)  # beside the others: who reads those must not count these
INVOICES = PurePosixPath("invoices")
DOCUMENTS = PurePosixPath("documents")
TABLES = PurePosixPath("tables")
"""Holds what tables need beside the archive's own files."""
ICEBERG = "_iceberg"
"""The folder of what Iceberg tables keep of their own."""
DELTA_LOG = "_delta_log"
"""The folder of the log of a Delta table, in the folder of its files."""
STATE = PurePosixPath(
    "_bulkfetch"
)  # readers of data lakes skip names that begin with an underscore
ARCHIVE = STATE / "archive.json"
COMMITS = STATE / "commits"
DOCUMENT_COMMITS = STATE / "documents"
HEADER_COMMITS = STATE / "headers"
RECORDS = (COMMITS, DOCUMENT_COMMITS, HEADER_COMMITS)
"""The directories of records: a record names files, and says that they are whole."""
HEADERS_COMMIT = HEADER_COMMITS / "invoices.json"
STAGING = STATE / "staging"
STAGED_HEADERS = STAGING / "invoices.part"
SUPERSEDED = STATE / "superseded"
DATA = (LINE_ITEMS, UNBILLED_LINE_ITEMS, INVOICES, DOCUMENTS)
"""The directories that readers read."""
FAILURES = STATE / "failures.jsonl"
ACCEPTED = STATE / "accepted.json"
WITNESS = STATE / "witness.json"
EXPORTS = STATE / "exports.json"
REFUSED = STATE / "refused"
RUNS = STATE / "runs"
LOGS = STATE / "logs"
LOCK = STATE / "lock"
COMPACTED = STATE / "tables"
"""Holds tables of copies: no name of a copy ends as data does, so no glob counts its rows."""
COMPACTED_STAGED = STAGING / "compacted.part"
"""Where a copy is written until it is whole: there is one at a time."""

_MAX_NAME = 72  # three of them and an ending have to fit into the 255 bytes of a file name
_KEPT = 36
_ID_SAFE = frozenset((string.ascii_uppercase + string.digits + "-").encode())
_WORD_SAFE = frozenset((string.ascii_lowercase + string.digits + "_-").encode())


def id_name(invoice_id: str) -> str:
    """Return the name of an invoice in file names: itself, if it is of capitals and digits as real
    ids are.

    Everything else is percent-encoded, small letters too, so that ids differing in case alone stay
    apart on file systems that ignore it. An overlong name is cut and ends in a hash of the whole.
    """
    return _escaped(invoice_id, _ID_SAFE)


def word_name(word: str) -> str:
    """Return the name of a provider or a line-item type in partition directories, escaped
    likewise."""
    return _escaped(word, _WORD_SAFE)


@lru_cache(maxsize=1 << 8)
def partition(provider: str, line_item_type: str) -> PurePosixPath:
    """Return the Hive partition of what was asked for; its keys are no columns of the files."""
    return (
        LINE_ITEMS
        / f"provider={word_name(provider)}"
        / f"line_item_type={word_name(line_item_type)}"
    )


def unbilled_partition(provider: str, line_item_type: str) -> PurePosixPath:
    """Return the folder of a type's unbilled line items, by periods and currencies below it."""
    return UNBILLED_LINE_ITEMS / partition(provider, line_item_type).relative_to(LINE_ITEMS)


def is_partition(folder: PurePosixPath) -> bool:
    """Return whether a folder is one that `partition` or `unbilled_partition` may name."""
    return _PARTITION.fullmatch(str(folder)) is not None


def part_name(transfer: Transfer, number: int, sha256: str) -> PurePosixPath:
    """Return where part `number` of `transfer` is published."""
    names = transfer.provider, transfer.line_item_type
    ending = f"{number:05d}-{sha256[:DIGITS]}.parquet"
    if transfer.unbilled:
        period, currency = transfer.unbilled
        below = PurePosixPath(f"period={word_name(period)}", f"currency_code={id_name(currency)}")
        return unbilled_partition(*names) / below / f"unbilled-{ending}"
    return partition(*names) / f"{id_name(transfer.invoice_id)}-{ending}"


def document_stem(document: Document) -> str:
    """Return a document's name in an archive, without digits and ending; no escaped id has the
    small letters in it."""
    kind = f"receipt-{id_name(document.receipt_id)}" if document.receipt_id else "statement"
    return f"{id_name(document.invoice_id)}-{kind}"


def document_name(document: Document, sha256: str) -> PurePosixPath:
    """Return where an archive has a document."""
    return DOCUMENTS / f"{document_stem(document)}-{sha256[:DIGITS]}.pdf"


def document_commit_name(document: Document) -> PurePosixPath:
    """Return where an archive has the record that a document is there."""
    return DOCUMENT_COMMITS / f"{document_stem(document)}.json"


def staged_document(document: Document) -> PurePosixPath:
    """Return where a document is written until it is whole."""
    return STAGING / f"document+{document_stem(document)}.part"


def document_named(name: PurePosixPath) -> Document | None:
    """Return the document that a published file is named for, or None if its name cannot tell."""
    match = _DOCUMENT.fullmatch(str(name))
    if match is None or "~" in match[1]:
        return None
    invoice, _, receipt = match[1].partition("-receipt-")
    document = Document(
        unquote(invoice if receipt else match[1].removesuffix("-statement")), unquote(receipt)
    )
    if document_stem(document) == match[1]:
        return document
    return None


def headers_name(sha256: str) -> PurePosixPath:
    """Return where the table of invoice headers is published."""
    return INVOICES / f"part-00000-{sha256[:DIGITS]}.parquet"


def copied_headers_name(sha256: str) -> PurePosixPath:
    """Return where the copy of the table of invoice headers is that tables have."""
    return TABLES / headers_name(sha256)


def compacted_folder(root: PurePosixPath) -> PurePosixPath:
    """Return the folder of the copies of a `partition`."""
    return COMPACTED.joinpath(*(folder.partition("=")[2] for folder in root.parts[1:]))


def is_compacted(folder: PurePosixPath) -> bool:
    """Return whether a folder is one that `compacted_folder` may name."""
    return folder.parent.parent == COMPACTED


def copy_name(folder: PurePosixPath, sha256: str) -> PurePosixPath:
    """Return where a copy of line items is."""
    return folder / f"{sha256[:DIGITS]}{COPY_ENDING}"


def copy_record_name(copy: PurePosixPath) -> PurePosixPath:
    """Return where the record is that says what a copy is made of."""
    return copy.parent / "_sources" / f"{copy.stem}.json"


@dataclass(frozen=True, slots=True)
class Published:
    """What the name of a published file says: its record, its staged name, its sha256."""

    record: PurePosixPath
    staged: PurePosixPath
    digits: str
    number: int = 0


def published_as(name: PurePosixPath) -> Published | None:
    """Return what the name of a published file says, or None for a file not named by bulkfetch."""
    text = str(name)
    if match := _PART.fullmatch(text):
        transfer, number, digits = f"{match[3]}+{match[1]}+{match[2]}", match[4], match[5]
    elif match := _UNBILLED_PART.fullmatch(text):
        transfer = f"{_unbilled_name(match[3], match[4])}+{match[1]}+{match[2]}"
        number, digits = match[5], match[6]
    elif match := _DOCUMENT.fullmatch(text):
        staged = STAGING / f"document+{match[1]}.part"
        return Published(DOCUMENT_COMMITS / f"{match[1]}.json", staged, match[2])
    elif match := _HEADERS.fullmatch(text):
        return Published(HEADERS_COMMIT, STAGED_HEADERS, match[1])
    else:
        return None
    record = COMMITS / f"{transfer}.json"
    return Published(record, STAGING / f"{transfer}+{number}.part", digits, int(number))


def is_of_tables(name: PurePosixPath) -> bool:
    """Return whether a file belongs to tables: it is no data of the archive, and none of its
    records. Beside copies, others may have left files that readers of the archive count."""
    first, *folders = name.parts[:-1] or ("",)
    if name.is_relative_to(COMPACTED):
        return name.suffix != ".parquet" or DELTA_LOG in folders
    if PurePosixPath(first) in DATA:
        return any(folder.startswith("_") for folder in folders)
    return first in (str(TABLES), ICEBERG)


def next_name(record: PurePosixPath) -> PurePosixPath:
    """Return where the record is written that is to replace `record`."""
    return record.with_suffix(".next")


def old_name(record: PurePosixPath, moment: str) -> PurePosixPath:
    """Return the name of a record while it is being replaced."""
    return record.with_suffix(f".{moment}.old")


def record_named(name: PurePosixPath) -> tuple[PurePosixPath, str] | None:
    """Return the record that a name in a directory of records belongs to, and what it is of it.

    That is "json", "next", or the moment at which it was replaced; None for any other name.
    """
    match = _RECORD.fullmatch(name.name)
    if name.parent not in RECORDS or match is None:
        return None
    return name.parent / f"{match[1]}.json", match[2].removesuffix(".old")


def superseded_name(moment: str, name: PurePosixPath) -> PurePosixPath:
    """Return where a replaced file is kept; no name there ends as data does."""
    return SUPERSEDED / moment / f"{name.name}.old"


def staged_name(transfer: Transfer, number: int) -> PurePosixPath:
    """Return where part `number` is written until the transfer is whole; no reader takes it for
    data."""
    return STAGING / f"{transfer_name(transfer)}+{number:05d}.part"


def staged_again_name(transfer: Transfer, number: int) -> PurePosixPath:
    """Return where part `number` is written when a transfer is asked for once more."""
    return staged_name(transfer, number).with_suffix(".again")


def attempt_name(transfer: Transfer, number: int, attempt: str) -> PurePosixPath:
    """Return where one attempt of another process writes part `number`: no two attempts meet.

    `attempt` has 12 hexadecimal digits.
    """
    name = staged_name(transfer, number)
    return name.with_name(f"{name.stem}~{attempt}{name.suffix}")


def attempt_record_name(transfer: Transfer, number: int, attempt: str) -> PurePosixPath:
    """Return where it is written down that an attempt has staged its piece of a transfer, whose
    first part is `number`."""
    return attempt_name(transfer, number, attempt).with_suffix(".json")


def probe_name(word: str) -> PurePosixPath:
    """Return where a file is that shows whether other processes see the archive."""
    return STAGING / f"probe~{word}"


def refused_name(transfer: Transfer, name: str) -> PurePosixPath:
    """Return where rows are kept that the archive did not take; no name there ends as data does."""
    return REFUSED / transfer_name(transfer) / name


JOURNAL_SIDES = (0, 1)
"""A new journal is written on one side while the old one is on the other."""


def journal_name(transfer: Transfer, side: int) -> PurePosixPath:
    """Return where the pages of a transfer are kept while it is fetched, so that a later run
    continues behind them."""
    return staged_name(transfer, side).with_suffix(".journal")


def waiting_name(transfer: Transfer, side: int) -> PurePosixPath:
    """Return where the pages of a transfer are kept while it is fetched, if no later run may
    continue behind them."""
    return staged_name(transfer, side).with_suffix(".rows")


def operation_name(transfer: Transfer) -> PurePosixPath:
    """Return where the export is written down that Microsoft Graph was asked to make."""
    return STAGING / f"{transfer_name(transfer)}+operation.json"


def commit_name(transfer: Transfer) -> PurePosixPath:
    """Return where the transfer's commit is written."""
    return COMMITS / f"{transfer_name(transfer)}.json"


def transfer_name(transfer: Transfer) -> str:
    """Return one name for the whole transfer; the plus sign occurs in none of its escaped parts."""
    words = word_name(transfer.provider), word_name(transfer.line_item_type)
    if transfer.unbilled:
        period, currency = transfer.unbilled
        return "+".join((_unbilled_name(word_name(period), id_name(currency)), *words))
    return "+".join((id_name(transfer.invoice_id), *words))


def invoice_of_commit(name: PurePosixPath) -> str:
    """Return the invoice that a commit is named for, "" for one of unbilled line items.

    Of an overlong id it is the short form that names have.
    """
    invoice = invoice_in_name(name)
    if invoice.startswith("~unbilled-"):
        return ""
    return unquote(invoice)


def invoice_in_name(record: PurePosixPath) -> str:
    """Return the invoice of a record as its name has it: what `id_name` made of its id."""
    return record.name.partition("+")[0]


def unbilled_of_commit(name: PurePosixPath) -> Transfer | None:
    """Return the transfer of unbilled line items that a commit is named for, or None for any other
    name."""
    match = _UNBILLED_COMMIT.fullmatch(name.name)
    if match is None or match[1] not in periods_of(match[3]):
        return None
    return unbilled_transfer(match[3], match[4], period=match[1], currency=match[2])


DIGITS = 12
"""How many digits of its sha256 the name of a file has."""
COPY_ENDING = ".compacted"
_ENDING = rf"([0-9]{{5,}})-([0-9a-f]{{{DIGITS}}})\.parquet"
_PARTITION = re.compile(r"(?:unbilled_)?line_items/provider=[^/]+/line_item_type=[^/]+")
_PART = re.compile(rf"line_items/provider=([^/]+)/line_item_type=([^/]+)/([^/]+)-{_ENDING}")
_UNBILLED_PART = re.compile(
    r"unbilled_line_items/provider=([^/]+)/line_item_type=([^/]+)/period=([^/]+)"
    rf"/currency_code=([^/]+)/unbilled-{_ENDING}"
)
_DOCUMENT = re.compile(
    rf"documents/([^/]+-(?:statement|receipt-[^/]+))-([0-9a-f]{{{DIGITS}}})\.pdf"
)
_HEADERS = re.compile(rf"invoices/part-00000-([0-9a-f]{{{DIGITS}}})\.parquet")
_RECORD = re.compile(r"([A-Za-z0-9%+~_-]+)\.(json|next|[0-9]{8}T[0-9]{6}\.[0-9]{6}Z\.old)")
_UNBILLED_COMMIT = re.compile(
    rf"~unbilled-([a-z]+)-([A-Z]{{3}})\+({'|'.join(NEW_COMMERCE)})\+([a-z_]+)\.json"
)


def _unbilled_name(period: str, currency: str) -> str:
    return f"~unbilled-{period}-{currency}"  # no name of an invoice begins with a tilde and goes on


@lru_cache(maxsize=1 << 10)
def _escaped(name: str, safe: frozenset[int]) -> str:
    if name.isascii() and safe.issuperset(name.encode()) and 0 < len(name) <= _MAX_NAME:
        return name
    raw, text = name.encode("utf-8", "surrogatepass"), name.encode("utf-8", "replace")
    escaped = [_escaped_character(character, safe) for character in text.decode()]
    if raw == text and sum(map(len, escaped)) <= _MAX_NAME:
        return "".join(escaped) or _EMPTY
    kept = ""
    for (
        piece
    ) in escaped:  # whole characters only: readers decode these names, and refuse half a character
        if len(kept) + len(piece) > _KEPT:
            break
        kept += piece
    return f"{kept}~{hashlib.sha256(raw).hexdigest()[:32].upper()}"


def _escaped_character(character: str, safe: frozenset[int]) -> str:
    return "".join(chr(byte) if byte in safe else f"%{byte:02X}" for byte in character.encode())


_EMPTY = "~"  # no other name begins with a tilde and ends there
