"""The files of an export: fetched side by side to a folder, checked and counted as they come."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, auto
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias
from urllib.parse import parse_qs

import anyio
import anyio.to_thread

from bulkfetch.billing.exports import ExportedBlob
from bulkfetch.billing.transfers import Transfer
from bulkfetch.errors import (
    BulkfetchError,
    HttpStatusError,
    MalformedBodyError,
    RenewedExportError,
    RequestError,
    ServerUnavailableError,
    StorageError,
    TransferError,
)
from bulkfetch.graph.lines import LineCount
from bulkfetch.graph.manifests import Blob, Manifest
from bulkfetch.settings.values import Secret
from bulkfetch.storage.refusals import explain
from bulkfetch.wire.messages import Reply, Request
from bulkfetch.wire.retry import is_failing
from bulkfetch.wire.session import Session
from bulkfetch.words import printable

_LEAST_LEFT_S, _LEAST_SHARE = 300.0, 0.1
"""A SAS is renewed when less than this is left of it, and less than this share of its life."""
_REFUSED = (401, 403)
_CHANGED = (404, 409, 410, 412, 416)
Connect: TypeAlias = "Callable[[str], Awaitable[Session]]"


class Renew(Protocol):
    """Gives the manifest of an export with another SAS."""

    async def __call__(self, before: Manifest, *, anew: bool) -> Manifest:
        """Return it; with `anew`, that of a new export. Raises TransferError."""
        ...


_RANGE = re.compile(r"bytes ([0-9]+)-[0-9]+/([0-9]+)")
_RENEWALS_IN_VAIN, _CHANGES = 2, 2


class ChangedBlobError(RequestError):
    """The server has other bytes under the name of a file now."""

    reason = "contradiction"


class _Nowhere:
    """A file that keeps nothing of what is written to it."""

    def write(self, data: bytes) -> None:
        pass

    def seek(self, offset: int) -> None:
        pass

    def truncate(self) -> None:
        pass

    def close(self) -> None:
        pass


class Spooling:
    """A file on its way to the folder: a Receiver of its bytes, which may come in several goes.

    Without a path, its bytes are checked and counted, and not kept. Its methods block.
    """

    def __init__(self, path: Path | None) -> None:
        self.received = 0
        self._path = path
        self._file: BinaryIO | _Nowhere | None = None
        self._etag = ""
        self._size: int | None = None
        self._sha256 = hashlib.sha256()
        self._count = LineCount()

    @property
    def kept(self) -> int:
        """How many bytes are here: the next answer continues behind them."""
        if self._etag:
            return self.received
        return 0

    def headers(self) -> Mapping[str, str]:
        """Ask for what is not here yet, of the very bytes that began to come."""
        if not self._etag:  # nothing would say that the rest is of the same bytes
            return {}
        if not self.received:
            return {"If-Match": self._etag}
        return {"Range": f"bytes={self.received}-", "If-Match": self._etag}

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Continue with an answer, or begin again where it has the whole file.

        Raises RequestError if it continues something else, and StorageError.
        """
        etag = headers.get("etag", "")
        if self._etag and etag != self._etag:
            raise ChangedBlobError("the file has other bytes now")
        if status == 206:
            found = _RANGE.fullmatch(headers.get("content-range", ""))
            if found is None or int(found[1]) != self.received:
                raise MalformedBodyError("the answer has another range than was asked for")
            size = int(found[2])
            if self._size not in (None, size):
                raise ChangedBlobError("the file has another length now")
            return
        length = headers.get("content-length", "")
        self._begin_again(etag, int(length) if length.isdecimal() else None)

    def write(self, data: bytes) -> None:
        """Keep and count the next bytes. Raises StorageError, and MalformedBodyError if the file is
        damaged: then it has to come again."""
        try:
            self._open().write(data)
            self.received += len(data)
            self._sha256.update(data)
            self._count.feed(data)
        except OSError as error:
            raise _not_kept(self._path, error) from error
        except MalformedBodyError:
            self._begin_again(self._etag, self._size)
            raise

    def forget(self) -> None:
        """Begin again, with whichever bytes the server has now."""
        self._begin_again("", None)

    def finish(self, blob: Blob) -> ExportedBlob:
        """Return the whole file. Raises MalformedBodyError if it is cut or damaged: then it has to
        come again; and StorageError."""
        try:
            if self._size is not None and self.received != self._size:
                raise MalformedBodyError(f"it has {self.received} bytes instead of {self._size}")
            if not self.received:
                raise MalformedBodyError("it is empty, and not even a gzip file without lines")
            self._count.finish()
            self.close()
        except MalformedBodyError:
            self._begin_again(self._etag, self._size)
            raise
        except OSError as error:
            raise _not_kept(self._path, error) from error
        return ExportedBlob(
            name=blob.name,
            size_bytes=self.received,
            etag=self._etag,
            sha256=self._sha256.hexdigest(),
            lines=self._count.lines,
        )

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _begin_again(self, etag: str, size: int | None) -> None:
        try:
            file = self._open()
            file.seek(0)
            file.truncate()
        except OSError as error:
            raise _not_kept(self._path, error) from error
        self._etag, self._size, self.received = etag, size, 0
        self._sha256, self._count = hashlib.sha256(), LineCount()

    def _open(self) -> BinaryIO | _Nowhere:
        if self._file is None:
            self._file = _Nowhere() if self._path is None else self._path.open("wb")
        return self._file


