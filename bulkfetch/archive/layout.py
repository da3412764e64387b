"""Where everything lies in an archive, and how names from the server become names of files.

invoices/part-00000.parquet
line_items/provider=office/line_item_type=billing_line_items/D070002EGD-00000.parquet
unbilled_line_items/provider=one_time/line_item_type=usage_line_items/period=current/currency_code=EUR/unbilled-00000.parquet
documents/D070002EGD-statement.pdf _bulkfetch/archive.json                  what makes a directory
an archive of ours _bulkfetch/invoices.json                 the hash of the table of invoice headers
_bulkfetch/commits/<transfer>.json       one for each finished transfer
_bulkfetch/documents/<document>.json     one for each document _bulkfetch/staging/…
parts of transfers that are under way, and where to go on behind them _bulkfetch/failures.jsonl
the transfers that no run could complete so far, if there are any _bulkfetch/runs/…
what each run did _bulkfetch/logs/…                        what happened to its requests
"""

from __future__ import annotations

import hashlib
import re
import string
from functools import lru_cache
from pathlib import PurePosixPath

from bulkfetch.billing.details import NEW_COMMERCE
from bulkfetch.billing.documents import Document
from bulkfetch.billing.spelling import PERIODS
from bulkfetch.billing.transfers import Transfer, unbilled_transfer

FORMAT_VERSION = 1
"""Raised whenever what is on disk changes in a way that older versions cannot read."""

LINE_ITEMS = PurePosixPath("line_items")
UNBILLED_LINE_ITEMS = PurePosixPath(
    "unbilled_line_items"
)  # beside the others: who reads those must not count these
INVOICES = PurePosixPath("invoices")
DOCUMENTS = PurePosixPath("documents")
HEADERS = INVOICES / "part-00000.parquet"
STATE = PurePosixPath(
    "_bulkfetch"
)  # readers of data lakes skip names that begin with an underscore
ARCHIVE = STATE / "archive.json"
HEADERS_RECORD = STATE / "invoices.json"
COMMITS = STATE / "commits"
DOCUMENT_COMMITS = STATE / "documents"
STAGING = STATE / "staging"
FAILURES = STATE / "failures.jsonl"
ACCEPTED = STATE / "accepted.json"
RUNS = STATE / "runs"
LOGS = STATE / "logs"
LOCK = STATE / "lock"

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


def partition(provider: str, line_item_type: str) -> PurePosixPath:
    """Return the Hive partition of what was asked for; its keys are no columns of the files."""
    return (
        LINE_ITEMS
        / f"provider={word_name(provider)}"
        / f"line_item_type={word_name(line_item_type)}"
    )


def part_name(transfer: Transfer, number: int) -> PurePosixPath:
    """Return where part `number` of `transfer` is published."""
    directory = partition(transfer.provider, transfer.line_item_type)
    if transfer.unbilled:
        period, currency = transfer.unbilled
        below = (
            directory.relative_to(LINE_ITEMS)
            / f"period={word_name(period)}"
            / f"currency_code={id_name(currency)}"
        )
        return UNBILLED_LINE_ITEMS / below / f"unbilled-{number:05d}.parquet"
    return directory / f"{id_name(transfer.invoice_id)}-{number:05d}.parquet"


def document_stem(document: Document) -> str:
    """Return a document's name in an archive, without an ending; no escaped id has the small
    letters in it."""
    kind = f"receipt-{id_name(document.receipt_id)}" if document.receipt_id else "statement"
    return f"{id_name(document.invoice_id)}-{kind}"


def document_name(document: Document) -> PurePosixPath:
    """Return where an archive has a document."""
    return DOCUMENTS / f"{document_stem(document)}.pdf"


def document_commit_name(document: Document) -> PurePosixPath:
    """Return where an archive has the record that a document is there."""
    return DOCUMENT_COMMITS / f"{document_stem(document)}.json"


def commit_of_document(name: PurePosixPath) -> PurePosixPath | None:
    """Return where the record of a document is, or None for a file that is not named like one."""
    return (
        DOCUMENT_COMMITS / f"{name.stem}.json"
        if name.parent == DOCUMENTS and name.suffix == ".pdf"
        else None
    )


def commit_of_part(name: PurePosixPath) -> PurePosixPath | None:
    """Return where the commit of a published part is, or None for a file that is not named like
    one."""
    found = _transfer_and_number(name)
    return COMMITS / f"{found[0]}.json" if found else None


def staged_name(transfer: Transfer, number: int) -> PurePosixPath:
    """Return where part `number` is written until the transfer is whole; no reader takes it for
    data."""
    return STAGING / f"{transfer_name(transfer)}+{number:05d}.part"


def checkpoint_name(transfer: Transfer, number: int) -> PurePosixPath:
    """Return where a staged part is written down once it is whole, so that a later run can adopt
    it."""
    return staged_name(transfer, number).with_suffix(".json")


def staged_of_part(name: PurePosixPath) -> PurePosixPath | None:
    """Return where a published part was staged, or None for a file that is not named like one."""
    found = _transfer_and_number(name)
    return STAGING / f"{found[0]}+{found[1]}.part" if found else None


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


def unbilled_of_commit(name: PurePosixPath) -> Transfer | None:
    """Return the transfer of unbilled line items that a commit is named for, or None for any other
    name."""
    match = _UNBILLED_COMMIT.fullmatch(name.name)
    return (
        unbilled_transfer(match[3], match[4], period=match[1], currency=match[2]) if match else None
    )


_PART = re.compile(
    r"line_items/provider=([^/]+)/line_item_type=([^/]+)/([^/]+)-([0-9]{5,})\.parquet"
)
_UNBILLED_PART = re.compile(
    r"unbilled_line_items/provider=([^/]+)/line_item_type=([^/]+)/period=([^/]+)/currency_code=([^/]+)"
    r"/unbilled-([0-9]{5,})\.parquet"
)
_UNBILLED_COMMIT = re.compile(
    rf"~unbilled-({'|'.join(PERIODS)})-([A-Z]{{3}})\+({'|'.join(NEW_COMMERCE)})\+([a-z_]+)\.json"
)


def _unbilled_name(period: str, currency: str) -> str:
    return f"~unbilled-{period}-{currency}"  # no name of an invoice begins with a tilde and goes on


def _transfer_and_number(part: PurePosixPath) -> tuple[str, str] | None:
    """Return the name of a published part's transfer, and the part's number as it is written."""
    if match := _PART.fullmatch(str(part)):
        return f"{match[3]}+{match[1]}+{match[2]}", match[4]
    if match := _UNBILLED_PART.fullmatch(str(part)):
        return f"{_unbilled_name(match[3], match[4])}+{match[1]}+{match[2]}", match[5]
    return None


@lru_cache(maxsize=1 << 10)
def _escaped(name: str, safe: frozenset[int]) -> str:
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
