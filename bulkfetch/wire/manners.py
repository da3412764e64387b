"""How a server wants to be asked: the headers of all requests, and what their ids are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bulkfetch.wire.echoes import REQUEST_ID


@dataclass(frozen=True, slots=True)
class Manner:
    """How one server wants to be asked.

    Only some servers take an id that all requests of a run share. `ends` is what a failure of the
    server ends.
    """

    headers: Mapping[str, str]
    request_id: str
    correlation_id: str | None = None
    ends: str = "the run ends"


PARTNER_CENTER = Manner(
    {
        "Accept": "application/json",
        "Accept-Encoding": "gzip",
        "MS-Contract-Version": "v1",
        "MS-PartnerCenter-Application": "bulkfetch",
    },
    request_id=REQUEST_ID,
    correlation_id="MS-CorrelationId",
)
