"""One run over a tenant with everything: every type, both pagings, what is unbilled, amendments,
documents."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.archived import find_headers
from support.reference import items_of
from support.servers.entra import entra

from bulkfetch.billing.details import DETAILS, Paging
from bulkfetch.billing.transfers import Transfer
from bulkfetch.maintenance.recount import verify_against_server
from bulkfetch.maintenance.verify import verify
from bulkfetch.runs.export import export_async
from bulkfetch.runs.selection import Selection
from bulkfetch.sandbox import SandboxOptions, Tenant
from bulkfetch.sandbox.options import PROVIDERS_AND_TYPES
from bulkfetch.settings.values import Secret

OPTIONS = SandboxOptions(
    invoices=4,
    line_items=45,
    unbilled_line_items=30,
    details=PROVIDERS_AND_TYPES,
    amendments=2,
    unreconciled=0,
    gzip=True,
)


async def test_every_type_paging_and_document_of_a_tenant_is_archived_and_proved(
    tmp_path: Path,
) -> None:
    lake = tmp_path / "lake"
    async with entra(tmp_path, OPTIONS) as there:
        settings = there.settings(refresh_token=Secret(OPTIONS.refresh_token), page_size=20)
        report = await export_async(
            lake, settings, selection=Selection(unbilled=True), documents=True
        )
        asked = dict(there.asked)
        verified = await verify_against_server(verify(lake, deep=True), settings)
        again = await export_async(lake, settings, documents=True)

    assert report.complete
    assert not report.undeclared
    assert (verified.sound, verified.reconciled, verified.not_exported) == (True, True, ())
    tenant = Tenant(OPTIONS)
    rows = Counter[str]()
    for commit in report.committed:
        rows[commit.transfer.detail_name] += commit.rows
    modern = [
        f"{provider}/{kind}"
        for provider, kind in DETAILS
        if provider in ("one_time", "marketplace", "all")
    ]
    assert set(rows) == {
        *PROVIDERS_AND_TYPES,
        *(f"unbilled {each}" for each in modern if each.startswith("one_time")),
    }
    billed = sum(
        detail.line_items for invoice in tenant.all_invoices() for detail in invoice.details
    )
    assert sum(count for name, count in rows.items() if not name.startswith("unbilled")) == billed
    assert sum(count for name, count in rows.items() if name.startswith("unbilled")) == 2 * 2 * (
        30 + 15
    )
    assert {each.document.invoice_id for each in report.documents} == {
        invoice.id for invoice in tenant.invoices
    }
    assert (
        sum(count for path, count in asked.items() if path.endswith("/documents/statement"))
        == 4 + 2
    )
    headers = pq.ParquetFile(lake / find_headers(lake)).read()
    assert headers.num_rows == 4 + 2
    assert headers.column("amendment_of").null_count == 4
    assert (again.committed, again.documents) == ((), ())


@pytest.mark.parametrize("pair", PROVIDERS_AND_TYPES)
async def test_the_columns_of_each_type_hold_what_the_server_sent(
    pair: str, tmp_path: Path
) -> None:
    """Text and plain numbers of every row against an independent reader; what is not in its column
    is in _rescued."""
    options = SandboxOptions(invoices=2, line_items=60, details=(pair,), amendments=0)
    async with entra(tmp_path, options) as there:
        await export_async(tmp_path / "lake", there.settings(page_size=25))
    tenant = Tenant(options)
    provider, kind = pair.split("/")
    schema = DETAILS[provider, kind].schema
    assert schema is not None
    for invoice in tenant.invoices:
        (detail,) = invoice.details
        body = (
            b'{"items":'
            + tenant.page_bytes(invoice.id, provider, kind, 0, detail.line_items)
            + b"}"
        )
        (part,) = (tmp_path / "lake").rglob(f"{invoice.id}-*.parquet")
        table = pq.ParquetFile(part).read()
        assert table.schema.equals(schema.arrow)
        for sent, kept in zip(items_of(body.decode()), table.to_pylist(), strict=True):
            rescued = kept["_rescued"] or ""
            for name, value in sent:
                held = kept.get(name)
                if held is None:
                    assert f'"{name}"' in rescued, (name, value)
                elif isinstance(held, Decimal):
                    assert held == Decimal(str(value)), name
                elif isinstance(held, str):
                    assert held == str(value), name


def test_the_sandbox_serves_every_declared_type() -> None:
    of_v1 = {name for name, row in DETAILS.items() if row.paging is not Paging.EXPORT}
    assert {tuple(pair.split("/")) for pair in PROVIDERS_AND_TYPES} == of_v1
    assert Transfer("D1", "azure_data_market", "billing_line_items").resource_path.endswith(
        "/lineitems/AzureDataMarket/BillingLineItems"
    )
