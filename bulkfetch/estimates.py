"""The estimate links: which line items the service has that no invoice has yet, and where."""

from __future__ import annotations

from dataclasses import dataclass, field

from bulkfetch.decoding.jsontext import Json, Pairs, utf8_of
from bulkfetch.decoding.pages import page_of
from bulkfetch.wire.session import Session
from bulkfetch.wire.transport import Request


@dataclass(frozen=True, slots=True)
class Estimate:
    """One kind of line items that no invoice has yet; what the service left out is "".

    `type` is "daily_rated_usage" or "non_consumption", `period` "Current" or "Previous", `link` the path and query of
    the line items. `source` is the entry as the server wrote it.
    """

    type: str
    period: str
    title: str
    description: str
    link: str
    source: Pairs = field(default_factory=Pairs, repr=False, compare=False)


async def get_estimates(session: Session, currency: str) -> tuple[Estimate, ...]:
    """Get the estimate links of a currency. Raises RequestError."""
    request = Request("/invoices/estimates/links", (("currencycode", currency),))
    return await session.get(request, _estimates_of)


def _estimates_of(body: bytes) -> tuple[Estimate, ...]:
    _, items = page_of(utf8_of(body))
    return tuple(_estimate_of(each) for each in items if isinstance(each, Pairs))


def _estimate_of(entry: Pairs) -> Estimate:
    link = entry.get("link")
    uri = link.get("uri") if isinstance(link, Pairs) else None
    words = {name: _text(entry.get(name)) for name in ("type", "period", "title", "description")}
    return Estimate(**words, link=_text(uri), source=entry)


def _text(value: Json) -> str:
    return str(value) if isinstance(value, str) else ""
