"""One document, from its request to its commit."""

from __future__ import annotations

from itertools import count
from pathlib import Path, PurePosixPath

import anyio.to_thread

from bulkfetch.archive.documents import CommittedDocument, Saving
from bulkfetch.archive.layout import STAGING, document_commit_name, document_name, document_stem
from bulkfetch.billing.documents import Document
from bulkfetch.errors import UploadLostError
from bulkfetch.storage.disk import LocalStore
from bulkfetch.storage.store import UPLOADS_LOST, Store
from bulkfetch.wire.session import Session
from bulkfetch.wire.transport import Request

_HEADERS = {"Accept": "application/pdf", "Accept-Encoding": "identity"}
"""PDFs are compressed in themselves."""


async def export_document(document: Document, session: Session, store: Store) -> CommittedDocument:
    """Fetch one document into the archive: staged, synced, moved into place, and then committed.

    Raises RequestError, SignInError, ServerUnavailableError or StorageError; then what was there
    before stays.
    """
    staged = STAGING / f"document+{document_stem(document)}.part"
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
    if store.size(document_commit_name(document)) is not None:
        store.settle(staged)  # what replaces a document has to outlive this process
    store.remove(document_commit_name(document))  # it must not come to vouch for another file
    store.publish(staged, document_name(document))
    store.write(document_commit_name(document), committed.to_json())


async def save_document(document: Document, session: Session, file: Path) -> int:
    """Save one document as `file`, which is replaced once the whole is there, and return its size
    in bytes.

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


async def _fetched(
    document: Document, session: Session, store: Store, staged: PurePosixPath
) -> Saving:
    saving = Saving(store, staged)
    try:
        return await session.get(
            Request(document.path, headers=_HEADERS, receiver=saving), saving.finished
        )
    except BaseException:
        saving.abandon()
        raise
