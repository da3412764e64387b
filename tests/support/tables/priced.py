"""An archive of made-up line items whose prices and quantities have many digits, and the truth."""

from __future__ import annotations

import json
from decimal import Context, Decimal, Inexact
from pathlib import Path

from support.replay import MadeUp, invoice, serving

from bulkfetch.runs.export import export_async

OFFICE = ("office", "billing_line_items")
ONE_TIME = ("one_time", "billing_line_items")
USAGE = ("one_time", "usage_line_items")
WHOLE = [("2", "6.15"), ('"300"', "0.01"), ("-4", "99999.999999"), ("25.0", '"12.30"')]
"""Quantities and prices of purchases, as JSON."""
WITH_DECIMALS = [
    ("24", "0.1999968000511991808131"),
    ("23.200004", "99.1234567890123456789012"),
    ('"-1234567.123456"', '"0.0000000000000000000001"'),
    ("0.000001", "0.1999968000511991808131"),
]
"""Those of usage: up to 6 decimals of a quantity, and 22 of a price."""
WITH_MORE = [*WITH_DECIMALS, ("1.3111679999999999", "0.1999968000511991808131")]
"""The same with a quantity of 16 decimals, as azure's usage has it."""
UNSET = "0001-01-01T00:00:00"
_EXACT = Context(prec=1000, traps=[Inexact])


def total_of(pairs: list[tuple[str, str]]) -> Decimal:
    """Add up the products of JSON quantities and prices, without rounding."""
    total = Decimal(0)
    for quantity, price in pairs:
        product = _EXACT.multiply(Decimal(quantity.strip('"')), Decimal(price.strip('"')))
        total = _EXACT.add(total, product)
    return total


async def archive_prices(lake: Path, usage: list[tuple[str, str]]) -> None:
    """Export an invoice of office, one_time billing and usage; each row of one_time has an unset
    date."""
    tenant = MadeUp(
        [invoice("D1", OFFICE, ONE_TIME, USAGE)],
        {
            ("D1", *OFFICE): [_row(*pair) for pair in WHOLE],
            ("D1", *ONE_TIME): [_row(*pair, unset=True) for pair in WHOLE],
            ("D1", *USAGE): [_row(*pair, unset=True) for pair in usage],
        },
    )
    async with serving(tenant) as server:
        report = await export_async(lake, server.settings())
    assert report.complete
    assert not report.rescues


def _row(quantity: str, price: str, *, unset: bool = False) -> str:
    date = f',"pcToBCExchangeRateDate":{json.dumps(UNSET)}' if unset else ""
    return f'{{"quantity":{quantity},"unitPrice":{price}{date}}}'
