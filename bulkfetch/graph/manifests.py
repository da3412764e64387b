"""What operations and manifests of an export say, read from JSON and checked. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import orjson

from bulkfetch.decoding.jsontext import utf8_of
from bulkfetch.errors import ForeignLinkError, MalformedBodyError
from bulkfetch.settings.values import Secret, is_loopback
from bulkfetch.words import printable

_DONE = ("succeeded", "completed")
_FORMATS = ("compressedjson", "compressedjsonlines")
_STORAGE = (".blob.core.windows.net", ".dfs.core.windows.net")
_LOCATION = "resourcelocation"
_LINK = "resourcelocation@odata.navigationlink"
_PATH = re.compile(r"/(?:v1\.0|beta)(?:/[\w.~%()'$=@:,;!*+-]+)+", re.ASCII)
_SAS = re.compile(r"[!-~]+")
_NOT_IN_NAMES = re.compile(r"[\x00-\x1f\x7f\\?#]")
_VERSION = re.compile(r"/InvoiceVersion=([^/]+)", re.IGNORECASE)
_FRAGMENT = re.compile(r"/Fragment=([^/]+)", re.IGNORECASE)
_MAX_SHOWN = 300


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an operation failed, in the words of Microsoft Graph."""

    code: str
    message: str

    def __str__(self) -> str:
        if self.message:
            return f"code {self.code}: {self.message}"
        return f"code {self.code}"


@dataclass(frozen=True, slots=True)
class Blob:
    """One file of an export: its name below the directory, and the partition it belongs to."""

    name: str
    partition: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an export consists of, and where. `blobs` are in the order in which they are read.

    The SAS opens all of its files until it `expires`.
    """

    id: str
    etag: str
    schema_version: str
    created: str
    tenant: str
    directory: str
    """The address of the directory, without a slash at its end."""
    sas: Secret = field(repr=False)
    blobs: tuple[Blob, ...]

    @property
    def server(self) -> str:
        """The scheme and the host of the directory."""
        parts = urlsplit(self.directory)
        return f"{parts.scheme}://{parts.netloc}"

    def path_of(self, blob: Blob) -> str:
        """Return the path of a file, percent-encoded."""
        return f"{urlsplit(self.directory).path}/{quote(blob.name, safe=_SAFE)}"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the files."""
        return tuple(blob.name for blob in self.blobs)

    @property
    def invoice_version(self) -> str:
        """The minute in which the rows of an invoice were made, as the directory says it."""
        return _find(_VERSION, self.directory)

    @property
    def attribute_set(self) -> str:
        """Which attributes the rows have, as the directory says it: `full` or `basic`."""
        return _find(_FRAGMENT, self.directory)

    def named(self, word: str) -> str:
        """What a folder of the directory says after a word, as in `InvoiceId=…`; "" if none
        does."""
        return _find(re.compile(f"/{word}=([^/]+)", re.IGNORECASE), self.directory)

    @property
    def expires(self) -> datetime | None:
        """When the SAS ends, or None if it does not say."""
        return expiry_of(self.sas)


_SAFE = "/=~:@!$&'()*+,;"


@dataclass(frozen=True, slots=True)
class OperationState:
    """What an operation says of itself: it fails, or leads to a manifest, or else is not ready.

    A manifest comes with it, or is at `link`.
    """

    failure: Failure | None = None
    manifest: Manifest | None = None
    link: str | None = None

    @property
    def is_ready(self) -> bool:
        """Whether it has ended."""
        return (self.failure, self.manifest, self.link) != (None, None, None)


def read_operation(body: bytes, graph_url: str) -> OperationState:
    """Read an operation. Raises MalformedBodyError if it is not one, and ForeignLinkError if it
    leads away from Microsoft Graph."""
    said = _read_object(body, "an operation")
    status = _text(said, "status").casefold()
    if not status:
        raise MalformedBodyError("the body is JSON, but not an operation: it has no `status`")
    if status == "failed":
        error = said.get("error")
        words = _fold(error) if isinstance(error, dict) else {}
        code = _shown(words.get("code")) or "unknown"
        return OperationState(failure=Failure(code, _shown(words.get("message"))))
    if status not in _DONE:
        return OperationState()
    located = said.get(_LOCATION)
    if isinstance(located, dict):
        return OperationState(manifest=_manifest_of(_fold(located), graph_url))
    link = located if isinstance(located, str) and located else said.get(_LINK)
    if not isinstance(link, str) or not link:
        raise MalformedBodyError("the operation has succeeded, but leads to no manifest")
    return OperationState(link=path_on_graph(link, graph_url))


def read_manifest(body: bytes, graph_url: str) -> Manifest:
    """Read a manifest. Raises MalformedBodyError if it is not a whole one, and ForeignLinkError if
    its files are where no export has them."""
    return _manifest_of(_read_object(body, "a manifest"), graph_url)


def path_on_graph(link: str, graph_url: str) -> str:
    """Return the path, with the version, of a link that leads to Microsoft Graph.

    Raises ForeignLinkError for any other: our token goes nowhere else.
    """
    try:
        parts, own = urlsplit(link.strip()), urlsplit(graph_url)
        is_own = not (parts.scheme or parts.netloc) or (parts.scheme, parts.netloc.casefold()) == (
            own.scheme,
            own.netloc.casefold(),
        )
    except ValueError:
        is_own = False
    if not is_own or parts.query or parts.fragment or not _PATH.fullmatch(parts.path):
        raise ForeignLinkError(
            f"Microsoft Graph leads to {printable(_without_query(link))[:_MAX_SHOWN]}, "
            "which is not one of its own addresses, and is not followed"
        )
    return parts.path


