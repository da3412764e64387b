"""`archive.json`: whose invoices, in what shape; no other is mixed in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from bulkfetch.archive.layout import ARCHIVE, FORMAT_VERSION
from bulkfetch.archive.records import sealed, unsealed
from bulkfetch.billing.schemas import SCHEMA_VERSION
from bulkfetch.errors import OutputError
from bulkfetch.storage.store import Store

_ARCHIVE_HASH = "archive_sha256"


def claim_archive(store: Store, facts: Mapping[str, Any]) -> None:
    """Mark an output directory as ours, or check that it was made with the same `facts`; None is
    not known.

    Raises OutputError if what it was made from, or what shapes its files, differs: one archive
    never mixes two.
    """
    known = {name: value for name, value in facts.items() if value is not None}
    wanted = {"format_version": FORMAT_VERSION, "schema_version": SCHEMA_VERSION, **known}
    found = read_archive(store) or {}
    differing = [name for name in wanted if found.get(name, wanted[name]) != wanted[name]]
    if differing:
        words = "; ".join(_difference(name, found[name], wanted[name]) for name in differing)
        raise OutputError(
            f"this archive was made with other settings: {words}; or export into a new directory"
        )
    content = sealed({**found, **wanted}, _ARCHIVE_HASH)
    if (
        store.read(ARCHIVE) != content
    ):  # none yet, or one of an earlier version, which had no hash of its own
        store.write(ARCHIVE, content)


def _difference(name: str, then: object, now: object) -> str:
    """Say in what an archive differs from a run, and what to do to go on with it."""
    if name in ("format_version", "schema_version"):
        return (
            f"{name} is {then}, this bulkfetch writes {now}: go on with the version that wrote it"
        )
    if name in ("source", "tenant_id"):
        return f"its {name} is {then}, now {now}: go on with that one"
    return f"{name} is {then}, now {now}: give --{name.replace('_', '-')} {then}"


def read_archive(store: Store) -> dict[str, Any] | None:
    """Return what an archive says it was made with, or None if the directory is none. Raises
    OutputError."""
    content = store.read(ARCHIVE)
    if content is None:
        return None
    try:
        found = orjson.loads(content)
        return unsealed(content, _ARCHIVE_HASH) if _ARCHIVE_HASH in found else _without_hash(found)
    except (ValueError, TypeError, KeyError) as error:
        raise OutputError(
            f"{ARCHIVE} is damaged ({error}); `bulkfetch repair` writes it again from the settings it is run with"
        ) from error


def _without_hash(found: object) -> dict[str, Any]:
    """Check the archive file of an earlier version, which has no hash."""
    if not isinstance(found, dict) or not {"format_version"} <= found.keys() <= _WITHOUT_HASH:
        raise ValueError("it is not what an archive says of itself")
    return found


_WITHOUT_HASH = frozenset(
    [
        "format_version",
        "schema_version",
        "source",
        "tenant_id",
        "part_rows",
        "row_group_rows",
        "usage_period",
    ]
)
