"""Reads the address of an output: a directory of this machine, or a prefix in an object store."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from urllib.parse import unquote, urlsplit

from bulkfetch.errors import OutputError


class Service(Enum):
    """The kinds of object stores; each value is also the name of the extra with its packages."""

    S3 = "s3"
    AZURE = "azure"
    GCS = "gcs"


@dataclass(frozen=True, slots=True)
class Address:
    """A prefix of a container: a bucket of S3 or GCS, a container of Azure, a workspace of OneLake.

    `account` and `endpoint` are for Azure, if the address names them.
    """

    service: Service
    container: str
    prefix: str
    text: str
    account: str | None = None
    endpoint: str | None = None

    def key(self, name: object) -> str:
        """Return the key, in the container, of the object `name` of the archive."""
        if self.prefix:
            return f"{self.prefix}/{name}"
        return str(name)

    @property
    def plain(self) -> str:
        """The address as libraries of Delta and Iceberg read it: scheme, container and prefix."""
        return f"{_PLAIN_SCHEMES[self.service]}://{self.container}/{self.prefix}".rstrip("/")

    def __str__(self) -> str:
        return self.text


_SCHEMES = {
    "s3": Service.S3,
    "s3a": Service.S3,
    "gs": Service.GCS,
    "gcs": Service.GCS,
    "az": Service.AZURE,
    "azure": Service.AZURE,
    "abfs": Service.AZURE,
    "abfss": Service.AZURE,
    "https": Service.AZURE,
}
_PLAIN_SCHEMES = {Service.S3: "s3", Service.GCS: "gs", Service.AZURE: "az"}
_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]+"
"""The scheme of an address; a single letter is a drive of Windows."""
_LOCAL_SCHEMES = ("file", "dbfs")
_AROUND = " \t\r\n\ufeff\"'"
_WRAPPED = re.compile(r"\"[^\"]*\"|'[^']*'", re.DOTALL)
"""What a file, or a command that no shell reads, leaves around an address or a path."""
_EXAMPLES = (
    "s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, "
    "abfss://container@account.dfs.core.windows.net/prefix, or the path of a directory"
)
_AZURE_HOST = re.compile(
    r"(?P<account>[a-z0-9-]+)\.(?:z[0-9]+\.)?(?:dfs|blob)\."
    r"(?P<suffix>core\.windows\.net|core\.chinacloudapi\.cn|core\.usgovcloudapi\.net"
    r"|storage\.azure\.net|fabric\.microsoft\.com)"
)
"""Hosts of storage accounts and of OneLake, whose regional hosts are like westeurope-onelake."""
_ONELAKE = "fabric.microsoft.com"


def parse_address(text: str) -> Address | None:
    """Read the address of an object store; return None for the path of a directory.

    In `s3://`, `s3a://`, `gs://`, `gcs://`, `az://` and `azure://` addresses, the bucket or
    container and the prefix are taken literally. `abfs[s]://container@account…` and `https://`
    addresses of Azure Storage and OneLake are percent-encoded. Raises OutputError, whose message
    leaves out the query: it may hold a token.
    """
    _refuse_misspelt(text)
    scheme, separator, rest = text.partition("://")
    if not separator or not re.fullmatch(_SCHEME, scheme):
        return None
    service = _SCHEMES.get(scheme.lower())
    if service is None:
        raise OutputError(f"bulkfetch cannot write to {scheme}:// addresses; use {_EXAMPLES}")
    shown, query, _ = text.partition("?")
    if query or "#" in text:
        raise OutputError(
            f"{shown.partition('#')[0]}: an address must not have a query or fragment; give a SAS "
            "as the setting storage_sas"
        )
    if scheme.lower() == "https" or (service is Service.AZURE and "@" in rest.partition("/")[0]):
        return _azure_address(text)
    container, _, prefix = rest.partition("/")
    if "@" in container or ":" in container:
        raise OutputError(
            "the address must not contain credentials or a port; give them as settings (storage_…)"
        )
    return _check(Address(service, container, prefix.strip("/"), text))


def _refuse_misspelt(text: str) -> None:
    """Raise OutputError for what would become a directory named `s3:`, with the right spelling.

    `s3:/bucket` is what pathlib makes of an address. Spark calls files `dbfs:/…` and `file:/…`.
    """
    if _is_wrapped(text):
        raise OutputError("there are quotes or blanks around the address: leave them out")
    match = re.match(rf"({_SCHEME}):([/\\]*)", text)
    if match is None:
        return
    scheme, slashes, rest = match[1].lower(), match[2], text[match.end() :]
    shown = re.split(r"[?#]", rest)[0]
    if re.match(r"[^/]*:[^/]*@", shown) or (scheme in _LOCAL_SCHEMES and not slashes):
        shown = "…"  # credentials are not repeated
    if scheme in _LOCAL_SCHEMES:
        raise OutputError(
            f"{scheme}: addresses are files of this machine: give the path, "
            f"{_local_path(scheme, slashes, shown)}"
        )
    if slashes.startswith("//") or not (slashes or scheme in _SCHEMES):
        return
    if scheme in _SCHEMES:
        raise OutputError(
            f"{scheme}:{slashes} is not how an address begins: write {scheme}://{shown}"
        )
    raise OutputError(
        f"bulkfetch cannot write to {scheme}:{slashes} addresses; use {_EXAMPLES}; for a directory "
        "of that name write ./ before it"
    )


def _is_wrapped(text: str) -> bool:
    """Return whether there are quotes or blanks around an address, or a path that says where it
    starts."""
    bare = text.strip(_AROUND)
    is_address = bare != text and re.match(rf"{_SCHEME}:[/\\]", bare)
    has_start = text[:1] != bare[:1] and bare.startswith(("~", "/"))
    return bool(is_address or has_start or text.endswith(("\r", "\n")) or _WRAPPED.fullmatch(text))


def _local_path(scheme: str, slashes: str, rest: str) -> str:
    """Return where the files of a `file:` or `dbfs:` address are on this machine."""
    path = f"/{rest}"
    if scheme == "dbfs":
        # a cluster shows its volumes under their own name, and all else below /dbfs
        is_mounted = rest.startswith(("Volumes/", "dbfs/"))
        if is_mounted:
            return path
        return f"/dbfs{path}"
    if len(slashes) == 2 and not rest.startswith("localhost/"):
        return "/…"  # the name of another machine
    path = "/" + unquote(rest.removeprefix("localhost/"))
    if re.match(r"/[A-Za-z]:", path):
        return path[1:]
    return path


def _azure_address(text: str) -> Address:
    parts = urlsplit(text)
    host, path = (parts.hostname or "").lower(), unquote(parts.path).strip("/")
    found = _AZURE_HOST.fullmatch(host)
    if not found or parts.port is not None or parts.password is not None:
        raise OutputError(
            "an https:// or abfss:// address must name a host of Azure Storage or OneLake, as in "
            f"abfss://container@account.dfs.core.windows.net/prefix; use {_EXAMPLES}"
        )
    container, prefix = unquote(parts.username or ""), path
    if parts.scheme == "https":
        if parts.username is not None:
            raise OutputError(
                "the address must not contain credentials; give them as settings (storage_…)"
            )
        container, _, prefix = path.partition("/")
    endpoint = "https://" + re.sub(r"\.dfs\.", ".blob.", host)
    address = _check(
        Address(Service.AZURE, container, prefix.strip("/"), text, found["account"], endpoint)
    )
    if found["suffix"] == _ONELAKE and prefix.split("/")[1:2] != ["Files"]:
        raise OutputError(
            f"{text}: on OneLake an archive must be in the Files of an item, as in "
            "abfss://workspace@onelake.dfs.fabric.microsoft.com/lake.Lakehouse/Files/invoices"
        )
    return address


def _check(address: Address) -> Address:
    if not address.container:
        raise OutputError(f"{address}: the address has no bucket or container; use {_EXAMPLES}")
    if address.prefix and {"", ".", ".."} & set(address.prefix.split("/")):
        raise OutputError(
            f"{address}: a prefix must not have empty names, or names that are . or .."
        )
    return address
