"""Real Partner Center payloads: recordings and documentation samples, byte for byte.

`NAME.meta.json` beside each says where it comes from, its SHA-256, and how many items it has.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("payloads")


@dataclass(frozen=True, slots=True)
class Payload:
    """A page of line items, and the (provider, line item type) that it answers."""

    name: str
    provider: str
    line_item_type: str

    def __str__(self) -> str:
        return self.name

    @property
    def body(self) -> bytes:
        return body_of(self.name)

    @property
    def meta(self) -> dict[str, Any]:
        return meta_of(self.name)


def body_of(name: str) -> bytes:
    return (FOLDER / f"{name}.json").read_bytes()


def meta_of(name: str) -> dict[str, Any]:
    meta: dict[str, Any] = json.loads((FOLDER / f"{name}.meta.json").read_bytes())
    return meta


def _of(provider: str, line_item_type: str, *names: str) -> list[Payload]:
    return [Payload(name, provider, f"{line_item_type}_line_items") for name in names]


OFFICE_BILLING = _of(
    "office",
    "billing",
    "recorded/api-2016-03/072-lineitems-office-billing-offset-0000",
    "recorded/api-2016-03/073-lineitems-office-billing-offset-0100",
)
AZURE_BILLING = _of(
    "azure", "billing", "recorded/api-2016-03/074-lineitems-azure-billing-offset-0000"
)
AZURE_USAGE = _of(
    "azure",
    "usage",
    *(
        f"recorded/api-2016-03/{75 + hundred:03}-lineitems-azure-usage-offset-0{hundred}00"
        for hundred in range(7)
    ),
)
UTF_16 = _of("azure", "usage", "recorded/preview-2016-02/12-lineitems-azure-usage-no-size")[0]

LINE_ITEMS = [
    *OFFICE_BILLING,
    *AZURE_BILLING,
    *AZURE_USAGE,
    UTF_16,
    *_of("office", "billing", "docs/v1-2021-03/lineitems-office-billing"),
    *_of("azure", "billing", "docs/v1-2021-03/lineitems-azure-billing"),
    *_of(
        "one_time",
        "billing",
        "docs/v1-2021-03/lineitems-onetime-first-page",
        "docs/v1-2021-03/lineitems-onetime-last-page",
        "docs/v1-2021-03/unbilled-recon-first-page",
        "docs/v1-2021-10/lineitems-onetime-last-page",
    ),
    *_of(
        "one_time",
        "usage",
        "docs/v1-2021-03/billed-consumption-first-page",
        "docs/v1-2021-03/unbilled-consumption-first-page",
        "docs/v1-2021-03/unbilled-consumption-last-page",
        "docs/v1-2021-10/billed-consumption-first-page",
        "docs/v1-2021-10/unbilled-consumption-last-page",
        "docs/v1-2021-10/unbilled-usage-as-onetime",
    ),
]
MALFORMED = _of("one_time", "billing", "docs/v1-2021-10/unbilled-recon-first-page.malformed")[0]
INVOICES = "recorded/api-2016-03/069-invoices-list-unpaged"
