"""One document, from its request to its commit."""

from __future__ import annotations

from functools import partial
from pathlib import Path, PurePosixPath

import anyio.to_thread

from bulkfetch.archive.documents import CommittedDocument, Saving
from bulkfetch.archive.layout import staged_document
from bulkfetch.archive.publishing.publish import Publishing
from bulkfetch.billing.documents import Document
from bulkfetch.storage.disk import LocalStore
from bulkfetch.storage.store import Store, until_uploaded_async
from bulkfetch.wire.messages import Request
from bulkfetch.wire.session import Session

_HEADERS = {"Accept": "application/pdf", "Accept-Encoding": "identity"}
"""PDFs are compressed in themselves."""


async def export_document(
    document: Document, session: Session, publishing: Publishing, *, by_content: bool = False
) -> CommittedDocument:
    """Fetch one document into the archive: staged whole, then published with its record.

    Raises RequestError, SignInError, ServerUnavailableError or StorageError; then what was there
    before stays. With `by_content`, a damaged file is replaced that has the right size.
    """
    staged = staged_document(document)
    saved = await until_uploaded_async(partial(_fetch, document, session, publishing.store, staged))
    committed = CommittedDocument(document, saved.size, saved.digest)
    publish = partial(publishing.publish, committed, {staged: saved.digest}, by_content=by_content)
    await anyio.to_thread.run_sync(publish)
    return committed


async def save_document(document: Document, session: Session, file: Path) -> int:
    """Save one document as `file`, which is replaced once the whole is there, and return its size
    in bytes.

    Raises RequestError, SignInError, ServerUnavailableError or StorageError.
    """
    store, name = LocalStore(file.parent), PurePosixPath(file.name)
    staged = name.with_name(f".{name.name}.part")
    saved = await _fetch(document, session, store, staged)
    try:
        await anyio.to_thread.run_sync(store.replace, staged, name)
    except BaseException:  # no run comes by to sweep here
        saved.abandon()
        raise
    return saved.size


async def _fetch(
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
