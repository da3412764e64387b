"""Manifests of Graph's exports: they belong to the data, and only their SAS to the request."""

from __future__ import annotations

from typing import Any

from bulkfetch.sandbox.draws import Draws
from bulkfetch.sandbox.graph.exports import BlobName, Export, Exports, Generation
from bulkfetch.sandbox.graph.options import GraphOptions
from bulkfetch.sandbox.tenant import Invoice, Tenant, month_text, months_on

_CONTAINERS = {
    ("reconciliation", True): "billedreconfastpath",
    ("reconciliation", False): "unbilledreconfastpath",
    ("usage", True): "billedusagefastpath",
    ("usage", False): "unbilledusagefastpath",
}
_ETAG_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


class Manifests:
    """The manifests of one tenant, and the directories that they name."""

    def __init__(self, tenant: Tenant, exports: Exports) -> None:
        self._tenant = tenant
        self._exports = exports
        self._options: GraphOptions = tenant.options.graph
        self._exports_by_id: dict[str, Export] = {}
        self._places: dict[str, tuple[Export, int]] = {}

    def id_of(self, export: Export) -> str:
        """Return the id of the manifest of the data that an export has now."""
        generation = self._exports.generation(export)
        draws = self._draws("manifest", export, generation.number)
        guid = draws.guid()
        self._exports_by_id[guid] = export
        return guid

    def find(self, manifest_id: str) -> Export | None:
        """Return what a manifest is of, if its data are still current."""
        export = self._exports_by_id.get(manifest_id.lower())
        if export and self.id_of(export) == manifest_id.lower():
            return export
        return None

    def directory(self, export: Export) -> str:
        """Return the path of the blobs of an export. Raises LookupError if it has none now."""
        generation = self._exports.generation(export)
        drawn = self._exports.drawn(export)
        if drawn is None:
            raise LookupError(export.name)
        year, month = months_on(drawn.invoice.year, drawn.invoice.month, -1)
        billing_month = month_text(year, month).replace("-", "")
        stamp = _stamp(drawn.invoice, generation)
        what = f"InvoiceId={drawn.invoice.id}/InvoiceVersion={stamp}"
        before = ""
        if not export.is_billed:
            what, before = f"Currency={drawn.invoice.currency}", f"{stamp}/"
        path = (
            f"/{_CONTAINERS[export.line_item_type, export.is_billed]}/v1/{before}"
            f"PartnerTenantId={self._tenant.options.tenant_id}/BillingMonth={billing_month}/{what}/"
            f"Fragment={export.attribute_set}/PartitionType=default"
        )
        self._places[path] = (export, generation.names)
        return path

    def place(self, path: str) -> tuple[Export, Generation, BlobName] | None:
        """Return the blob at a path; None if there is none, or none any more."""
        directory, _, name = path.rpartition("/")
        export, names = self._places.get(directory, (None, 0))
        generation = self._exports.served(export, names) if export else None
        if export is None or generation is None:
            return None
        for blob in self._exports.blob_names(export, generation):
            if blob.name == name:
                return export, generation, blob
        return None

    def manifest(self, export: Export, *, root: str, sas: str) -> dict[str, Any]:
        """Return the manifest of the data that an export has now, as JSON to be. Raises LookupError
        if it has none."""
        generation = self._exports.generation(export)
        drawn = self._exports.drawn(export)
        if drawn is None:
            raise LookupError(export.name)
        blobs = [
            {"name": blob.name, "partitionValue": "default"}
            for blob in self._exports.blob_names(export, generation)
        ]
        draws = self._draws("etag", export, generation.number)
        month = month_text(drawn.invoice.year, drawn.invoice.month)
        made = f"{month}-{drawn.invoice.day:02d}T09:{generation.number % 60:02d}:19.895Z"
        return {
            "id": self.id_of(export),
            "createdDateTime": made,
            "schemaVersion": "2",
            "dataFormat": "compressedJSON",
            "partitionType": "default",
            "eTag": draws.letters(17, _ETAG_ALPHABET),
            "partnerTenantId": self._tenant.options.tenant_id,
            "rootDirectory": f"{root}{self.directory(export)}",
            "sasToken": sas,
            "blobCount": len(blobs),
            "blobs": self._ordered(blobs, export),
        }

    def _draws(self, what: str, export: Export, number: int) -> Draws:
        return Draws(self._tenant.options.seed, what, export.name, export.attribute_set, number)

    def _ordered(self, blobs: list[dict[str, str]], export: Export) -> list[dict[str, str]]:
        if self._options.order == "descending":
            return blobs[::-1]
        if self._options.order == "shuffled":
            draws = self._draws("order", export, len(self._places))
            return sorted(blobs, key=lambda _: draws.fraction())
        return blobs


def _stamp(invoice: Invoice, generation: Generation) -> str:
    """Return the minute at which the rows were made: `202409080713`."""
    hour, minute = divmod(7 * 60 + 13 + generation.names, 60)
    month = month_text(invoice.year, invoice.month).replace("-", "")
    return f"{month}{invoice.day:02d}{hour:02d}{minute:02d}"
