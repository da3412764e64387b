"""The list of what no run could complete so far, which an archive keeps."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from bulkfetch.archive.layout import FAILURES
from bulkfetch.billing.documents import Document
from bulkfetch.billing.transfers import Transfer
from bulkfetch.storage.store import Store

if TYPE_CHECKING:
    from bulkfetch.runs.failures import Failure


def keep_failures(
    store: Store,
    failures: Sequence[Failure],
    *,
    planned: Iterable[Transfer | Document],
    committed_of: Callable[[Sequence[Transfer | Document]], Container[Transfer | Document]],
    at: str,
) -> None:
    """Write what the archive lacks after a run: a line of JSON for each; no file if it lacks
    nothing.

    What an earlier run failed at stays in it, if this run did not plan it and none has committed it
    since: `committed_of` tells which of some of them are committed. Raises StorageError.
    """
    tried = set(planned)
    earlier = {_transfer_of(each): each for each in _read(store)}
    others = [transfer for transfer in earlier if transfer not in tried]
    committed = committed_of(others)
    left = [earlier[transfer] for transfer in others if transfer not in committed]
    lines = [*left, *({"at": at, **failure.to_dict()} for failure in failures)]
    if lines:
        store.write(
            FAILURES,
            b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines),
        )
    else:
        store.remove(FAILURES)


def open_failures(store: Store) -> dict[Transfer | Document, str]:
    """Return what runs failed at and none has completed since, with the message of the last."""
    return {_transfer_of(each): str(each.get("message", "")) for each in _read(store)}


@dataclass(frozen=True, slots=True)
class OpenFailure:
    """One thing that no run could complete so far: since which run, why, and what to do."""

    subject: Transfer | Document
    at: str
    message: str
    advice: str


@dataclass(frozen=True, slots=True)
class OpenFailures:
    """What no run could complete so far, and how many lines of the list cannot be read."""

    failures: tuple[OpenFailure, ...]
    unreadable: int


def read_failures(store: Store) -> OpenFailures:
    """Return all that is in the list of an archive. Raises StorageError."""
    content = store.read(FAILURES) or b""
    found = _parse(content)
    failures = tuple(
        OpenFailure(
            _transfer_of(each),
            *(str(each.get(name) or "") for name in ("at", "message", "advice")),
        )
        for each in found
    )
    return OpenFailures(failures, len(content.splitlines()) - len(found))


def _read(store: Store) -> list[dict[str, Any]]:
    """Return the lines of the earlier file; what is damaged in it is left out, since commits alone
    decide."""
    return _parse(store.read(FAILURES) or b"")


def _parse(content: bytes) -> list[dict[str, Any]]:
    found = []
    for line in content.splitlines():
        try:
            failure = orjson.loads(line)
        except ValueError:
            continue
        if isinstance(failure, dict) and any(
            all(isinstance(failure.get(name), str) for name in key) for key in (_KEY, _DOCUMENT_KEY)
        ):
            found.append(failure)
    return found


_KEY = ("invoice_id", "provider", "line_item_type")
_DOCUMENT_KEY = ("invoice_id", "document")


def _transfer_of(failure: dict[str, Any]) -> Transfer | Document:
    if "document" in failure:
        return Document(failure["invoice_id"], str(failure.get("receipt_id") or ""))
    invoice_id, provider, line_item_type = (failure[name] for name in _KEY)
    unbilled = tuple(str(failure[name]) for name in ("period", "currency") if name in failure)
    return Transfer(invoice_id, provider, line_item_type, unbilled if len(unbilled) == 2 else ())
