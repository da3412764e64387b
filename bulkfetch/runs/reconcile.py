"""Whether the line items of an invoice add up to the total in its header.

In real invoices Σ office `totalForCustomer` + Σ azure `postTaxTotal` equals the header's
`totalCharges` to the cent (invoices D080002CPL and D080002CHM of the recordings). It is the only
check of completeness that does not trust the paging.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Any

from bulkfetch.archive.commits import Commit
from bulkfetch.archive.records import money
from bulkfetch.billing.invoices import Invoice
from bulkfetch.billing.transfers import Transfer, transfer_named
from bulkfetch.decoding.columns import exact_sum
from bulkfetch.words import counted, printable


class Verdict(Enum):
    """The result of the comparison."""

    AGREES = "agrees"
    DIFFERS = "differs"
    NOT_COMPARABLE = "not comparable"


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """The sum of an invoice's line items compared with its header, in its currency.

    `charged` is the header's `totalCharges`, `listed` the sum of the line items, `difference`
    listed minus charged; each is None where it is unknown. `why` says why they cannot be compared.
    """

    invoice_id: str
    verdict: Verdict
    charged: Decimal | None = None
    listed: Decimal | None = None
    why: str = ""

    @property
    def difference(self) -> Decimal | None:
        """How much more the line items list than the header charges."""
        return (
            None
            if self.charged is None or self.listed is None
            else exact_sum((self.listed, -self.charged))
        )

    def __str__(self) -> str:
        invoice = f"invoice {printable(self.invoice_id)}"
        if self.verdict is Verdict.DIFFERS:
            return (
                f"{invoice}: line items list {self.listed:f}, its header charges {self.charged:f}"
            )
        return f"{invoice}: {self.verdict.value}{f' ({self.why})' if self.why else ''}"


def reconcile(invoice: Invoice, commits: Mapping[Transfer, Commit]) -> Reconciliation:
    """Compare an invoice with the committed transfers of its details."""
    return reconcile_total(
        invoice.id,
        invoice.total_charges,
        [transfer_named(invoice.id, detail) for detail in invoice.details],
        commits,
    )


def sole_transfers(invoices: Iterable[Invoice]) -> set[Transfer]:
    """Return the transfers that make up all charges of their invoice.

    The invoice's total confirms that all of their rows are here.
    """
    found = set()
    for invoice in invoices:
        named = [transfer_named(invoice.id, detail) for detail in invoice.details]
        charging = _charging(named)
        if len(charging) == 1:
            found.update(charging)
    return found


def reconcile_total(
    invoice_id: str,
    charged: Decimal | None,
    transfers: Iterable[Transfer],
    commits: Mapping[Transfer, Commit],
) -> Reconciliation:
    """Compare a header's total with the sums of `commits`."""
    billing = _charging(transfers)
    if charged is None:
        return Reconciliation(
            invoice_id, Verdict.NOT_COMPARABLE, why="the header has no totalCharges"
        )
    charged = money(charged)
    if not billing:
        return Reconciliation(
            invoice_id, Verdict.NOT_COMPARABLE, charged, why="it has no details with charges"
        )
    found = [commits.get(transfer) for transfer in billing]
    if missing := [
        str(transfer) for transfer, commit in zip(billing, found, strict=True) if commit is None
    ]:
        return Reconciliation(
            invoice_id, Verdict.NOT_COMPARABLE, charged, why=f"not exported: {', '.join(missing)}"
        )
    totals = [commit.total for commit in found if commit is not None]
    known = [total for total in totals if total is not None]
    if len(known) < len(totals):
        return Reconciliation(
            invoice_id, Verdict.NOT_COMPARABLE, charged, why="some charges are not numbers"
        )
    listed = exact_sum(known)
    verdict = Verdict.AGREES if listed == charged else Verdict.DIFFERS
    return Reconciliation(invoice_id, verdict, charged, money(listed))


def _charging(transfers: Iterable[Transfer]) -> list[Transfer]:
    """Return the transfers whose rows make up the invoice's charges, each row once."""
    counting = [each for each in dict.fromkeys(transfers) if each.detail.is_charged]
    providers = {transfer.provider for transfer in counting}
    return [each for each in counting if providers.isdisjoint(each.detail.repeats)]


def reconciliation_dict(each: Reconciliation) -> dict[str, Any]:
    """Return a reconciliation as plain values; amounts are text, so that they stay exact."""
    return {
        "invoice_id": each.invoice_id,
        "verdict": each.verdict.value,
        "charged": None if each.charged is None else f"{each.charged:f}",
        "listed": None if each.listed is None else f"{each.listed:f}",
        "difference": None if each.difference is None else f"{each.difference:f}",
        "why": each.why or None,
    }


def reconciliation_lines(reconciliations: tuple[Reconciliation, ...]) -> list[str]:
    """Return a count of the verdicts, and a line for each invoice that differs."""
    if not reconciliations:
        return []
    counts = Counter(each.verdict for each in reconciliations)
    words = ", ".join(_count(verdict, counts[verdict]) for verdict in Verdict if counts[verdict])
    lines = [
        f"reconciliation of {counted(len(reconciliations), 'invoice')} with the header: {words}"
    ]
    lines += [f"DIFFERS {each}" for each in reconciliations if each.verdict is Verdict.DIFFERS]
    return lines


def _count(verdict: Verdict, number: int) -> str:
    plural = number != 1 and verdict is not Verdict.NOT_COMPARABLE
    return f"{number:,} {verdict.value.removesuffix('s') if plural else verdict.value}"
