"""Former details: what is archived of an invoice that it no longer has."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote

from bulkfetch.archive.commits import Commit, parse_commit
from bulkfetch.archive.inventory import Inventory
from bulkfetch.archive.layout import COMMITS, commit_name, id_name
from bulkfetch.archive.records import read
from bulkfetch.billing.apis import are_same_items
from bulkfetch.billing.headers import Header
from bulkfetch.billing.transfers import Transfer
from bulkfetch.errors import DamagedError
from bulkfetch.storage.store import Store
from bulkfetch.words import printable


@dataclass(frozen=True, slots=True)
class Former:
    """What is archived of the former details of some invoices.

    `unreadable` says why those cannot be withdrawn whose record is lost or damaged.
    """

    commits: Mapping[Transfer, Commit] = field(default_factory=dict)
    unreadable: Mapping[Transfer, str] = field(default_factory=dict)

    def of(self, invoice_id: str) -> dict[Transfer, Commit]:
        """Return the former details of an invoice."""
        return {
            each: commit for each, commit in self.commits.items() if each.invoice_id == invoice_id
        }

    def only(self, invoices: Collection[str]) -> Former:
        """Return what is of these invoices."""
        return Former(
            {each: commit for each, commit in self.commits.items() if each.invoice_id in invoices},
            {each: why for each, why in self.unreadable.items() if each.invoice_id in invoices},
        )

    def without(self, transfers: Collection[Transfer]) -> Former:
        """Return the others."""
        left = {each: commit for each, commit in self.commits.items() if each not in transfers}
        return Former(left, self.unreadable)

    def that_would_double(self, planned: Iterable[Transfer]) -> list[Transfer]:
        """Return those whose line items planned transfers would bring once more, from another
        API."""
        by_invoice: dict[str, list[Transfer]] = {}
        for each in planned:
            by_invoice.setdefault(each.invoice_id, []).append(each)
        return [
            each
            for each in (*self.commits, *self.unreadable)
            if any(are_same_items(each, other) for other in by_invoice.get(each.invoice_id, ()))
        ]

    @property
    def invoices(self) -> set[str]:
        """The invoices that have former details."""
        return {each.invoice_id for each in (*self.commits, *self.unreadable)}


def find_former(store: Store, headers: Iterable[Header], inventory: Inventory) -> Former:
    """Return what is archived of the former details of invoices. Blocks."""
    known = list(headers)
    invoices = {id_name(header.invoice_id): header.invoice_id for header in known}
    current = {commit_name(each) for header in known for each in header.transfers}
    commits: dict[Transfer, Commit] = {}
    unreadable: dict[Transfer, str] = {}
    for name in sorted({*inventory.commits, *inventory.lacking} - current):
        invoice, *words = name.stem.split("+")
        if invoice not in invoices or name.parent != COMMITS or len(words) != 2:
            continue
        transfer = Transfer(invoices[invoice], unquote(words[0]), unquote(words[1]))
        try:
            commit = read(store, name, parse_commit)
        except DamagedError as error:
            unreadable[transfer] = str(error)
            continue
        if commit is not None:
            commits[commit.transfer] = commit
        else:
            what = f"{name} is gone, but files that it named are there: run `bulkfetch repair`"
            unreadable[transfer] = what
    return Former(commits, unreadable)


def former_among(commits: Iterable[Commit], headers: Iterable[Header]) -> list[Transfer]:
    """Return the committed transfers that their invoices no longer have."""
    now = {header.invoice_id: set(header.transfers) for header in headers}
    transfers = [each.transfer for each in commits if not each.transfer.unbilled]
    return [
        each for each in transfers if each.invoice_id in now and each not in now[each.invoice_id]
    ]


def whole_invoices(headers: Sequence[Header], here: Collection[Transfer | None]) -> set[str]:
    """Return the invoices whose charges are all `here`: of others it is not known whether what they
    have now adds up."""
    return {
        header.invoice_id for header in headers if all(each in here for each in header.charging)
    }


def unlisted_lines(invoices: Sequence[str]) -> list[str]:
    """Return a line about archived invoices that the service no longer lists, if there are any."""
    if not invoices:
        return []
    first = ", ".join(map(printable, invoices[:_MOST_NAMED]))
    more = ""
    if len(invoices) > _MOST_NAMED:
        more = f" and {len(invoices) - _MOST_NAMED:,} more"
    what = "invoice" if len(invoices) == 1 else f"{len(invoices):,} invoices:"
    return [
        f"NOTE the service no longer lists {what} {first}{more}; what is archived of "
        f"{'it' if len(invoices) == 1 else 'them'} stays"
    ]


_MOST_NAMED = 8


def former_line(transfer: Transfer) -> str:
    """Return a line about a former detail of an invoice that cannot be compared."""
    return (
        f"NOTE {transfer}: its invoice no longer has it; it stays, since not all that the invoice "
        "has now is archived or was asked for"
    )
