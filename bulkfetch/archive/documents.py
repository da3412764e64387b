"""The documents of invoices: which there are, how one is saved, and the record that it is there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from bulkfetch.archive.layout import (
    DOCUMENT_COMMITS,
    FORMAT_VERSION,
    document_commit_name,
    document_name,
    record_named,
)
from bulkfetch.archive.records import (
    StoredFile,
    amount_in,
    check_file,
    misplaced,
    money_text,
    parse,
    read,
    sealed,
)
from bulkfetch.billing.documents import Document
from bulkfetch.errors import DamagedError, ForeignPageError, MalformedBodyError, StorageError
from bulkfetch.storage.refusals import explain
from bulkfetch.storage.store import Store, side_by_side
from bulkfetch.strangers import recognize

_OWN_HASH = "document_sha256"
_MARGIN = 1024
"""Where a PDF has its first and its last mark: readers look this far for them."""


@dataclass(frozen=True, slots=True)
class CommittedDocument:
    """A document that is in the archive, and what its file is made of."""

    document: Document
    size_bytes: int
    sha256: str

    @property
    def name(self) -> PurePosixPath:
        """Where the document is published."""
        return document_name(self.document, self.sha256)

    @property
    def record_name(self) -> PurePosixPath:
        """Where the record is stored."""
        return document_commit_name(self.document)

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """The file that the record names."""
        return (StoredFile(str(self.name), self.size_bytes, self.sha256),)

    @property
    def is_view(self) -> bool:
        """A document is never a view of a moment."""
        return False

    def to_json(self) -> bytes:
        """Write the record as JSON, with the hash of everything else in it."""
        charged = self.document.charged
        facts = {
            "format_version": FORMAT_VERSION,
            "invoice_id": self.document.invoice_id,
            "receipt_id": self.document.receipt_id or None,
            "charged": money_text(charged),
            "name": str(self.name),
            "size_bytes": self.size_bytes,
            "sha256": self.sha256,
        }
        return sealed(facts, _OWN_HASH)


class Saving:
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

    kept = 0
    """Each attempt brings the whole document again."""

    def headers(self) -> dict[str, str]:
        """Return nothing: each attempt asks for the whole document."""
        return {}

    def begin(self, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
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
            raise StorageError(explain(error, self._staged)) from error
        self._sha256.update(data)
        self.size += len(data)
        if len(self._head) < _MARGIN:
            self._head = (self._head + data)[:_MARGIN]
        self._tail = (self._tail + data)[-_MARGIN:]

    def finished(self, rest: bytes) -> Saving:
        """Make the file durable; `rest` is the body where it was not written as it came.

        Raises MalformedBodyError if it is not a PDF, or not a whole one.
        """
        if rest:
            self.begin()
            self.write(rest)
        if b"%PDF-" not in self._head:
            stranger = recognize(self._head)
            if stranger is not None and stranger.is_page:
                raise ForeignPageError(f"the answer is {stranger.kind}, and not a PDF")
            raise MalformedBodyError(
                f"the body is not a PDF: {self.size} bytes, without %PDF- near the start"
            )
        if b"%%EOF" not in self._tail:
            raise MalformedBodyError(
                f"the PDF is cut: {self.size} bytes, without %%EOF near the end"
            )
        if self._file is not None:
            self._store.seal(self._file)
            self._file = None
        return self

    def abandon(self) -> None:
        """Remove what has come."""
        self._close()
        with suppress(
            StorageError
        ):  # a staged file that cannot be removed is swept by the next run
            self._store.unlink(self._staged)

    def _close(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None


def committed_documents(
    store: Store, documents: Sequence[Document]
) -> dict[Document, CommittedDocument]:
    """Return which of `documents` are done; it blocks.

    One is done if its record can be read, its file is there in its size, and its invoice charges
    what it did.
    """

    def find(document: Document) -> CommittedDocument | None:
        try:
            committed = read(store, document_commit_name(document), parse_document)
            if committed is None or _has_changed(document, committed):
                return None
            if store.size(committed.name) == committed.size_bytes:
                return committed
            return None
        except DamagedError:
            return None

    found = zip(documents, side_by_side(store, find, documents), strict=True)
    return {document: committed for document, committed in found if committed is not None}


def _has_changed(now: Document, committed: CommittedDocument) -> bool:
    pair = now.charged, committed.document.charged
    return None not in pair and pair[0] != pair[1]


def document_commits(store: Store) -> list[PurePosixPath]:
    """Return the names of all records of documents, sorted."""
    return [name for name in store.list(DOCUMENT_COMMITS) if record_named(name) == (name, "json")]


def parse_document(content: bytes, name: PurePosixPath) -> CommittedDocument:
    """Read the record of a document. Raises DamagedError."""
    return parse(content, name, _OWN_HASH, partial(_document_of, name))


def _document_of(name: PurePosixPath, facts: dict[str, Any]) -> CommittedDocument:
    charged = amount_in(facts["charged"])
    document = Document(facts["invoice_id"], facts["receipt_id"] or "", charged)
    committed = CommittedDocument(document, facts["size_bytes"], facts["sha256"])
    check_file(committed.files[0])
    if committed.record_name != name:
        raise misplaced(name, document)
    if str(committed.name) != facts["name"]:
        raise ValueError(f"{facts['name']!r} is not the name of {document}")
    return committed
