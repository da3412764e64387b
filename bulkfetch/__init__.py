"""Archive every invoice of a Microsoft Partner Center tenant as exact, verified, partitioned
Parquet.

`bulkfetch.export` is the main job; `bulkfetch.Client` is the API behind it. Importing this package
does nothing but define names: what is heavy is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "BulkfetchError",
    "Client",
    "Estimate",
    "ExportReport",
    "Invoice",
    "InvoiceDetail",
    "InvoicePage",
    "InvoiceSummary",
    "LineItemPage",
    "LineItemSchema",
    "LoginReport",
    "RepairReport",
    "Secret",
    "Selection",
    "Settings",
    "SummaryDetail",
    "TaxReceipt",
    "VerifyReport",
    "check_login",
    "errors",
    "export",
    "export_async",
    "read_settings",
    "repair",
    "repair_async",
    "schema_of",
    "verify",
    "verify_against_server",
]

if TYPE_CHECKING:
    from bulkfetch import errors
    from bulkfetch.billing.details import schema_of
    from bulkfetch.billing.invoices import Invoice, InvoiceDetail, TaxReceipt
    from bulkfetch.client import Client, LineItemPage
    from bulkfetch.decoding.fields import LineItemSchema
    from bulkfetch.errors import BulkfetchError
    from bulkfetch.partnercenter.invoices import InvoicePage
    from bulkfetch.partnercenter.summaries import Estimate, InvoiceSummary, SummaryDetail
    from bulkfetch.partnercenter.whoami import LoginReport, check_login
    from bulkfetch.runs.export import export, export_async
    from bulkfetch.runs.plan import Selection
    from bulkfetch.runs.recount import verify_against_server
    from bulkfetch.runs.repair import RepairReport, repair, repair_async
    from bulkfetch.runs.report import ExportReport
    from bulkfetch.runs.verify import VerifyReport, verify
    from bulkfetch.settings.declared import Settings
    from bulkfetch.settings.sources import read_settings
    from bulkfetch.settings.values import Secret

_HOMES = {
    "BulkfetchError": "errors",
    "Client": "client",
    "Estimate": "partnercenter.summaries",
    "ExportReport": "runs.report",
    "Invoice": "billing.invoices",
    "InvoiceDetail": "billing.invoices",
    "InvoicePage": "partnercenter.invoices",
    "InvoiceSummary": "partnercenter.summaries",
    "LineItemPage": "client",
    "LineItemSchema": "decoding.fields",
    "LoginReport": "partnercenter.whoami",
    "RepairReport": "runs.repair",
    "Secret": "settings.values",
    "Selection": "runs.plan",
    "Settings": "settings.declared",
    "SummaryDetail": "partnercenter.summaries",
    "TaxReceipt": "billing.invoices",
    "VerifyReport": "runs.verify",
    "check_login": "partnercenter.whoami",
    "export": "runs.export",
    "export_async": "runs.export",
    "read_settings": "settings.sources",
    "repair": "runs.repair",
    "repair_async": "runs.repair",
    "schema_of": "billing.details",
    "verify": "runs.verify",
    "verify_against_server": "runs.recount",
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("bulkfetch.errors")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'bulkfetch' has no attribute {name!r}")
    value = getattr(import_module(f"bulkfetch.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
