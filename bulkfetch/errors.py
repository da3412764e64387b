"""Every exception bulkfetch raises.

    BulkfetchError
    ├── SettingsError               a setting is missing or wrong; nothing was sent or written
    ├── OutputError                 the output directory cannot be used
    │   └── OutputLockedError       another run is writing to it
    ├── StorageError                the disk or the object store refused, or holds no archive
    │   ├── DamagedError            a file of the archive is not what was written
    │   ├── UploadLostError         an upload failed, and what was sent of it is gone
    │   └── LockLostError           another run has taken over the archive from this one
    ├── RequestError                one request ended without a usable answer
    │   ├── ConnectionFailedError   no connection could be made
    │   ├── ConnectionLostError     it broke before the whole answer had come
    │   ├── UntrustedServerError    its certificate does not prove that it is the right server
    │   ├── TooManyFilesError       this machine allows no more connections
    │   ├── NoProgressError         connected, and then nothing came for too long
    │   ├── HttpStatusError         an answer with a status that is not a success
    │   ├── MalformedBodyError      a success whose body is not what the API sends
    │   └── ForeignLinkError        a link or redirect that leaves the configured origin
    ├── SignInError                 no token, or the server accepts none of ours
    ├── ServerUnavailableError      the server has answered nothing useful for too long
    ├── DeadlineError               the run has used up the time it was given
    ├── TransferError               a transfer cannot be completed
    │   ├── ContradictionError      its pages contradict each other
    │   └── ExpiredBookmarkError    the server no longer knows where an earlier run stopped
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
    """A setting is missing, contradictory or wrong. The message names it, its source and what would
    be right."""

    reason = "settings"


class OutputError(BulkfetchError):
    """The output directory cannot be used: not writable, or not empty and not an archive of
    ours."""

    reason = "output"


class OutputLockedError(OutputError):
    """Another run is writing to the same output directory."""

    reason = "output_locked"


class StorageError(BulkfetchError):
    """The disk or the object store refused a write or a read, or holds something that is no
    archive."""

    reason = "storage"


class DamagedError(StorageError):
    """A file of the archive is not what was written: something else has altered it."""

    reason = "damaged"


class UploadLostError(StorageError):
    """An object that is sent in pieces could not be completed; `final` says that it would not be
    the next time."""

    reason = "upload_lost"

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


class LockLostError(StorageError):
    """The lock of an archive in an object store was not renewed in time, and another run has taken
    it."""

    reason = "lock_lost"


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """What Microsoft's support asks for about one request, and how often it was tried."""

    method: str = "GET"
    path: str = ""
    request_id: str = ""
    correlation_id: str = ""
    attempts: int = 1

    def __str__(self) -> str:
        tries = "1 attempt" if self.attempts == 1 else f"{self.attempts} attempts"
        ids = f"MS-RequestId {self.request_id}, MS-CorrelationId {self.correlation_id}"
        return f"{self.method} {self.path} ({tries}; {ids})"


class RequestError(BulkfetchError):
    """One request ended without a usable answer. `facts` identify it for Microsoft's support."""

    reason = "request"

    def __init__(self, message: str, *, facts: RequestFacts | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts

    def __str__(self) -> str:
        return self.message if self.facts is None else f"{self.message}: {self.facts}"


class ConnectionFailedError(RequestError):
    """No connection could be made: the server has seen nothing of the request."""

    reason = "connection"


class ConnectionLostError(RequestError):
    """The connection broke before the whole answer had come."""

    reason = "connection_lost"


class UntrustedServerError(RequestError):
    """The server's certificate does not prove that it is the server asked for. Never tried
    again."""

    reason = "untrusted"


class TooManyFilesError(RequestError):
    """This machine allows no more connections: the limit on open files is reached."""

    reason = "too_many_files"


class NoProgressError(RequestError):
    """The connection stood, but nothing came for longer than the time-out allows."""

    reason = "no_progress"


class HttpStatusError(RequestError):
    """An answer whose status is not a success.

    `status` is the HTTP status; `code`, `description`, `data` and `source` are the API's own words
    where it gave any; `retry_after_s` is the wait the server asked for, in seconds.
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
        facts: RequestFacts | None = None,
    ) -> None:
        super().__init__(message, facts=facts)
        self.status = status
        self.code = code
        self.description = description
        self.data = data
        self.source = source
        self.retry_after_s = retry_after_s


class MalformedBodyError(RequestError):
    """A success whose body is cut, not JSON, too large, or not the shape that the API sends."""

    reason = "malformed_body"


class ForeignLinkError(RequestError):
    """A redirect, or a link in an answer, that leads away from the configured origin. Never
    followed."""

    reason = "foreign_link"


class SignInError(BulkfetchError):
    """No token could be had, or the server refuses the one there is."""

    reason = "sign_in"


class ServerUnavailableError(BulkfetchError):
    """The server has answered nothing useful for so long, or so often, that the run is given up."""

    reason = "server_unavailable"


class DeadlineError(BulkfetchError):
    """The run has used up the time it was given (`deadline_s`)."""

    reason = "deadline"


class TransferError(BulkfetchError):
    """A transfer cannot be completed. The message names the transfer and, where there is one, the
    page."""

    reason = "transfer"


class ContradictionError(TransferError):
    """The pages of a transfer contradict each other, so that no complete table can be made of
    them."""

    reason = "contradiction"


class ExpiredBookmarkError(TransferError):
    """The server no longer knows the place in a transfer where an earlier run left it."""


class NotFoundError(BulkfetchError):
    """An invoice, provider or line-item type that was asked for does not exist in this tenant."""

    reason = "not_found"
