"""What can be chosen about the sandbox's Microsoft Graph and its blobs."""

from __future__ import annotations

import re
from dataclasses import dataclass

LOCATIONS = ("inline", "link", "text")
ORDERS = ("ascending", "descending", "shuffled")
CALLS = ("operation", "manifest", "export")
EMPTY = ("5000", "no_rows", "no_blobs")
QUIRKS: dict[str, str] = {
    "absent_keys": "every other row lacks some keys",
    "nulls": "every other row has null where a key may be absent",
    "other_case": "every third row spells its keys in another case",
    "unknown_keys": "every fifth row has keys that no page names",
    "text_numbers": "every third row has its numbers as text",
    "exponents": "every fourth row has small numbers with an exponent",
    "lists": "every fifth row has a list or an object where a text belongs",
    "line_separators": "every fourth row has U+2028 and U+2029 in a text",
    "dates": "dates in five spellings",
}
"""How rows may be spelled otherwise than they are documented."""


@dataclass(frozen=True, slots=True)
class GraphOptions:
    """The options of one sandbox that are about Microsoft Graph."""

    port: int = 0
    """The port of Graph; 0 takes a free one."""
    blob_port: int = 0
    """The port of the blobs; 0 takes a free one."""
    token: str = "sandbox-graph-token"  # noqa: S105  it opens nothing but this sandbox
    """A token for Graph that never expires."""
    permission: str = "PartnerBilling.Read.All"
    """The permission that tokens for Graph have; any other one is refused with 403."""
    since: str = "2024-02"
    """The first billing period whose reconciliation it has."""
    usage_since: str = "2022-09"
    """The first billing period whose usage it has."""
    operation_s: float = 0.0
    """How long an export takes."""
    retry_after: str = "1"
    """The Retry-After of an operation that is not ready; empty for none."""
    statuses: tuple[str, ...] = ("notStarted", "running", "succeeded", "failed")
    """How the four statuses of an operation are spelled."""
    location: str = "inline"
    """How an operation names its manifest: inline, link or text."""
    fresh_sas: str = "operation"
    """Which call renews the SAS: asking for the operation again, for the manifest, or only another
    export; each includes the ones after it."""
    sas_s: float = 3600.0
    """How long a SAS is valid."""
    max_operations: int = 0
    """More operations than this that are not ready are refused with 429; 0 refuses none."""
    blobs: int = 1
    """The blobs of one export."""
    order: str = "ascending"
    """The order in which a manifest lists them: ascending, descending or shuffled."""
    empty: str = "5000"
    """How an export without rows ends: it fails with 5000, or has a blob without rows, or none."""
    rows: tuple[str, ...] = ()
    """How rows are spelled otherwise than documented."""

    def __post_init__(self) -> None:
        """Raise ValueError for options that contradict themselves."""
        _check(self)


def _check(options: GraphOptions) -> None:
    chosen = (
        ("graph location", options.location, LOCATIONS),
        ("graph order", options.order, ORDERS),
        ("graph empty", options.empty, EMPTY),
        ("graph fresh_sas", options.fresh_sas, CALLS),
        *(("graph rows", quirk, tuple(QUIRKS)) for quirk in options.rows),
    )
    for name, value, words in chosen:
        if value not in words:
            raise ValueError(f"{name} is one of {', '.join(words)}, not {value!r}")
    if len(options.statuses) != 4 or not all(options.statuses):
        raise ValueError("graph statuses are four words: not started, running, succeeded, failed")
    months = (options.since, options.usage_since)
    if not all(re.fullmatch(r"[0-9]{4}-(0[1-9]|1[0-2])", month) for month in months):
        raise ValueError("graph since and usage_since are months such as 2024-02")
    if options.blobs < 1:
        raise ValueError("graph blobs are at least 1")
    if min(options.operation_s, options.sas_s, options.max_operations) < 0:
        raise ValueError("graph operation_s, sas_s and max_operations cannot be negative")
