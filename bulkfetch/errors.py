"""Every exception bulkfetch raises.

    BulkfetchError
    ├── SettingsError               a setting is missing or wrong; nothing was sent or written
    ├── OutputError                 the output directory cannot be used
    │   ├── DamagedArchiveError     its archive file is not what was written
    │   └── OutputLockedError       another run is writing to it
    ├── StorageError                the disk or the object store refused, or cannot be read
    │   ├── DamagedError            a file of the archive is not what was written
    │   │   └── NameTakenError      a file of others has the name that a new one needs
    │   ├── TableError              a table of Delta or Iceberg cannot be read or changed
    │   ├── UploadLostError         an object could not be uploaded; its parts are gone
    │   └── LockLostError           another run has taken the lock of the archive
    ├── RequestError                one request ended without a usable answer
    │   ├── ConnectionFailedError   no connection could be made
    │   │   └── ProxyError          a proxy is down, or does not connect
    │   ├── ConnectionLostError     the connection broke before the answer was complete
    │   ├── UntrustedServerError    the server's certificate does not prove who it is
    │   ├── TooManyFilesError       this machine allows no more connections
    │   ├── NoProgressError         connected, but no bytes came for too long
    │   ├── HttpStatusError         the answer's status is not a success
    │   ├── MalformedBodyError      a success, but the body is not what the API sends
    │   │   ├── ForeignPageError    a web page or text of a proxy or portal, not of the API
    │   │   └── MisdirectedError    the answer belongs to another request
    │   └── ForeignLinkError        a link or redirect leads away from the configured origin
    ├── SignInError                 no token could be had, or the server refuses it
    │   └── GraphAccessError        no token opens Microsoft Graph's billing export
    ├── ServerUnavailableError      the server has not given a useful answer for too long
    ├── EngineError                 the processes of a distributed run cannot work together
    ├── DeadlineError               the run has used up its time
    ├── ReaderGoneError             the program that read the printed results has ended
    ├── TransferError               a transfer cannot be completed
    │   ├── ContradictionError      its pages contradict each other
    │   │   ├── StalePartError      it is not what it was when its parts were planned
    │   │   └── RenewedExportError  its export was made anew while it was read
    │   ├── ExportError             Microsoft Graph could not make an export
    │   │   ├── NothingExportedError  it says that there is nothing to export
    │   │   └── PendingExportError  it has not finished the export in time
    │   ├── NoGraphError            Microsoft Graph refuses all exports
    │   └── ExpiredBookmarkError    the server no longer knows where to continue
    └── NotFoundError               this tenant does not have what was asked for

The message of each says what happened and what the reader can do; facts for programs are
attributes.
"""

from __future__ import annotations

from dataclasses import dataclass


class BulkfetchError(Exception):
    """The base of every error raised on purpose. `reason` is a stable code for machines."""

    reason = "error"


class SettingsError(BulkfetchError):
    """A setting is missing, wrong or contradicts another. The message names it, its source, and a
    right value."""

    reason = "settings"


class OutputError(BulkfetchError):
    """The output directory cannot be used: it is not writable, or has other files than ours."""

    reason = "output"


class DamagedArchiveError(OutputError):
    """The file that makes a directory an archive is not what was written."""

    reason = "damaged_archive"


class OutputLockedError(OutputError):
    """Another run is writing to the same output directory."""

    reason = "output_locked"


class StorageError(BulkfetchError):
    """The disk or the object store refused a write or a read, or does not hold an archive."""

    reason = "storage"


class DamagedError(StorageError):
    """A file of the archive is not what was written: another program has altered it."""

    reason = "damaged"


class NameTakenError(DamagedError):
    """A file that bulkfetch did not write has the name that a new file needs."""

    reason = "name_taken"


class TableError(StorageError):
    """A table of Delta Lake or Iceberg cannot be read, or a change of it was refused."""

    reason = "table"


class UploadLostError(StorageError):
    """An object that is sent in pieces could not be completed. `final` says that another try would
    fail as well."""

    reason = "upload_lost"

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


class LockLostError(StorageError):
    """The lock of an archive in an object store was not renewed in time; another run has it."""

    reason = "lock_lost"


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """What Microsoft's support asks for about one request, and how often it was tried.

    `answer_id` is the id that the server gave its answer. Only the Partner Center API knows a
    `correlation_id`, which all requests of a run share.
    """

    method: str = "GET"
    path: str = ""
    request_id: str = ""
    correlation_id: str = ""
    attempts: int = 1
    answer_id: str = ""

    def __str__(self) -> str:
        tries = "1 attempt" if self.attempts == 1 else f"{self.attempts} attempts"
        ids = f"MS-RequestId {self.request_id}, MS-CorrelationId {self.correlation_id}"
        if not self.correlation_id:
            ids = f"client-request-id {self.request_id}, request-id {self.answer_id or 'none'}"
        return f"{self.method} {self.path} ({tries}; {ids})"


