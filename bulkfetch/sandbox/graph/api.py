"""Graph's billing export: what it answers to a request, decided without a socket."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import orjson

from bulkfetch.sandbox.faults import Fault
from bulkfetch.sandbox.graph.exporting import Exporting
from bulkfetch.sandbox.graph.exports import Export
from bulkfetch.sandbox.graph.operations import NO_DATA, Operation
from bulkfetch.sandbox.graph.sas import instant
from bulkfetch.sandbox.replies import Reply, graph_fault
from bulkfetch.sandbox.tokens import GRAPH

BILLING = ("reports", "partners", "billing")
VERSIONS = ("v1.0", "beta")
_CONTEXT = "https://graph.microsoft.com/v1.0/$metadata#reports/partners/billing"
_TYPE = "#microsoft.graph.partners.billing"
_KEYS = {True: ("invoiceId",), False: ("currencyCode", "billingPeriod")}
_ATTRIBUTE_SETS = ("full", "basic")
_PERIODS = ("current", "last")


@dataclass(frozen=True, slots=True)
class Call:
    """One request to Graph."""

    method: str
    words: tuple[str, ...]
    """The words of its path, below the version."""
    bearer: str = ""
    body: bytes = b""
    media_type: str = ""
    fault: Fault | None = None

    def has(self, kind: str) -> bool:
        """Return whether the request meets a fault of that kind."""
        return self.fault is not None and self.fault.kind == kind


class GraphApi:
    """The endpoints of the billing export."""

    def __init__(self, exporting: Exporting) -> None:
        self._exporting = exporting
        self._world = exporting.world
        self._options = exporting.world.options.graph

    def answer(self, call: Call) -> Reply:
        """Return the answer to a request."""
        refusal = self._refusal(call)
        if refusal:
            return refusal
        if call.words[:3] != BILLING:
            return graph_fault(400, "BadRequest", "Resource not found for the segment.")
        match [call.method, *call.words[3:]]:
            case ["POST", "reconciliation" | "usage", "billed" | "unbilled", "export"]:
                return self._begin(call)
            case ["GET", "operations", operation_id]:
                return self._operation(call, operation_id)
            case ["GET", "manifests", manifest_id]:
                return self._manifest(call, manifest_id)
        if call.method not in ("GET", "POST"):
            return graph_fault(405, "Request_BadRequest", "The method is not allowed.")
        return graph_fault(400, "BadRequest", "Resource not found for the segment.")

    def _refusal(self, call: Call) -> Reply | None:
        tokens = self._world.tokens
        if not call.bearer:
            return graph_fault(401, "InvalidAuthenticationToken", "Access token is empty.")
        audience = tokens.audience(call.bearer)
        if audience is None:
            words = "Lifetime validation failed, the token is expired."
            return graph_fault(401, "InvalidAuthenticationToken", words)
        if audience != GRAPH:
            words = "Access token validation failure. Invalid audience."
            return graph_fault(401, "InvalidAuthenticationToken", words)
        if not tokens.may_export(call.bearer):
            words = "Insufficient privileges to complete the operation."
            return graph_fault(403, "Authorization_RequestDenied", words)
        return None

    def _begin(self, call: Call) -> Reply:
        asked = _asked(call)
        if isinstance(asked, str):
            return graph_fault(400, "BadRequest", asked)
        now, operations = self._world.clock(), self._exporting.operations
        limit = self._options.max_operations
        if limit and operations.open(now) >= limit:
            headers = {"Retry-After": self._options.retry_after or "1"}
            return graph_fault(429, "TooManyRequests", "Too many operations.", headers=headers)
        operation = operations.begin(asked, now)
        drawn = self._exporting.exports.drawn(asked)
        if drawn is None or (not drawn.count and self._options.empty == NO_DATA):
            operation.fail(NO_DATA)
        else:
            self._exporting.forget_sas(asked)
        self._break_operation(call, operation)
        origin = self._url(call)
        path = "/".join((*BILLING, "operations", operation.id))
        return Reply(202, [b""], headers={"Location": f"{origin}/{path}"})

    def _operation(self, call: Call, operation_id: str) -> Reply:
        operation = self._exporting.operations.find(operation_id)
        if operation is None:
            return _not_found("operation", operation_id)
        if call.has("operation_forgotten"):
            self._exporting.operations.forget(operation)
            return _not_found("operation", operation_id)
        self._break_operation(call, operation)
        return self._state(call, operation)

    def _break_operation(self, call: Call, operation: Operation) -> None:
        """Do to an operation what the fault says."""
        fault = call.fault
        if fault and fault.kind == "operation_failed":
            operation.fail(fault.code, fault.message)
        if fault and fault.kind == "new_generation":
            self._exporting.renew(operation.export.name, fault.change)

    def _state(self, call: Call, operation: Operation) -> Reply:
        now, operations = self._world.clock(), self._exporting.operations
        is_ready = operations.is_ready(operation, now) and not call.has("operation_running")
        status = ""
        if is_ready:
            status = operations.status(operation, now)
        body = {
            "@odata.context": f"{_CONTEXT}/operations/$entity",
            "@odata.type": f"{_TYPE}.{_state_type(operation, is_ready=is_ready)}",
            "id": operation.id,
            "createdDateTime": instant(operation.created_at).rstrip("Z"),
            "lastActionDateTime": instant(now).replace("Z", ".5046691Z"),
            "status": status or self._waiting(operation, now, call),
        }
        if not is_ready:
            after = self._options.retry_after
            return _success(body, headers={"Retry-After": after} if after else {})
        if operation.code:
            error = {"message": operation.message, "code": operation.code}
            return _success({**body, "error": error})
        return _success({**body, **self._resource(call, operation)})

    def _waiting(self, operation: Operation, now: float, call: Call) -> str:
        if call.has("operation_running"):
            return self._options.statuses[1]
        return self._exporting.operations.status(operation, now)

    def _resource(self, call: Call, operation: Operation) -> dict[str, Any]:
        """Return how the operation names its manifest."""
        manifest_id = self._exporting.manifests.id_of(operation.export)
        link = "/".join((self._url(call), *BILLING, "manifests", manifest_id))
        if self._options.location == "link":
            return {"resourceLocation@odata.navigationLink": link}
        if self._options.location == "text":
            return {"resourceLocation": link}
        renews = self._options.fresh_sas == "operation"
        return {"resourceLocation": self._described(call, operation.export, renews=renews)}

    def _manifest(self, call: Call, manifest_id: str) -> Reply:
        export = self._exporting.manifests.find(manifest_id)
        if export is not None and call.has("new_generation") and call.fault:
            self._exporting.renew(export.name, call.fault.change)
            export = self._exporting.manifests.find(manifest_id)
        if export is None:
            return _not_found("manifest", manifest_id)
        renews = self._options.fresh_sas in ("operation", "manifest")
        body = self._described(call, export, renews=renews)
        return _success({"@odata.context": f"{_CONTEXT}/manifests/$entity", **body})

    def _described(self, call: Call, export: Export, *, renews: bool) -> dict[str, Any]:
        """Return the manifest of an export, with what the fault makes of it."""
        exporting = self._exporting
        sas = exporting.fresh_sas(export) if renews else exporting.first_sas(export)
        foreign = call.has("foreign_addresses")
        root = exporting.honeypot_url if foreign else exporting.blob_url
        manifest = exporting.manifests.manifest(export, root=root, sas=sas)
        change = BROKEN_MANIFESTS.get(call.fault.kind) if call.fault else None
        if change:
            return {**manifest, **change(manifest)}
        return manifest

    def _url(self, call: Call) -> str:
        exporting = self._exporting
        is_foreign = call.has("foreign_addresses")
        return f"{exporting.honeypot_url if is_foreign else exporting.graph_url}/v1.0"


def export_of(words: tuple[str, ...], body: bytes) -> Export | None:
    """Return what a POST asks for, for those who only want its name; None if that is unclear."""
    asked = _asked(Call("POST", words, body=body, media_type="application/json"))
    if isinstance(asked, Export):
        return asked
    return None


def _asked(call: Call) -> Export | str:
    """Return what a POST asks for, or what is wrong with it."""
    if call.media_type != "application/json":
        return "Write requests must contain the Content-Type header declaration application/json."
    try:
        given = orjson.loads(call.body)
    except orjson.JSONDecodeError:
        return "Unable to read JSON request payload."
    if not isinstance(given, dict):
        return "Unable to read JSON request payload."
    line_item_type, billed = call.words[3], call.words[4] == "billed"
    keys = _KEYS[billed]
    unknown = given.keys() - {*keys, "attributeSet"}
    if unknown:
        return f"The parameter '{min(unknown)}' is not a valid parameter of the action."
    if not all(isinstance(given.get(key), str) and given[key] for key in keys):
        return f"The parameters {', '.join(keys)} are required."
    attribute_set = given.get("attributeSet", "full")
    if attribute_set not in _ATTRIBUTE_SETS:
        return "Requested value of attributeSet was not found."
    if not billed and given["billingPeriod"] not in _PERIODS:
        return "Requested value of billingPeriod was not found."
    if billed:
        subject = f"billed/{given['invoiceId']}"
    else:
        subject = f"unbilled/{given['billingPeriod']}/{given['currencyCode']}"
    return Export(line_item_type, subject, attribute_set)


def _state_type(operation: Operation, *, is_ready: bool) -> str:
    if not is_ready:
        return "runningOperation"
    if operation.code:
        return "failedOperation"
    return "exportSuccessOperation"


def _one_more(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {"blobCount": manifest["blobCount"] + 1}


_OF_WHAT = re.compile("(InvoiceId|Currency)=[^/]+")
BROKEN_MANIFESTS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "blob_count": _one_more,
    "lost_blob": lambda manifest: {"blobs": manifest["blobs"][:-1]},
    "doubled_blob": lambda manifest: {"blobs": [*manifest["blobs"], *manifest["blobs"][-1:]]},
    "other_tenant": lambda _manifest: {"partnerTenantId": str(uuid.UUID(int=7))},
    "other_export": lambda manifest: {
        "rootDirectory": _OF_WHAT.sub(r"\1=G999999999", manifest["rootDirectory"])
    },
    "other_format": lambda _manifest: {"dataFormat": "parquet"},
    "no_etag": lambda _manifest: {"eTag": ""},
    "no_sas": lambda _manifest: {"sasToken": ""},
    "blob_path": lambda _manifest: {
        "blobs": [{"name": "../../other/part.json.gz", "partitionValue": "default"}],
        "blobCount": 1,
    },
}
"""What faults make of a manifest."""


def _success(body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(HTTPStatus.OK, [orjson.dumps(body)], headers=headers or {})


def _not_found(what: str, identity: str) -> Reply:
    return graph_fault(404, "NotFound", f"The {what} '{identity}' was not found.")