def _not_kept(path: Path | None, error: OSError) -> StorageError:
    folder = Path() if path is None else path.parent
    return StorageError(
        "a file of an export cannot be kept, compressed, until its rows are written: "
        f"{explain(error, folder)}"
    )


@dataclass(slots=True)
class Access:
    """The way to the files of one export: its manifest, whose SAS is renewed for all files at once.

    `renew` returns the manifest with another SAS, that of a new export if `anew` says so. `now` is
    a clock that only goes forwards.
    """

    transfer: Transfer
    manifest: Manifest
    renew: Renew
    now: Callable[[], float]
    _renewed_at: float = field(init=False)
    _turn: anyio.Lock = field(init=False, default_factory=anyio.Lock)

    def __post_init__(self) -> None:
        self._renewed_at = self.now()

    async def sas(self) -> Secret:
        """Return a SAS that has time left. Raises RenewedExportError and TransferError."""
        if is_running_out(self.manifest.sas, self.now() - self._renewed_at):
            await self.replace(self.manifest.sas)
        return self.manifest.sas

    async def replace(self, refused: Secret, *, anew: bool = False) -> None:
        """Get another SAS than `refused`, once for all files that need it; `anew`, by a new export,
        where files are gone although an earlier one still leads to them.

        Raises RenewedExportError if the data are others now, and TransferError.
        """
        async with self._turn:
            if self.manifest.sas == refused:
                fresh = await self.renew(self.manifest, anew=anew)
                check_same(self.transfer, self.manifest, fresh)
                self.manifest, self._renewed_at = fresh, self.now()


def is_running_out(sas: Secret, age_s: float) -> bool:
    """Return whether a SAS that came `age_s` ago should be renewed before it is used again."""
    life_s = life_of(sas)
    return life_s is not None and life_s - age_s < min(_LEAST_LEFT_S, _LEAST_SHARE * life_s)


def life_of(sas: Secret) -> float | None:
    """Return for how many seconds a SAS lives, by its own words; None if it does not say.

    It starts with the key that signs it, which is made for it. So no clocks are compared.
    """
    words = parse_qs(sas.reveal())
    starts, ends = (words.get("st") or words.get("skt"), words.get("se"))
    try:
        life = datetime.fromisoformat((ends or [""])[0]) - datetime.fromisoformat(
            (starts or [""])[0]
        )
    except (ValueError, TypeError):
        return None
    if life > timedelta():
        return life.total_seconds()
    return None