class RequestError(BulkfetchError):
    """One request ended without a usable answer. `facts` identify it for Microsoft's support."""

    reason = "request"

    def __init__(self, message: str, *, facts: RequestFacts | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts

    def __str__(self) -> str:
        if self.facts is None:
            return self.message
        return f"{self.message}: {self.facts}"


class ConnectionFailedError(RequestError):
    """No connection could be made: the request has not reached the server."""

    reason = "connection"


class ProxyError(ConnectionFailedError):
    """A proxy cannot be reached, or answers `status` instead of connecting to the server.

    `advice` is what the reader can do.
    """

    reason = "proxy"

    def __init__(self, message: str, *, advice: str, status: int | None = None) -> None:
        super().__init__(message)
        self.advice = advice
        self.status = status


class ConnectionLostError(RequestError):
    """The connection broke before the answer was complete."""

    reason = "connection_lost"


class UntrustedServerError(RequestError):
    """The server's certificate does not prove that it is the right server. Never retried."""

    reason = "untrusted"


class TooManyFilesError(RequestError):
    """This machine allows no more connections: the limit on open files is reached."""

    reason = "too_many_files"


class NoProgressError(RequestError):
    """The connection was open, but no bytes came within the time-out."""

    reason = "no_progress"


class HttpStatusError(RequestError):
    """An answer whose status is not a success.

    `status` is the HTTP status; `code`, `description`, `data` and `source` are the API's own words
    where it gave any; `retry_after_s` is the wait the server asked for, in seconds. `is_page` says
    that the answer is a web page, so that a proxy or portal gave it. `answer_id` is the id that the
    server gave its answer.
    """

    reason = "http_status"

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str | None = None,
        description: str | None = None,
        data: tuple[str, ...] = (),
        source: str | None = None,
        retry_after_s: float | None = None,
        is_page: bool = False,
        answer_id: str = "",
        facts: RequestFacts | None = None,
    ) -> None:
        super().__init__(message, facts=facts)
        self.status = status
        self.code = code
        self.description = description
        self.data = data
        self.source = source
        self.retry_after_s = retry_after_s
        self.is_page = is_page
        self.answer_id = answer_id


class MalformedBodyError(RequestError):
    """A success whose body is cut short, not JSON, too large, or not of the API's shape."""

    reason = "malformed_body"


class ForeignPageError(MalformedBodyError):
    """A success whose body the service did not send: a web page of a proxy or portal, or text."""

    reason = "foreign_page"


class MisdirectedError(MalformedBodyError):
    """An answer that belongs to another request, by its own words."""

    reason = "contradiction"


class ForeignLinkError(RequestError):
    """A redirect or a link that leads away from the configured origin. It is not followed."""

    reason = "foreign_link"


class SignInError(BulkfetchError):
    """No token could be had, or the server refuses the token."""

    reason = "sign_in"


class GraphAccessError(SignInError):
    """No token opens Microsoft Graph's billing export: `why`, and `advice` on what to do."""

    reason = "graph_access"

    def __init__(self, why: str, advice: str = "") -> None:
        super().__init__(f"{why}: {advice}" if advice else why)
        self.why = why
        self.advice = advice


class ServerUnavailableError(BulkfetchError):
    """The server has not given a useful answer for so long, or so often, that the run stops."""

    reason = "server_unavailable"


class EngineError(BulkfetchError):
    """The processes of a distributed run cannot work together: one cannot be reached, or has
    died."""

    reason = "engine"


class DeadlineError(BulkfetchError):
    """The run has used up its time (`deadline_s`)."""

    reason = "deadline"


class TransferError(BulkfetchError):
    """A transfer cannot be completed. The message names the transfer and the page, if any."""

    reason = "transfer"


class ContradictionError(TransferError):
    """The pages of a transfer contradict each other, so they do not make a complete table."""

    reason = "contradiction"


class StalePartError(ContradictionError):
    """A transfer is not what it was when its parts were planned: plan it again."""

    reason = "stale_part"


class RenewedExportError(ContradictionError):
    """The data of an export of Microsoft Graph was made anew while it was read: begin again."""

    reason = "renewed_export"


class ExportError(TransferError):
    """Microsoft Graph could not make an export. `code` and `said` are its words."""

    reason = "export"

    def __init__(self, message: str, *, code: str = "", said: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.said = said


class NoGraphError(TransferError):
    """Microsoft Graph is not asked, or refuses all exports; `advice` says what to do."""

    reason = "graph_access"

    def __init__(self, message: str, advice: str) -> None:
        super().__init__(message)
        self.advice = advice


class NothingExportedError(ExportError):
    """Microsoft Graph says that there is nothing to export (code 5000).

    That means one of three: there are no line items, they are not there yet, or the invoice is one
    of legacy commerce, which Microsoft Graph does not know.
    """

    reason = "nothing_exported"


class PendingExportError(ExportError):
    """Microsoft Graph has not finished an export in time (`operation_deadline_s`); a later run asks
    for it first."""

    reason = "pending_export"


class ExpiredBookmarkError(TransferError):
    """The server no longer knows the place in a transfer where an earlier run left it."""


class ReaderGoneError(BulkfetchError):
    """The program that read what a command prints has ended: there is nobody to print for."""

    reason = "reader_gone"


class NotFoundError(BulkfetchError):
    """An invoice, provider or line-item type that was asked for does not exist in this tenant."""

    reason = "not_found"
