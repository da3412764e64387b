"""Which line items a link of the API leads to, in each spelling that is known."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from bulkfetch.billing.details import api_spelling
from bulkfetch.billing.transfers import INVOICE_PREFIXES, Transfer
from bulkfetch.words import printable

_COLLECTIONS = {"invoices": "lineitems", "invoicing": "products"}
"""The first and the third segment of a path to line items, in v1 and in its preview."""
_PREFIX = re.compile(f"(?:{'|'.join(INVOICE_PREFIXES)})-", re.IGNORECASE)
_TYPE_KEYS = ("invoicelineitemtype", "nvoicelineitemtype")
"""How a query names the type; a letter is lost in Microsoft's samples."""


@dataclass(frozen=True, slots=True)
class LinkTarget:
    """The line items that a link leads to. None is not named by the link."""

    invoice_id: str
    provider: str | None
    line_item_type: str | None

    def __str__(self) -> str:
        names = f"{self.provider or '?'}/{self.line_item_type or '?'}"
        return printable(f"{self.invoice_id} {names}")


def target_of(link: str) -> LinkTarget | None:
    """Return which line items a link leads to, or None for a link of any other shape."""
    try:
        parts = urlsplit(link)
    except ValueError:  # brackets that are not an IPv6 address
        return None
    segments = [unquote(segment) for segment in parts.path.split("/") if segment]
    folded = [segment.casefold() for segment in segments]
    start = next((place for place, name in enumerate(folded) if name in _COLLECTIONS), None)
    if start is None or len(segments) - start not in (3, 5):
        return None
    if folded[start + 2] != _COLLECTIONS[folded[start]]:
        return None
    if len(segments) - start == 5:
        return LinkTarget(segments[start + 1], *map(api_spelling, segments[start + 3 :]))
    query = parts.query.replace("?", "&")  # samples have a second "?"
    named = {key.casefold(): value for key, value in parse_qsl(query)}
    types = [api_spelling(named[key]) for key in _TYPE_KEYS if key in named]
    provider = api_spelling(named["provider"]) if "provider" in named else None
    return LinkTarget(segments[start + 1], provider, types[0] if types else None)


def is_target(target: LinkTarget, transfer: Transfer) -> bool:
    """Return whether a link's target can be the line items of `transfer`.

    What the link does not name is not compared.
    """
    return (
        is_same_invoice(target.invoice_id, transfer.invoice_id)
        and target.provider in (None, api_spelling(transfer.provider))
        and target.line_item_type in (None, api_spelling(transfer.line_item_type))
    )


def is_same_invoice(one: str, other: str) -> bool:
    """Return whether two ids are of one invoice: links write `Recurring-D02005YFHI` for
    `D02005YFHI`, in any case."""
    return _bare(one) == _bare(other)


def _bare(invoice_id: str) -> str:
    prefix = _PREFIX.match(invoice_id)
    return invoice_id[prefix.end() if prefix else 0 :].casefold()
