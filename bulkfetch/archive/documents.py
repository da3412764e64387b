"""The documents of invoices: which there are, how one is saved, and the record that it is there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import count
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import anyio.to_thread
import orjson

from bulkfetch.archive.commits import money, sealed, unsealed
from bulkfetch.archive.layout import DOCUMENT_COMMITS, DOCUMENTS, FORMAT_VERSION, STAGING, id_name
from bulkfetch.errors import DamagedError, MalformedBodyError, StorageError, UploadLostError, printable
from bulkfetch.partnercenter.invoices import Invoice
from bulkfetch.storage.store import UPLOADS_LOST, LocalStore, Store, explained, side_by_side
from bulkfetch.wire.session import Session
from bulkfetch.wire.transport import Request, path_segment

_OWN_HASH = "document_sha256"
_MARGIN = 1024
"""Where a PDF has its first and its last mark: readers look this far for them."""
_HEADERS = {"Accept": "application/pdf", "Accept-Encoding": "identity"}
"""PDFs are compressed in themselves."""


@dataclass(frozen=True, slots=True, order=True)
class Document:
    """A PDF of the service: an invoice's statement or, with `receipt_id`, one of its tax receipts.

    `charged`, the invoice's `totalCharges`, tells an invoice that has changed since.
    """

    invoice_id: str
    receipt_id: str = ""
    charged: Decimal | None = field(default=None, compare=False)

    @property
    def path(self) -> str:
        """Where the service has it, below the base URL."""
        receipt = f"/receipts/{path_segment(self.receipt_id)}" if self.receipt_id else ""
        return f"/invoices/{path_segment(self.invoice_id)}{receipt}/documents/statement"

    @property
    def stem(self) -> str:
        """Its name in an archive, without an ending; no escaped id has the small letters in it."""
        kind = f"receipt-{id_name(self.receipt_id)}" if self.receipt_id else "statement"
        return f"{id_name(self.invoice_id)}-{kind}"

    @property
    def name(self) -> PurePosixPath:
        """Where an archive has it."""
        return DOCUMENTS / f"{self.stem}.pdf"

    @property
    def commit_name(self) -> PurePosixPath:
        """Where an archive has the record that it is there."""
        return DOCUMENT_COMMITS / f"{self.stem}.json"

    def __str__(self) -> str:
        return printable(f"{self.invoice_id} {f'receipt {self.receipt_id}' if self.receipt_id else 'statement'}")


@dataclass(frozen=True, slots=True)
class CommittedDocument:
    """A document that is in the archive, and what its file is made of."""

    document: Document
    size_bytes: int
    sha256: str

    def to_json(self) -> bytes:
        """Write the record as JSON, with the hash of everything else in it."""
        charged = self.document.charged
        facts = {
            "format_version": FORMAT_VERSION,
            "invoice_id": self.document.invoice_id,
            "receipt_id": self.document.receipt_id or None,
            "charged": None if charged is None else f"{money(charged):f}",
            "name": str(self.document.name),
            "size_bytes": self.size_bytes,
            "sha256": self.sha256,
        }
        return sealed(facts, _OWN_HASH)


def documents_of(invoices: Iterable[Invoice]) -> tuple[Document, ...]:
    """Return the documents of invoices, each once: a statement of each, of an amendment only where that links one, and
    all tax receipts."""
    return tuple(dict.fromkeys(_documents_of(invoices)))


def _documents_of(invoices: Iterable[Invoice]) -> Iterator[Document]:
    for invoice in invoices:
        if invoice.amendment_of is None or invoice.pdf_download_link:
            yield Document(invoice.id, charged=invoice.total_charges)
        for receipt in invoice.tax_receipts:
            yield Document(invoice.id, receipt.id, charged=invoice.total_charges)


async def export_document(document: Document, session: Session, store: Store) -> CommittedDocument:
    """Fetch one document into the archive: staged, synced, moved into place, and then committed.

    Raises RequestError, SignInError, ServerUnavailableError or StorageError; then what was there before stays.
    """
    staged = STAGING / f"document+{document.stem}.part"
    for lost in count(1):
        try:
            saved = await _fetched(document, session, store, staged)
            break
        except UploadLostError as error:
            if error.final or lost == UPLOADS_LOST:
                raise
    committed = CommittedDocument(document, saved.size, saved.digest)
    await anyio.to_thread.run_sync(_commit, committed, store, staged)
    return committed


def _commit(committed: CommittedDocument, store: Store, staged: PurePosixPath) -> None:
    document = committed.document
    if store.size(document.commit_name) is not None:
        store.settle(staged)  # what replaces a document has to outlive this process
    store.remove(document.commit_name)  # it must not come to vouch for another file
    store.publish(staged, document.name)
    store.write(document.commit_name, committed.to_json())


async def save_document(document: Document, session: Session, file: Path) -> int:
    """Save one document as `file`, which is replaced once the whole is there, and return its size in bytes.

    Raises RequestError, SignInError, ServerUnavailableError or StorageError.
    """
    store, name = LocalStore(file.parent), PurePosixPath(file.name)
    staged = name.with_name(f".{name.name}.part")
    saved = await _fetched(document, session, store, staged)
    try:
        await anyio.to_thread.run_sync(store.publish, staged, name)
    except BaseException:  # no run comes by to sweep here
        saved.abandon()
        raise
    return saved.size


async def _fetched(document: Document, session: Session, store: Store, staged: PurePosixPath) -> _Saving:
    saving = _Saving(store, staged)
    try:
        return await session.get(Request(document.path, headers=_HEADERS, receiver=saving), saving.finished)
    except BaseException:
        saving.abandon()
        raise


class _Saving:
    """A document on its way to a staged file: a Receiver of its bytes. All calls block."""

    def __init__(self, store: Store, staged: PurePosixPath) -> None:
        self.size = 0
        self._store = store
        self._staged = staged
        self._file: BinaryIO | None = None
        self._sha256 = hashlib.sha256()
        self._head = self._tail = b""

    @property
    def digest(self) -> str:
        """The sha256 of all bytes, in hexadecimal digits."""
        return self._sha256.hexdigest()

    def begin(self) -> None:
        """Begin anew: what an attempt before has brought is thrown away."""
        self._close()
        self._file = self._store.create(self._staged)
        self.size, self._sha256, self._head, self._tail = 0, hashlib.sha256(), b"", b""

    def write(self, data: bytes) -> None:
        """Append bytes. Raises StorageError."""
        if self._file is None:
            raise StorageError(f"{self._staged} was given up")
        try:
            self._file.write(data)
        except OSError as error:
            raise StorageError(explained(error, self._staged)) from error
        self._sha256.update(data)
        self.size += len(data)
        if len(self._head) < _MARGIN:
            self._head = (self._head + data)[:_MARGIN]
        self._tail = (self._tail + data)[-_MARGIN:]

    def finished(self, rest: bytes) -> _Saving:
        """Make the file durable; `rest` is the body where it was not written as it came.

        Raises MalformedBodyError if it is no PDF, or not a whole one.
        """
        if rest:
            self.begin()
            self.write(rest)
        if b"%PDF-" not in self._head:
            raise MalformedBodyError(
                f"the body is no PDF: it has {self.size} bytes, and not the mark that one begins with"
            )
        if b"%%EOF" not in self._tail:
            raise MalformedBodyError(f"the PDF is cut: it has {self.size} bytes, and not the mark that one ends with")
        if self._file is not None:
            self._store.seal(self._file)
            self._file = None
        return self

    def abandon(self) -> None:
        """Remove what has come."""
        self._close()
        with suppress(StorageError):  # a staged file that cannot be removed is swept by the next run
            self._store.remove(self._staged)

    def _close(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None


# What an archive has.


def committed_documents(store: Store, documents: Sequence[Document]) -> dict[Document, CommittedDocument]:
    """Return which of `documents` are done; it blocks.

    One is done if its record can be read, its file is there in its size, and its invoice charges what it did.
    """

    def done(document: Document) -> CommittedDocument | None:
        content = store.read(document.commit_name)
        try:
            committed = None if content is None else parse_document(content, document.commit_name)
        except DamagedError:
            return None
        is_whole = committed is not None and store.size(document.name) == committed.size_bytes
        return committed if is_whole and committed and not _has_changed(document, committed) else None

    found = zip(documents, side_by_side(store, done, documents), strict=True)
    return {document: committed for document, committed in found if committed is not None}


def _has_changed(now: Document, committed: CommittedDocument) -> bool:
    pair = now.charged, committed.document.charged
    return None not in pair and pair[0] != pair[1]


def document_commits(store: Store) -> list[PurePosixPath]:
    """Return the names of all records of documents, sorted."""
    return [name for name in store.list(DOCUMENT_COMMITS) if name.suffix == ".json"]


def parse_document(content: bytes, name: PurePosixPath) -> CommittedDocument:
    """Read the record of a document. Raises DamagedError."""
    try:
        if (version := orjson.loads(content)["format_version"]) != FORMAT_VERSION:
            raise StorageError(f"{name} has format version {version}; this bulkfetch reads version {FORMAT_VERSION}")
        facts = unsealed(content, _OWN_HASH)
        charged = None if facts["charged"] is None else Decimal(facts["charged"])
        document = Document(facts["invoice_id"], facts["receipt_id"] or "", charged)
        if (document.commit_name, str(document.name)) != (name, facts["name"]):
            raise ValueError(f"it is that of {document}")
        return CommittedDocument(document, facts["size_bytes"], facts["sha256"])
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise DamagedError(f"{name} is damaged ({error}); the next export --documents fetches it again") from error
