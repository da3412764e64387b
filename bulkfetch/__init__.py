"""Archive every invoice of a Microsoft Partner Center tenant as exact, verified, partitioned Parquet.

`bulkfetch.export` is the main job; `bulkfetch.Client` is the API behind it. Importing this package does nothing but
define names: what is heavy is loaded when it is first used.
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
    from bulkfetch.client import Client, LineItemPage
    from bulkfetch.config import Secret, Settings, read_settings
    from bulkfetch.errors import BulkfetchError
    from bulkfetch.estimates import Estimate
    from bulkfetch.identity import LoginReport, check_login
    from bulkfetch.invoices import Invoice, InvoiceDetail, InvoicePage, TaxReceipt
    from bulkfetch.pipeline import export, export_async
    from bulkfetch.plan import Selection
    from bulkfetch.recount import verify_against_server
    from bulkfetch.repairs import RepairReport, repair, repair_async
    from bulkfetch.report import ExportReport
    from bulkfetch.schema import LineItemSchema, schema_of
    from bulkfetch.summaries import InvoiceSummary, SummaryDetail
    from bulkfetch.verification import VerifyReport, verify

_HOMES = {
    "BulkfetchError": "errors",
    "Client": "client",
    "Estimate": "estimates",
    "ExportReport": "report",
    "Invoice": "invoices",
    "InvoiceDetail": "invoices",
    "InvoicePage": "invoices",
    "InvoiceSummary": "summaries",
    "LineItemPage": "client",
    "LineItemSchema": "schema",
    "LoginReport": "identity",
    "RepairReport": "repairs",
    "Secret": "config",
    "Selection": "plan",
    "Settings": "config",
    "SummaryDetail": "summaries",
    "TaxReceipt": "invoices",
    "VerifyReport": "verification",
    "check_login": "identity",
    "export": "pipeline",
    "export_async": "pipeline",
    "read_settings": "config",
    "repair": "repairs",
    "repair_async": "repairs",
    "schema_of": "schema",
    "verify": "verification",
    "verify_against_server": "recount",
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