def expiry_of(sas: Secret) -> datetime | None:
    """Return when a SAS ends, or None if it does not say."""
    ends = parse_qs(sas.reveal()).get("se", [""])[0]
    try:
        moment = datetime.fromisoformat(ends)
    except ValueError:
        return None
    if moment.tzinfo:
        return moment
    return moment.replace(tzinfo=UTC)


def _manifest_of(said: Mapping[str, Any], graph_url: str) -> Manifest:
    data_format = _text(said, "dataformat")
    if data_format.casefold() not in _FORMATS:
        raise MalformedBodyError(
            f"the export has the data format {printable(data_format)[:40]!r}, "
            "and only compressed JSON lines can be read"
        )
    blobs = sorted(_blobs_in(said), key=lambda blob: (blob.partition, blob.name))
    if said.get("blobcount") != len(blobs):
        counted = _shown(said.get("blobcount")) or "no number"
        raise MalformedBodyError(
            f"the manifest says that it has {counted} blobs, and lists {len(blobs)}"
        )
    for name, spelled in _NEEDED.items():
        if not _text(said, name) and (blobs or name == "etag"):
            raise MalformedBodyError(f"the manifest is incomplete: it has no `{spelled}`")
    sas, directory = _text(said, "sastoken").strip().removeprefix("?"), ""
    if blobs:
        _check_sas(sas)
        directory = _directory(_text(said, "rootdirectory"), graph_url)
    return Manifest(
        id=_text(said, "id"),
        etag=_text(said, "etag"),
        schema_version=_text(said, "schemaversion"),
        created=_text(said, "createddatetime"),
        tenant=_text(said, "partnertenantid"),
        directory=directory,
        sas=Secret(sas),
        blobs=tuple(blobs),
    )


def _check_sas(sas: str) -> None:
    if not _SAS.fullmatch(sas) or "#" in sas:
        raise MalformedBodyError("the `sasToken` of the manifest cannot be part of an address")


_NEEDED = {"etag": "eTag", "sastoken": "sasToken", "rootdirectory": "rootDirectory"}


def _blobs_in(said: Mapping[str, Any]) -> Iterator[Blob]:
    """Yield the files of a manifest. A name that could lead elsewhere, or comes twice, is not
    accepted."""
    listed = said.get("blobs")
    if not isinstance(listed, list):
        raise MalformedBodyError("the manifest is incomplete: it has no `blobs`")
    names = set[str]()
    for each in listed:
        words = _fold(each) if isinstance(each, dict) else {}
        name = _text(words, "name")
        if not _is_name(name) or name in names:
            raise MalformedBodyError(
                f"the manifest has a blob with the name {printable(name)[:_MAX_SHOWN]!r}, "
                f"which {'comes twice' if name in names else 'no file of an export can have'}"
            )
        names.add(name)
        yield Blob(name, _text(words, "partitionvalue"))


def _is_name(name: str) -> bool:
    segments = unquote(name).split("/")
    return not _NOT_IN_NAMES.search(name) and not {"", ".", ".."} & {*segments}


def _directory(address: str, graph_url: str) -> str:
    """Return the address of the files. Raises ForeignLinkError if it is not in Azure Storage."""
    try:
        parts = urlsplit(address.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise _foreign(address) from None
    of_sandbox = is_loopback(urlsplit(graph_url).hostname or "") and is_loopback(host)
    of_azure = parts.scheme == "https" and host.endswith(_STORAGE) and port in (None, 443)
    has_more = parts.username is not None or "@" in parts.netloc or parts.query or parts.fragment
    path = parts.path.rstrip("/")
    if not (of_azure or of_sandbox) or has_more or not _is_name(path.removeprefix("/")):
        raise _foreign(address)
    return f"{parts.scheme}://{parts.netloc}{quote(path, safe=_SAFE + '%')}"


def _foreign(address: str) -> ForeignLinkError:
    return ForeignLinkError(
        f"the files of the export are at {printable(_without_query(address))[:_MAX_SHOWN]}, which "
        "is not a directory of Azure Storage, and are not fetched"
    )


def _without_query(address: str) -> str:
    """Return an address without what may open it."""
    return re.split(r"[?#]", address, maxsplit=1)[0].rpartition("@")[2]


def _read_object(body: bytes, what: str) -> dict[str, Any]:
    try:
        said = orjson.loads(utf8_of(body))
    except orjson.JSONDecodeError as error:
        raise MalformedBodyError(f"the body is not JSON, and so not {what}: {error.msg}") from None
    if not isinstance(said, dict):
        raise MalformedBodyError(f"the body is JSON, but not {what}: it is not an object")
    return _fold(said)


def _fold(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object whose names have no capitals: their case varies."""
    return {name.casefold(): value for name, value in said.items()}


def _text(said: Mapping[str, Any], name: str) -> str:
    value = said.get(name)
    if isinstance(value, str):
        return value
    return ""


def _shown(value: object) -> str:
    """Return a text or a number of the service as text that is safe to show."""
    if isinstance(value, str | int):
        return printable(str(value))[:_MAX_SHOWN]
    return ""


def _find(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(unquote(text))
    if found:
        return found[1]
    return ""
