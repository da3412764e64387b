"""Which billing periods Partner Center's v1 API still serves, and which only Microsoft Graph's export has.

Microsoft moved new commerce to a second version of the API and stopped serving its newer periods by the first one on 21
April 2025 ("Get invoice line items" and "Get invoice's billed commercial consumption line items", 2025). Licences and
Azure usage of legacy commerce stay with the first version, whatever the period.
"""

from __future__ import annotations

from datetime import date

from bulkfetch.runs.plan import Transfer

SINCE = {"billing_line_items": date(2024, 2, 1), "usage_line_items": date(2022, 9, 1)}
"""The first billing period of new commerce that v1 does not serve any more, by line-item type."""
_WORDS = {"billing_line_items": "line items", "usage_line_items": "daily-rated usage"}
_NOT_CAUSED_BY_THE_PERIOD = (401, 408, 429)


def needs_graph(transfer: Transfer) -> bool:
    """Tell whether only Microsoft Graph's export has the line items of a transfer: new commerce of a newer period.

    What is not billed yet is new; where the period is not known it is not said to be.
    """
    since = SINCE.get(transfer.line_item_type)
    if not transfer.is_modern or since is None:
        return False
    return bool(transfer.unbilled) or (transfer.billed_from is not None and transfer.billed_from >= since)


def period_advice(transfer: Transfer, status: int | None) -> str:
    """Return what a refusal with `status` means where the billing period is its cause, "" where it is not."""
    if status is None or not 400 <= status < 500 or status in _NOT_CAUSED_BY_THE_PERIOD:
        return ""
    return explanation(transfer) if needs_graph(transfer) else ""


def explanation(transfer: Transfer) -> str:
    """Say which periods v1 serves of a transfer's type, and where the others are."""
    what = _WORDS[transfer.line_item_type]
    if transfer.unbilled:
        of_this = "these are not billed yet"
    else:
        of_this = f"this one is {transfer.billed_from:%B %Y}" if transfer.billed_from else "this one may be newer"
    return (
        f"since 21 April 2025 the v1 API serves new-commerce {what} of billing periods before "
        f"{SINCE[transfer.line_item_type]:%B %Y} only, and {of_this}: Microsoft Graph's billing export has them, "
        "which bulkfetch does not fetch yet (docs/billing-periods.md)"
    )
