"""The arguments of `bulkfetch sandbox` that are about Microsoft Graph."""

from __future__ import annotations

import argparse
from typing import Any

from bulkfetch.sandbox.graph.options import CALLS, EMPTY, LOCATIONS, ORDERS, QUIRKS, GraphOptions


def add_graph_arguments(group: argparse._ArgumentGroup) -> None:
    """Add an argument for each field of GraphOptions."""
    _add(group, "port", "the port of Graph; 0 takes a free one")
    _add(group, "blob_port", "the port of the blobs; 0 takes a free one")
    _add(group, "token", "a bearer token for Graph that never expires")
    _add(group, "permission", "the permission that tokens for Graph have; another is refused: 403")
    _add(group, "since", "the first billing period whose reconciliation Graph has")
    _add(group, "usage_since", "the first billing period whose daily-rated usage Graph has")
    _add(group, "operation_s", "how many seconds an export takes")
    _add(group, "retry_after", "the Retry-After of an operation that is not ready; empty for none")
    _add_words(group, "statuses", "how the four statuses of an operation are spelled")
    _add(group, "location", "how an operation names its manifest", choices=LOCATIONS)
    _add(group, "fresh_sas", "which call, and those after it, renews the SAS", choices=CALLS)
    _add(group, "sas_s", "how many seconds a SAS is valid")
    _add(group, "max_operations", "refuse more open operations than this: 429; 0 refuses none")
    _add(group, "blobs", "the blobs of one export")
    _add(group, "order", "the order of the blobs in a manifest", choices=ORDERS)
    _add(group, "empty", "how an export without rows ends", choices=EMPTY)
    _add_words(group, "rows", f"how rows are spelled: {', '.join(QUIRKS)}, or `every`", _quirks)


def _add(group: argparse._ArgumentGroup, name: str, words: str, **more: Any) -> None:
    default = getattr(GraphOptions(), name)
    if "choices" not in more:
        more["metavar"] = "N" if isinstance(default, int | float) else "WORD"
    group.add_argument(
        f"--graph-{name.replace('_', '-')}",
        type=type(default),
        default=default,
        help=f"{words} (default: {default})",
        **more,
    )


def _words(value: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in value.split(",") if word.strip())


def _quirks(value: str) -> tuple[str, ...]:
    if value == "every":
        return tuple(QUIRKS)
    return _words(value)


def _add_words(group: argparse._ArgumentGroup, name: str, words: str, read: Any = _words) -> None:
    default = getattr(GraphOptions(), name)
    shown = ""
    if default:
        shown = f" (default: {','.join(default)})"
    group.add_argument(
        f"--graph-{name}", type=read, default=default, metavar="WORDS", help=f"{words}{shown}"
    )
