"""The blobs of Graph's exports, as Azure Storage serves them, decided without a socket."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from bulkfetch.sandbox.faults import Fault
from bulkfetch.sandbox.graph.blobforms import FORMS
from bulkfetch.sandbox.graph.exporting import Exporting
from bulkfetch.sandbox.graph.exports import BlobName, Export, Generation
from bulkfetch.sandbox.replies import Reply, storage_fault

_AUTHENTICATION = (
    "Server failed to authenticate the request. Make sure the value of Authorization header is "
    "formed correctly including the signature."
)


@dataclass(frozen=True, slots=True)
class Fetch:
    """One request for a blob."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    """Their names in lower case."""
    fault: Fault | None = None


class BlobStorage:
    """The blobs of one sandbox."""

    def __init__(self, exporting: Exporting) -> None:
        self._exporting = exporting

    def answer(self, fetch: Fetch) -> Reply:
        """Return the answer to a request. It may take as long as making a blob does."""
        if fetch.method not in ("GET", "HEAD"):
            return storage_fault(405, "UnsupportedHttpVerb", "The verb is not supported.")
        if "authorization" in fetch.headers:
            words = "Authentication information is not given in the correct format."
            return storage_fault(400, "InvalidAuthenticationInfo", words)
        refusal = self._unauthorized(fetch)
        if refusal:
            return refusal
        if fetch.fault and fetch.fault.kind == "new_generation":
            self.renew(fetch)
        found = self._exporting.manifests.place(fetch.path)
        if found is None or (fetch.fault and fetch.fault.kind == "blob_gone"):
            return storage_fault(404, "BlobNotFound", "The specified blob does not exist.")
        reply = self._blob(fetch, *found)
        if fetch.fault and fetch.fault.kind == "blob_encoded" and reply.status < 300:
            return replace(reply, headers={**reply.headers, "Content-Encoding": "gzip"})
        return reply

    def renew(self, fetch: Fetch) -> None:
        """Make the data of a blob anew, in the way that the fault of the request says."""
        found = self._exporting.manifests.place(fetch.path)
        if found and fetch.fault:
            self._exporting.renew(found[0].name, fetch.fault.change)

    def _unauthorized(self, fetch: Fetch) -> Reply | None:
        directory = fetch.path.rpartition("/")[0]
        now = self._exporting.world.clock()
        detail = self._exporting.sas.refusal(directory, fetch.query, now)
        if detail is None:
            return None
        return storage_fault(403, "AuthenticationFailed", _AUTHENTICATION, detail)

    def _blob(self, fetch: Fetch, export: Export, generation: Generation, blob: BlobName) -> Reply:
        etag = etag_of(export, generation, blob)
        wanted = fetch.headers.get("if-match", "*")
        is_changed = fetch.fault and fetch.fault.kind == "blob_changed"
        if wanted not in ("*", etag) or (wanted != "*" and is_changed):
            words = "The condition specified using HTTP conditional header(s) is not met."
            return storage_fault(412, "ConditionNotMet", words)
        stored = self._exporting.exports.blob(export, generation, blob)
        if fetch.fault and fetch.fault.kind in FORMS:
            stored = FORMS[fetch.fault.kind](stored, fetch.fault)
        headers = {"ETag": etag, "Accept-Ranges": "bytes", "x-ms-blob-type": "BlockBlob"}
        whole = Reply(200, [stored], headers=headers, media_type="application/octet-stream")
        if fetch.fault and fetch.fault.kind == "no_ranges":
            return whole
        return _ranged(whole, fetch.headers.get("range", ""), stored)


def _ranged(whole: Reply, given: str, stored: bytes) -> Reply:
    """Return the part of a blob that a Range header asks for, or all of it."""
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", given)
    if not found:
        return whole
    first, size = int(found[1]), len(stored)
    last = min(int(found[2]), size - 1) if found[2] else size - 1
    if first >= size or last < first:
        words = "The range specified is invalid for the current size of the resource."
        refusal = storage_fault(416, "InvalidRange", words)
        return replace(refusal, headers={**refusal.headers, "Content-Range": f"bytes */{size}"})
    headers = {**whole.headers, "Content-Range": f"bytes {first}-{last}/{size}"}
    return replace(whole, status=206, pieces=[stored[first : last + 1]], headers=headers)


def etag_of(export: Export, generation: Generation, blob: BlobName) -> str:
    """Return the ETag of a blob, which changes with its bytes."""
    name = f"{export}/{generation.number}/{generation.split}/{blob.name}"
    return f'"0x{hashlib.blake2b(name.encode(), digest_size=7).hexdigest().upper()}"'
