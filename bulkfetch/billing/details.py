"""One row for each billing provider and line-item type: how to ask for it, and what it holds.

No other module of the package spells a provider. To add a provider or a line-item type, add rows to
`_ROWS`, and their columns to `schemas`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from enum import Enum, auto
from functools import lru_cache

from bulkfetch.billing.schemas import (
    DAILY_RATED_USAGE,
    DAILY_USAGE,
    DATA_MARKET_BILLING,
    DATA_MARKET_USAGE,
    EXPORTED_USAGE,
    LICENSE_BASED,
    ONE_TIME,
    RECONCILIATION,
    USAGE_BASED,
)
from bulkfetch.billing.spelling import pascal_case
from bulkfetch.decoding.fields import UNDECLARED, LineItemSchema

BILLING, USAGE = "billing_line_items", "usage_line_items"
"""The two line-item types of the v1 API: what is charged, and the usage that explains it."""


class Paging(Enum):
    """How a page of line items leads to the next."""

    OFFSET = auto()
    """By the number of its first row."""
    TOKEN = auto()
    """By the continuation token of the page before."""
    EXPORT = auto()
    """They are cut from the files of an export that Microsoft Graph makes."""


@dataclass(frozen=True, slots=True)
class Explained:
    """The billing rows whose quantities the rows of a usage detail add up to."""

    line_item_type: str
    """The type of the billing rows; their provider is the same."""
    keys: tuple[str, ...]
    """The columns by which both are grouped."""
    quantity: str
    """The column that is summed on both sides."""


@dataclass(frozen=True, slots=True)
class Detail:
    """What is known of one billing provider and line-item type, whichever invoice has it.

    Both names are in the API's JSON spelling, as in `one_time` and `billing_line_items`.
    """

    provider: str
    line_item_type: str
    schema: LineItemSchema | None
    """Its columns, among them `schema.total`, which makes up the invoice's charges; None for a type
    that is not declared."""
    paging: Paging = Paging.OFFSET
    is_new_commerce: bool = False
    """Whether it belongs to Microsoft's new commerce."""
    query_provider: str = ""
    """How a query of the v1 API names the provider, where that differs from its JSON spelling."""
    takes_period: bool = False
    """Whether its query names a period, and the currency."""
    v1_ends: date | None = None
    """The first billing period that the v1 API no longer serves."""
    description: str = "line items"
    """How messages call its rows."""
    unbilled: bool = False
    """Whether an export with unbilled line items fetches these."""
    explains: Explained | None = None
    repeats: tuple[str, ...] = ()
    """Providers whose rows this one lists again, where an invoice has them."""
    is_observed: bool = False
    """Whether its rows were seen to add up to the headers of real invoices, to the cent."""

    @property
    def columns(self) -> LineItemSchema:
        """The schema of its rows, also of a type that is not declared."""
        return self.schema or UNDECLARED

    @property
    def is_charged(self) -> bool:
        """Whether its rows are charges of the invoice; usage rows only explain the charges."""
        if self.schema is None:
            return self.line_item_type == BILLING
        return self.schema.total is not None

    @property
    def in_path(self) -> str:
        """Its two names in a path: `Office/BillingLineItems`."""
        return f"{pascal_case(self.provider)}/{pascal_case(self.line_item_type)}"

    @property
    def in_query(self) -> tuple[tuple[str, str], ...]:
        """Its two names as parameters of a query; the service refuses `one_time` there."""
        return (
            ("provider", self.query_provider or self.provider),
            ("invoicelineitemtype", self.line_item_type.replace("_", "")),
        )


def _new_commerce(
    provider: str, *, query: str = "", unbilled: bool = False, repeats: tuple[str, ...] = ()
) -> Iterator[Detail]:
    """Return the rows of a provider of new commerce: their columns are the same for all of them."""
    billing = Detail(
        provider,
        BILLING,
        ONE_TIME,
        Paging.TOKEN,
        is_new_commerce=True,
        query_provider=query,
        v1_ends=date(2024, 2, 1),
        unbilled=unbilled,
        repeats=repeats,
    )
    yield billing
    yield replace(
        billing,
        line_item_type=USAGE,
        schema=DAILY_RATED_USAGE,
        takes_period=True,
        v1_ends=date(2022, 9, 1),
        description="daily-rated usage",
    )


UNBILLED_PROVIDER = "one_time"
"""The provider that has all unbilled line items."""
GRAPH = "graph"
"""What stands for the provider of line items that Microsoft Graph exports: it has those of all."""
GRAPH_BILLING, GRAPH_USAGE = "reconciliation", "usage"
"""The two line-item types of Microsoft Graph's export: what is charged, and daily-rated usage."""

_ROWS = (
    # Office has no usage: the service refuses to list it.
    Detail("office", BILLING, LICENSE_BASED, is_observed=True),
    Detail("azure", BILLING, USAGE_BASED, is_observed=True),
    Detail(
        "azure",
        USAGE,
        DAILY_USAGE,
        explains=Explained(BILLING, ("subscriptionId", "resourceGuid"), "consumedQuantity"),
    ),
    Detail("azure_data_market", BILLING, DATA_MARKET_BILLING),
    Detail("azure_data_market", USAGE, DATA_MARKET_USAGE),
    *_new_commerce(UNBILLED_PROVIDER, query="onetime", unbilled=True),
    *_new_commerce("marketplace"),
    *_new_commerce("all", repeats=(UNBILLED_PROVIDER, "marketplace")),
    Detail(GRAPH, GRAPH_BILLING, RECONCILIATION, Paging.EXPORT, is_new_commerce=True),
    Detail(
        GRAPH,
        GRAPH_USAGE,
        EXPORTED_USAGE,
        Paging.EXPORT,
        is_new_commerce=True,
        description="daily-rated usage",
    ),
)

DETAILS = {(row.provider, row.line_item_type): row for row in _ROWS}
"""The table by its two names."""
PROVIDERS = tuple(dict.fromkeys(row.provider for row in _ROWS))
"""All providers of the table, in its order."""
NEW_COMMERCE = tuple(dict.fromkeys(row.provider for row in _ROWS if row.is_new_commerce))
"""The providers of new commerce; they have unbilled line items too."""


def detail_of(provider: str, line_item_type: str) -> Detail:
    """Return the row of a provider and a type.

    A type that is not in the table has no schema, and is asked for as its provider's others are.
    """
    found = DETAILS.get((provider, line_item_type))
    if found is not None:
        return found
    undeclared = Detail(provider, line_item_type, None)
    for row in _ROWS:
        if row.provider == provider:
            return replace(
                undeclared,
                paging=row.paging,
                is_new_commerce=row.is_new_commerce,
                query_provider=row.query_provider,
                repeats=row.repeats,
            )
    return undeclared


def schema_of(provider: str, line_item_type: str) -> LineItemSchema | None:
    """Return the declared schema of a detail, or None for a line-item type without one."""
    return detail_of(provider, line_item_type).schema


@lru_cache(maxsize=1 << 10)
def api_spelling(name: str) -> str:
    """Return the API's JSON spelling of a provider or type: `OneTime`, `onetime` and `one_time` are
    one.

    The rule is that of the .NET SDK's enum converter: an underscore before each capital, then lower
    case.
    """
    spelled = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip()).lower()
    return _BY_UNSEPARATED.get(spelled, spelled)


_BY_UNSEPARATED = {name.replace("_", ""): name for names in DETAILS for name in names}
