"""Exports that Microsoft Graph makes: asked for, waited for, asked for again where that helps."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar

import anyio
import orjson

from bulkfetch.billing.spelling import path_segment
from bulkfetch.billing.transfers import Transfer
from bulkfetch.errors import (
    ContradictionError,
    ExportError,
    HttpStatusError,
    MalformedBodyError,
    NothingExportedError,
    PendingExportError,
    RequestError,
    RequestFacts,
    ServerUnavailableError,
    SignInError,
    TransferError,
)
from bulkfetch.graph.limit import OpenExports
from bulkfetch.graph.manifests import (
    Failure,
    Manifest,
    OperationState,
    path_on_graph,
    read_manifest,
    read_operation,
)
from bulkfetch.runlog import RunLog
from bulkfetch.signin.tokens import claims_of
from bulkfetch.wire.messages import Reply, Request
from bulkfetch.wire.retry import is_throttled, retry_after_s
from bulkfetch.wire.session import Clock, Session
from bulkfetch.words import called, printable

T = TypeVar("T")

BILLING = "/v1.0/reports/partners/billing"
ATTRIBUTE_SET = "full"
"""An archive is for ever: the other set lacks quantities, tax dates and resellers."""
NOTHING = "5000"
"""The code of a failure that says that there is nothing to export."""
LONGEST_LIFE = timedelta(hours=24)
"""How old an operation of an earlier run may be that is asked for."""
_FIRST_POLL_S, _SECOND_POLL_S, _GROWTH, _LONGEST_POLL_S = 1.0, 5.0, 1.5, 60.0
_SUBMITTED_AGAIN = 2
"""How often an export is asked for again that has failed."""
_OF_OTHERS_AGAIN = 1
"""How often one is asked for again whose files are those of another."""
_FORGOTTEN_AGAIN = 1
"""How often one is asked for again that Graph no longer knows."""


@dataclass(frozen=True, slots=True)
class Operation:
    """An export that Microsoft Graph was asked to make."""

    path: str
    """Where to ask for its state, below the address of Microsoft Graph."""
    asked: Mapping[str, str]
    """What was asked for."""
    asked_at: datetime
    facts: RequestFacts = field(default_factory=RequestFacts, compare=False)
    """What identifies the last request about it."""
    wait_s: float | None = field(default=None, compare=False)
    """How long Microsoft Graph asks to wait before the next request about it."""

    def to_dict(self) -> dict[str, Any]:
        """Return the operation as values that JSON can hold. They open nothing."""
        return {
            "operation": self.path,
            "asked": dict(self.asked),
            "asked_at": self.asked_at.isoformat(),
        }

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Operation:
        """Read what `to_dict` returned. Raises ValueError, KeyError or TypeError for anything
        else."""
        path, asked = facts["operation"], facts["asked"]
        asked_at = datetime.fromisoformat(facts["asked_at"])
        if not isinstance(path, str) or not isinstance(asked, dict) or asked_at.tzinfo is None:
            raise ValueError("it is not the record of an operation")
        return cls(path, asked, asked_at)


class KeptOperations(Protocol):
    """Where the operation of each transfer is kept, for a later run. All calls block."""

    def find(self, transfer: Transfer) -> Operation | None:
        """Return the operation that an earlier run has begun, or None."""
        ...

    def keep(self, transfer: Transfer, operation: Operation) -> None:
        """Keep an operation in place of the one before. Raises StorageError."""
        ...

    def drop(self, transfer: Transfer) -> None:
        """Forget the operation of a transfer. Raises StorageError."""
        ...


def path_of(transfer: Transfer) -> str:
    """Return where the export of a transfer is asked for."""
    billed = "unbilled" if transfer.unbilled else "billed"
    return f"{BILLING}/{path_segment(transfer.line_item_type)}/{billed}/export"


def _manifest_path(manifest_id: str) -> str:
    return f"{BILLING}/manifests/{path_segment(manifest_id)}"


def body_of(transfer: Transfer) -> dict[str, str]:
    """Return what is asked for."""
    if not transfer.unbilled:
        return {"invoiceId": transfer.invoice_id, "attributeSet": ATTRIBUTE_SET}
    period, currency = transfer.unbilled
    return {"currencyCode": currency, "billingPeriod": period, "attributeSet": ATTRIBUTE_SET}


def next_wait_s(polls: int, asked_s: float | None) -> float:
    """Return how long to wait after so many requests about an operation: what Microsoft Graph asks
    for, or else ever longer. Data that it has made before are there at once, so the first wait is
    short."""
    if asked_s is not None:
        return asked_s
    if not polls:
        return _FIRST_POLL_S
    return min(_LONGEST_POLL_S, _SECOND_POLL_S * _GROWTH ** min(polls - 1, 32))


def is_worth_asking(operation: Operation, transfer: Transfer, now: datetime) -> bool:
    """Return whether an operation of an earlier run may still lead to what a transfer needs."""
    age = now - operation.asked_at
    return operation.asked == body_of(transfer) and timedelta() <= age < LONGEST_LIFE


@dataclass(slots=True)
class _Tries:
    """How often an export was asked for again, and why."""

    failed: int = 0
    forgotten: int = 0
    of_others: int = 0


@dataclass(slots=True)
class _Place:
    """The place of one export among those that are open."""

    open: OpenExports
    burst: int
    is_accepted: bool = False
    is_held: bool = True

    def note_accepted(self) -> None:
        """Note that Microsoft Graph makes it."""
        if not self.is_accepted:
            self.is_accepted = True
            self.open.note_accepted()

    async def take_again(self) -> None:
        """Give the place back, since the export was refused as one too many, and wait for
        another."""
        self.open.note_refused(self.burst)
        self.leave()
        self.burst = await self.open.take()
        self.is_held = True

    def leave(self) -> None:
        """Give the place back."""
        if self.is_held:
            self.open.give_back(accepted=self.is_accepted)
        self.is_held = self.is_accepted = False


class Operations:
    """Asks Microsoft Graph for exports, as many at once as it takes, and waits until they are made.

    Waiting for them takes no place of requests.
    """

    def __init__(
        self,
        session: Session,
        graph_url: str,
        *,
        deadline_s: float,
        tenant: str = "",
        kept: KeptOperations | None = None,
        clock: Clock | None = None,
        log: RunLog | None = None,
        today: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._session = session
        self._graph_url = graph_url
        self._deadline_s = deadline_s
        self._tenant = tenant
        self._kept = kept
        self._clock = clock or Clock()
        self._log = log or RunLog()
        self._today = today
        self._open = OpenExports(
            lambda why, limit: self._log.note("operations", change=why, limit=limit)
        )

    async def export(self, transfer: Transfer, *, anew: bool = False) -> tuple[Operation, Manifest]:
        """Return the manifest of an export that is made now, or, unless it has to be `anew`, that
        an earlier run has begun.

        Raises NothingExportedError, PendingExportError after the deadline, ExportError for another
        failure, TransferError if Microsoft Graph does not answer or refuses, and StorageError.
        """
        place = _Place(self._open, await self._open.take())
        try:
            return await self._export(transfer, place, anew=anew)
        finally:
            place.leave()

    async def _export(
        self, transfer: Transfer, place: _Place, *, anew: bool
    ) -> tuple[Operation, Manifest]:
        operation = None if anew else await self._outliving(transfer)
        ends_at, tries = self._clock.now() + self._deadline_s, _Tries()
        is_outliving = operation is not None
        while True:
            if operation is None:
                operation = await self._submit_in_turn(transfer, place)
                await self._keep(transfer, operation)
            place.note_accepted()
            state, operation = await self._wait(transfer, operation, ends_at)
            why = "it is not known any more"
            try:
                if state is not None and state.failure is None:
                    return operation, await self.manifest(transfer, state)
            except ContradictionError as error:
                tries.of_others += 1
                if tries.of_others > _OF_OTHERS_AGAIN:
                    raise
                why, state, is_outliving = str(error), None, True
            await self.drop(transfer)
            if not is_outliving:
                _check_again(transfer, operation, state, tries)
            if state is not None and state.failure is not None:
                why = str(state.failure)
            self._log.note("submitted_again", transfer=str(transfer), why=why)
            operation, is_outliving = None, False

    async def _submit_in_turn(self, transfer: Transfer, place: _Place) -> Operation:
        """Ask for an export. Where Graph refuses it as one too many, ask again once others of this
        run have ended."""
        while True:
            try:
                return await self.submit(transfer, waits=not self._open.accepted)
            except TransferError as error:
                cause = error.__cause__
                if not isinstance(cause, HttpStatusError) or not is_throttled(cause):
                    raise
            await place.take_again()

    async def submit(self, transfer: Transfer, *, waits: bool = True) -> Operation:
        """Ask for an export. If it is refused as one too many, ask again, unless it does not wait.

        Raises TransferError.
        """
        asked = body_of(transfer)

        def read(reply: Reply) -> Operation:
            location = reply.headers.get("location", "")
            if not location:
                raise MalformedBodyError("the export was accepted without a Location")
            path = path_on_graph(location, self._graph_url)
            wait_s = retry_after_s(reply.headers)
            return Operation(path, asked, self._today(), reply.facts, wait_s)

        request = Request(
            path_of(transfer),
            method="POST",
            body=orjson.dumps(asked),
            accepts=(200, 202),
            waits=waits,
        )
        return await self._ask(transfer, request, read)

    async def poll(
        self, transfer: Transfer, operation: Operation
    ) -> tuple[OperationState | None, Operation]:
        """Return the state of an operation, None if it is not known any more. Raises
        TransferError."""

        def read(reply: Reply) -> tuple[OperationState, Operation]:
            state = read_operation(reply.body, self._graph_url)
            wait_s = retry_after_s(reply.headers)
            return state, replace(operation, facts=reply.facts, wait_s=wait_s)

        try:
            return await self._ask(transfer, Request(operation.path), read)
        except TransferError as error:
            cause = error.__cause__
            if isinstance(cause, HttpStatusError) and cause.status in (404, 410):
                return None, replace(operation, facts=cause.facts or operation.facts, wait_s=None)
            raise

    async def manifest(self, transfer: Transfer, state: OperationState) -> Manifest:
        """Return the manifest that an operation leads to. Raises TransferError: ContradictionError
        if it is of another export than was asked for."""
        manifest = state.manifest
        if manifest is None and state.link is not None:
            manifest = await self.manifest_at(transfer, state.link)
        if manifest is None:
            raise TransferError(f"transfer {transfer}: its export has no manifest yet")
        await self._check_tenant(transfer, manifest)
        check_belongs(transfer, manifest)
        return manifest

    async def manifest_by_id(self, transfer: Transfer, manifest_id: str) -> Manifest:
        """Return the manifest of that id. Raises TransferError."""
        manifest = await self.manifest_at(transfer, _manifest_path(manifest_id))
        await self._check_tenant(transfer, manifest)
        check_belongs(transfer, manifest)
        return manifest

    async def manifest_at(self, transfer: Transfer, path: str) -> Manifest:
        """Return the manifest at a path of Microsoft Graph. Raises TransferError."""

        def read(reply: Reply) -> Manifest:
            return read_manifest(reply.body, self._graph_url)

        return await self._ask(transfer, Request(path), read)

    async def ask_raw(self, transfer: Transfer, path: str) -> bytes:
        """Return what is at a path of Microsoft Graph, as it came. Raises TransferError."""
        return await self._ask(transfer, Request(path), lambda reply: reply.body)

    async def ask_raw_manifest(self, transfer: Transfer, manifest_id: str) -> bytes:
        """Return the manifest of that id, as it came. Raises TransferError."""
        return await self.ask_raw(transfer, _manifest_path(manifest_id))

    async def drop(self, transfer: Transfer) -> None:
        """Forget the operation of a transfer that needs it no more. Raises StorageError."""
        if self._kept is not None:
            await anyio.to_thread.run_sync(self._kept.drop, transfer)

    async def _outliving(self, transfer: Transfer) -> Operation | None:
        """Return the operation of an earlier run, if it may still be of use."""
        if self._kept is None:
            return None
        operation = await anyio.to_thread.run_sync(self._kept.find, transfer)
        if operation is None or not is_worth_asking(operation, transfer, self._today()):
            return None
        try:
            path_on_graph(operation.path, self._graph_url)
        except RequestError:
            return None
        self._log.note("operation_found", transfer=str(transfer))
        return operation

    async def _keep(self, transfer: Transfer, operation: Operation) -> None:
        if self._kept is not None:
            await anyio.to_thread.run_sync(self._kept.keep, transfer, operation)

    async def _wait(
        self, transfer: Transfer, operation: Operation, ends_at: float
    ) -> tuple[OperationState | None, Operation]:
        """Ask for an operation until it is ready, or not known any more.

        An operation that is answered for was not refused, so one more may be open.
        """
        polls = 0
        while True:
            wait_s = next_wait_s(polls, operation.wait_s)
            if self._clock.now() + wait_s > ends_at:
                raise self._pending(transfer, operation)
            await self._clock.sleep(wait_s)
            state, operation = await self.poll(transfer, operation)
            if not polls:
                self._open.note_taken()
            polls += 1
            if state is None or state.is_ready:
                return state, operation

    def _pending(self, transfer: Transfer, operation: Operation) -> PendingExportError:
        return PendingExportError(
            f"transfer {transfer}: Microsoft Graph has not finished its export within "
            f"{self._deadline_s:g} s ({called('operation_deadline_s')}): run the same command "
            f"again later, it asks for the same export first: {operation.facts}"
        )

    async def _check_tenant(self, transfer: Transfer, manifest: Manifest) -> None:
        """Raise TransferError for an export of another tenant than that of the token."""
        said = claims_of(await self._session.token()).get("tid")
        ours = said if isinstance(said, str) else self._tenant
        if not manifest.tenant or not _GUID.fullmatch(ours.casefold()):
            return
        if manifest.tenant.casefold() != ours.casefold():
            raise TransferError(
                f"transfer {transfer}: its export belongs to tenant "
                f"{printable(manifest.tenant)[:60]}, and not to {printable(ours)}, which asked for "
                "it, so nothing of it is taken"
            )

    async def _ask(self, transfer: Transfer, request: Request, read: Callable[[Reply], T]) -> T:
        """Send a request to Microsoft Graph. A failure ends this transfer, and no other."""
        try:
            return await self._session.ask(request, read)
        except (RequestError, ServerUnavailableError, SignInError) as error:
            raise TransferError(f"transfer {transfer}: Microsoft Graph: {error}") from error


def check_belongs(transfer: Transfer, manifest: Manifest) -> None:
    """Raise ContradictionError if the directory of an export says that it is of something else than
    was asked for."""
    wanted = {"Fragment": ATTRIBUTE_SET}
    if transfer.unbilled:
        wanted["Currency"] = transfer.unbilled[1]
    else:
        wanted["InvoiceId"] = transfer.invoice_id
    for word, value in wanted.items():
        found = manifest.named(word)
        if found and found.casefold() != value.casefold():
            raise ContradictionError(
                f"transfer {transfer}: its export has files of {word}={printable(found)[:60]}, and "
                f"{word}={printable(value)} was asked for, so nothing of it is taken"
            )


_GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _check_again(
    transfer: Transfer, operation: Operation, state: OperationState | None, tries: _Tries
) -> None:
    """Return if an export that has come to nothing may be asked for again; else raise an error with
    what Microsoft Graph said."""
    failure = state.failure if state else None
    if failure is None:
        tries.forgotten += 1
        if tries.forgotten > _FORGOTTEN_AGAIN:
            raise ExportError(
                f"transfer {transfer}: Microsoft Graph accepts its export and does not know it "
                f"afterwards: {operation.facts}"
            )
        return
    if failure.code == NOTHING:
        raise NothingExportedError(
            _failed(transfer, failure, operation), code=failure.code, said=failure.message
        )
    tries.failed += 1
    if tries.failed > _SUBMITTED_AGAIN:
        raise ExportError(
            _failed(transfer, failure, operation), code=failure.code, said=failure.message
        )


def _failed(transfer: Transfer, failure: Failure, operation: Operation) -> str:
    return (
        f"transfer {transfer}: Microsoft Graph could not export it ({failure}): {operation.facts}"
    )
