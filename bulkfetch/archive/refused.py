"""Rows that the service gave and the archive did not take, kept as evidence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from bulkfetch.archive.commits import Commit
from bulkfetch.archive.digests import StoredRows, digest_of_rows
from bulkfetch.archive.layout import refused_name
from bulkfetch.storage.store import Store


def keep_refused(store: Store, commit: Commit, staged: Sequence[PurePosixPath]) -> None:
    """Keep the staged parts of a commit that is not to be, once for the same rows. Blocks.

    The commit is written last: without it, the next refusal of the same rows keeps them again.
    """
    transfer = commit.transfer
    hashes = [part.sha256 for part in commit.parts]
    files = tuple(zip(staged, hashes, strict=True))
    digest = digest_of_rows(store, StoredRows(commit.rows, files))
    record = refused_name(transfer, f"{digest}.json")
    if store.size(record) is not None:
        return
    store.make_directory(record.parent)
    for number, name in enumerate(staged):
        kept = refused_name(transfer, f"{digest}-{number:05d}.part")
        store.unlink(kept)
        store.link(name, kept)
    store.sync_directory(record.parent)
    store.write(record, commit.to_json())
