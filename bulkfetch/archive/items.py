"""The kinds of records that an archive has, read alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePosixPath

from bulkfetch.archive.commits import Commit, parse_commit
from bulkfetch.archive.documents import parse_document
from bulkfetch.archive.headers import parse_headers
from bulkfetch.archive.layout import COMMITS, DOCUMENT_COMMITS, HEADER_COMMITS
from bulkfetch.archive.records import Record

_PARSE: Mapping[PurePosixPath, Callable[[bytes, PurePosixPath], Record]] = {
    COMMITS: parse_commit,
    DOCUMENT_COMMITS: parse_document,
    HEADER_COMMITS: parse_headers,
}


def parse_record(content: bytes, name: PurePosixPath) -> Record:
    """Read the record that is, was or will be stored as `name`. Raises DamagedError.

    Every name in it has been checked to be one that this very record can have.
    """
    return _PARSE[name.parent](content, name)


def is_whole(record: Record) -> bool:
    """Return whether all files of a record are known to be there: of a rebuilt commit they may not
    be."""
    return not isinstance(record, Commit) or record.is_whole


def is_rebuilt(record: Record) -> bool:
    """Return whether a record was made from files that were in place before it."""
    return isinstance(record, Commit) and record.rebuilt