def check_same(transfer: Transfer, before: Manifest, now: Manifest) -> None:
    """Raise RenewedExportError if two manifests are not of the same data."""
    if (before.etag, before.names) != (now.etag, now.names):
        raise RenewedExportError(
            f"transfer {transfer}: Microsoft Graph has made its data anew while they were read "
            f"(eTag {printable(before.etag)[:40]}, now {printable(now.etag)[:40]}): "
            "read it again from the start"
        )


async def spool(blob: Blob, path: Path | None, access: Access, connect: Connect) -> ExportedBlob:
    """Fetch a file of an export to `path`, or only count it, and return what was found out about
    it; `connect` gives the session with a server.

    It continues where an answer broke off, and renews the SAS where that has lapsed. Raises
    RenewedExportError if the data are others now, another TransferError if the server does not give
    the file, and StorageError.
    """
    spooling, in_vain, changes = Spooling(path), 0, 0
    try:
        while True:
            sas, before = await access.sas(), spooling.received
            try:
                session = await connect(access.manifest.server)
                return await _continue(blob, spooling, access, sas, session)
            except (RequestError, ServerUnavailableError) as error:
                in_vain = 0 if spooling.received > before else in_vain + 1
                match _meaning_of(error):
                    case _Meaning.REFUSED if in_vain <= _RENEWALS_IN_VAIN:
                        await access.replace(sas)
                    case _Meaning.CHANGED if changes < _CHANGES:
                        changes += 1
                        await access.replace(sas, anew=changes == _CHANGES)
                        await anyio.to_thread.run_sync(spooling.forget)
                    case _Meaning.BROKEN if not in_vain:
                        continue
                    case _:
                        raise TransferError(
                            f"transfer {access.transfer}, file {blob.name}: {error}"
                        ) from error
    finally:
        spooling.close()


class _Unread:
    """Takes the answer to a HEAD, which has no body."""

    kept = 0

    def headers(self) -> Mapping[str, str]:
        return {}

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        pass

    def write(self, data: bytes) -> None:
        pass


async def measure(blob: Blob, access: Access, connect: Connect) -> int:
    """Return how many bytes the server has of a file. Raises TransferError if it does not say."""

    def read(reply: Reply) -> int:
        length = reply.headers.get("content-length", "")
        if not length.isdecimal():
            raise MalformedBodyError("the answer does not say how long the file is")
        return int(length)

    path = access.manifest.path_of(blob)
    try:
        sas = await access.sas()
        session = await connect(access.manifest.server)
        session.learn(sas)
        request = Request(path, method="HEAD", secret=sas, receiver=_Unread(), as_stored=True)
        return await session.ask(request, read)
    except (RequestError, ServerUnavailableError) as error:
        raise TransferError(
            f"transfer {access.transfer}, file {blob.name}: its length is not known: {error}"
        ) from error


class _Meaning(Enum):
    """What can be done about an answer that is not the rest of a file."""

    REFUSED = auto()
    """The SAS has lapsed."""
    CHANGED = auto()
    """The file is gone, or has other bytes."""
    BROKEN = auto()
    """The answer broke off, or did not come."""
    OTHER = auto()


def _meaning_of(error: BulkfetchError) -> _Meaning:
    if isinstance(error, ChangedBlobError):
        return _Meaning.CHANGED
    if isinstance(error, HttpStatusError) and error.status in _REFUSED:
        return _Meaning.REFUSED
    if isinstance(error, HttpStatusError) and error.status in _CHANGED:
        return _Meaning.CHANGED
    if is_failing(error):
        return _Meaning.BROKEN
    return _Meaning.OTHER


async def _continue(
    blob: Blob, spooling: Spooling, access: Access, sas: Secret, session: Session
) -> ExportedBlob:
    session.learn(sas)
    request = Request(
        access.manifest.path_of(blob),
        secret=sas,
        receiver=spooling,
        accepts=(200, 206),
        as_stored=True,
    )
    return await session.ask(request, lambda _: spooling.finish(blob))
