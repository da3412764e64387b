"""Archive every invoice of a Microsoft Partner Center tenant as exact, verified, partitioned
Parquet.

`bulkfetch.export` is the main job; `bulkfetch.Client` is the API behind it. Importing this package
only defines names: what is heavy is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bulkfetch import errors as errors
    from bulkfetch.billing.details import schema_of as schema_of
    from bulkfetch.billing.invoices import Invoice as Invoice
    from bulkfetch.billing.invoices import InvoiceDetail as InvoiceDetail
    from bulkfetch.billing.invoices import TaxReceipt as TaxReceipt
    from bulkfetch.billing.parts import Part as Part
    from bulkfetch.client import Client as Client
    from bulkfetch.client import LineItemPage as LineItemPage
    from bulkfetch.decoding.fields import LineItemSchema as LineItemSchema
    from bulkfetch.engine.parts import plan as plan
    from bulkfetch.engine.parts import plan_async as plan_async
    from bulkfetch.engine.parts import read_part as read_part
    from bulkfetch.engine.parts import read_part_async as read_part_async
    from bulkfetch.errors import BulkfetchError as BulkfetchError
    from bulkfetch.html.writing import PageReport as PageReport
    from bulkfetch.html.writing import report as report
    from bulkfetch.maintenance.accept import AcceptReport as AcceptReport
    from bulkfetch.maintenance.accept import accept as accept
    from bulkfetch.maintenance.recount import verify_against_server as verify_against_server
    from bulkfetch.maintenance.repair import RepairReport as RepairReport
    from bulkfetch.maintenance.repair import repair as repair
    from bulkfetch.maintenance.repair import repair_async as repair_async
    from bulkfetch.maintenance.show import ShowReport as ShowReport
    from bulkfetch.maintenance.show import show as show
    from bulkfetch.maintenance.verify import VerifyReport as VerifyReport
    from bulkfetch.maintenance.verify import verify as verify
    from bulkfetch.partnercenter.invoices import InvoicePage as InvoicePage
    from bulkfetch.partnercenter.summaries import Estimate as Estimate
    from bulkfetch.partnercenter.summaries import InvoiceSummary as InvoiceSummary
    from bulkfetch.partnercenter.summaries import SummaryDetail as SummaryDetail
    from bulkfetch.partnercenter.whoami import LoginReport as LoginReport
    from bulkfetch.partnercenter.whoami import check_login as check_login
    from bulkfetch.runs.export import export as export
    from bulkfetch.runs.export import export_async as export_async
    from bulkfetch.runs.report import ExportReport as ExportReport
    from bulkfetch.runs.selection import Selection as Selection
    from bulkfetch.settings.declared import Settings as Settings
    from bulkfetch.settings.sources import read_settings as read_settings
    from bulkfetch.settings.values import Secret as Secret
    from bulkfetch.tables.report import TableReport as TableReport
    from bulkfetch.tables.report import TablesReport as TablesReport
    from bulkfetch.tables.sync import sync_tables as sync_tables
    from bulkfetch.tables.sync import tables_status as tables_status
    from bulkfetch.wire.limits import Limit as Limit

__version__ = "0.1.0"

_HOMES = {
    "AcceptReport": "maintenance.accept",
    "BulkfetchError": "errors",
    "Client": "client",
    "Estimate": "partnercenter.summaries",
    "ExportReport": "runs.report",
    "Invoice": "billing.invoices",
    "InvoiceDetail": "billing.invoices",
    "InvoicePage": "partnercenter.invoices",
    "InvoiceSummary": "partnercenter.summaries",
    "Limit": "wire.limits",
    "LineItemPage": "client",
    "LineItemSchema": "decoding.fields",
    "LoginReport": "partnercenter.whoami",
    "PageReport": "html.writing",
    "Part": "billing.parts",
    "RepairReport": "maintenance.repair",
    "Secret": "settings.values",
    "Selection": "runs.selection",
    "Settings": "settings.declared",
    "ShowReport": "maintenance.show",
    "SummaryDetail": "partnercenter.summaries",
    "TableReport": "tables.report",
    "TablesReport": "tables.report",
    "TaxReceipt": "billing.invoices",
    "VerifyReport": "maintenance.verify",
    "accept": "maintenance.accept",
    "check_login": "partnercenter.whoami",
    "export": "runs.export",
    "export_async": "runs.export",
    "plan": "engine.parts",
    "plan_async": "engine.parts",
    "read_part": "engine.parts",
    "read_part_async": "engine.parts",
    "read_settings": "settings.sources",
    "repair": "maintenance.repair",
    "repair_async": "maintenance.repair",
    "report": "html.writing",
    "schema_of": "billing.details",
    "show": "maintenance.show",
    "sync_tables": "tables.sync",
    "tables_status": "tables.sync",
    "verify": "maintenance.verify",
    "verify_against_server": "maintenance.recount",
}
"""The module of each public name."""

__all__ = [*sorted([*_HOMES, "errors"])]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("bulkfetch.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'bulkfetch' has no attribute {name!r}")
    value = getattr(import_module(f"bulkfetch.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
