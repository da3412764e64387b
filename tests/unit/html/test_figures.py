from __future__ import annotations

import json
import tempfile
from collections import Counter, defaultdict
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from support.page.figures import AT
from support.page.htmltree import amount_of, read_html, table_of

from bulkfetch.archive.commits import Commit, CommittedPart
from bulkfetch.archive.headers import stage_headers
from bulkfetch.archive.layout import STAGED_HEADERS, commit_name, part_name
from bulkfetch.archive.origin import claim_archive
from bulkfetch.archive.publishing.publish import Publishing
from bulkfetch.billing.invoices import invoice_of
from bulkfetch.billing.transfers import Transfer
from bulkfetch.decoding.jsontext import Pairs, loads
from bulkfetch.html.figures import read_figures
from bulkfetch.html.page import make_page
from bulkfetch.storage.disk import LocalStore

DIGITS = "0" * 64
CHARGING = {
    ("office", "billing_line_items"): "totalForCustomer",
    ("azure", "billing_line_items"): "postTaxTotal",
    ("one_time", "billing_line_items"): "totalForCustomer",
    ("all", "billing_line_items"): "totalForCustomer",
    ("<b>new</b>", "billing_line_items"): None,
}
"""Details whose line items are charges, and the column that says what they charge."""
DETAILS = [*CHARGING, ("azure", "usage_line_items"), ("one_time", "usage_line_items")]
ids = st.sampled_from(["D1", "d1", "<script>", "فاتورة", "a/b c", "x" * 90, "G5", "G6"])
dates = st.none() | st.sampled_from(["0001-01-01", "2023-12-31", "2024-01-01", "2024-03-08"])
currencies = st.sampled_from(["EUR", "JPY", "<i>", None])
amounts = st.decimals("-1e9", "1e9", places=24, allow_nan=False) | st.just(Decimal("0.01"))


@st.composite
def drawn_invoice(draw: st.DrawFn, invoice_id: str) -> dict[str, Any]:
    """An invoice with some details, of which some are archived: with rows, total, rescues."""
    details = draw(st.lists(st.sampled_from(DETAILS), unique=True, min_size=1, max_size=5))
    archived = draw(st.lists(st.sampled_from(details), unique=True))
    return {
        "id": invoice_id,
        "date": draw(dates),
        "currency": draw(currencies),
        "charged": draw(st.none() | amounts),
        "details": details,
        "archived": {
            each: (
                draw(st.integers(1, 10**6)),
                draw(st.none() | amounts) if CHARGING.get(each) else None,
                draw(st.dictionaries(st.sampled_from(["a", "<u>"]), st.integers(1, 9))),
            )
            for each in archived
        },
    }


drawn = st.lists(ids, unique=True, min_size=1, max_size=4).flatmap(
    lambda found: st.tuples(*map(drawn_invoice, found))
)


def lay_down(root: Path, invoices: tuple[dict[str, Any], ...]) -> LocalStore:
    """Make an archive of records alone: there is no file of line items at all."""
    store = LocalStore(root)
    claim_archive(store, {"source": "made up"}, {}, api="v1")
    headers = []
    for each in invoices:
        named = [
            {"billingProvider": provider, "invoiceLineItemType": kind}
            for provider, kind in each["details"]
        ]
        facts = {"id": each["id"], "currencyCode": each["currency"], "invoiceDetails": named}
        if each["date"]:
            facts["invoiceDate"] = f"{each['date']}T23:00:00Z"
        source = json.dumps(facts)
        if each["charged"] is not None:
            source = f'{source[:-1]},"totalCharges":{each["charged"]:f}}}'
        pairs = loads(source.encode())
        assert isinstance(pairs, Pairs)
        headers.append(invoice_of(pairs))
        for (provider, kind), (rows, total, rescues) in each["archived"].items():
            transfer = Transfer(each["id"], provider, kind, currency=each["currency"])
            part = CommittedPart(str(part_name(transfer, 0, DIGITS)), 0, rows, 10, DIGITS)
            column = CHARGING.get((provider, kind))
            commit = Commit(transfer, rows, (part,), column, total, rescues)
            store.write(commit_name(transfer), commit.to_json())
    staged = stage_headers(store, headers)
    Publishing(store).publish(staged, {STAGED_HEADERS: staged.sha256})
    return store


def month_of(invoice: dict[str, Any]) -> str:
    return invoice["date"][:7] if invoice["date"] else "no date"


@settings(max_examples=12)
@given(drawn)
def test_the_page_of_any_archive_has_its_charges_line_items_and_rescues(
    invoices: tuple[dict[str, Any], ...],
) -> None:
    charges: dict[str, dict[tuple[str, str], Fraction]] = defaultdict(lambda: defaultdict(Fraction))
    rows: Counter[tuple[str, str]] = Counter()
    rescues: Counter[tuple[str, str]] = Counter()
    for invoice in invoices:
        # `all` has the line items of one_time again, if the invoice has both
        repeats = ("one_time", "billing_line_items") in invoice["details"]
        for (provider, kind), (number, total, found) in invoice["archived"].items():
            rows[month_of(invoice), provider] += number
            for field, values in found.items():
                rescues[f"{provider}/{kind}", field] += values
            if total is not None and not (provider == "all" and repeats):
                currency = invoice["currency"] or "unknown currency"
                charges[currency][month_of(invoice), provider] += Fraction(total)

    with tempfile.TemporaryDirectory() as folder:
        store = lay_down(Path(folder), invoices)
        root = read_html(make_page(read_figures(store, "lake", None), AT))

    def cells(caption: str) -> dict[tuple[str, str], Fraction]:
        head, *body = table_of(root, caption)
        return {
            (row[0], name): Fraction(amount_of(cell))
            for row in body
            for name, cell in zip(head[1:], row[1:], strict=True)
            if cell != "–" and row[0] != "Total" and (name != "Total" or len(head) == 2)
        }

    headings = [each.text for each in root.all("h3")]
    assert {*charges} == {each for each in headings if not each.startswith("Missing")}
    for currency, expected in charges.items():
        assert cells(f"Charges in {currency} by month and provider") == expected
    if rows:
        assert cells("Line items by month and provider") == rows
    if rescues:
        _, *body, _ = table_of(root, "Rescued values by field")
        assert {(row[0], row[1]): int(row[2]) for row in body} == rescues
