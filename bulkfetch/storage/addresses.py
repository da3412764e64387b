"""Where an archive lies: in a directory of this machine, or under a prefix of a container in an
object store."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from urllib.parse import unquote, urlsplit

from bulkfetch.errors import OutputError


class Service(Enum):
    """The kinds of object stores."""

    S3 = "s3"
    AZURE = "azure"
    GCS = "gcs"


@dataclass(frozen=True, slots=True)
class Address:
    """A prefix of a container: a bucket of S3 or GCS, a container of Azure, a workspace of OneLake.

    `endpoint` and `account` are those of Azure, where the address names them.
    """

    service: Service
    container: str
    prefix: str
    text: str
    account: str | None = None
    endpoint: str | None = None

    def key(self, name: object) -> str:
        """Return what the container calls the object `name` of the archive."""
        return f"{self.prefix}/{name}" if self.prefix else str(name)

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
_EXAMPLES = (
    "s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, "
    "abfss://container@account.dfs.core.windows.net/prefix, or the path of a directory"
)
_AZURE_HOST = re.compile(
    r"(?P<account>[a-z0-9-]+)\.(?:z[0-9]+\.)?(?:dfs|blob)\."
    r"(?P<suffix>core\.windows\.net|core\.chinacloudapi\.cn|core\.usgovcloudapi\.net|storage\.azure\.net"
    r"|fabric\.microsoft\.com)"
)
"""Hosts of storage accounts, and of OneLake; its regional ones are named like
westeurope-onelake."""
_ONELAKE = "fabric.microsoft.com"


def parse_address(text: str) -> Address | None:
    """Read the address of an object store; None stands for the path of a directory.

    `s3://`, `s3a://`, `gs://`, `gcs://`, `az://` and `azure://` take the bucket or container and a
    prefix, spelled as they are; `abfs[s]://container@account.dfs.core.windows.net/prefix` and
    `https://` addresses of Azure Storage and OneLake are percent-encoded, as everywhere. Raises
    OutputError, which repeats no query, where tokens may be.
    """
    scheme, separator, rest = text.partition("://")
    if not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]+", scheme):
        return None
    service = _SCHEMES.get(scheme.lower())
    if service is None:
        raise OutputError(
            f"{scheme}:// is no storage that bulkfetch writes to; there are {_EXAMPLES}"
        )
    shown, query, _ = text.partition("?")
    if query or "#" in text:
        raise OutputError(
            f"{shown.partition('#')[0]}: an address ends with its path; a SAS has a setting, storage_sas"
        )
    if scheme.lower() == "https" or (service is Service.AZURE and "@" in rest.partition("/")[0]):
        return _azure_address(text)
    container, _, prefix = rest.partition("/")
    if "@" in container or ":" in container:
        raise OutputError(
            "the address must hold no credentials and no port; these have settings (storage_…)"
        )
    return _checked(Address(service, container, prefix.strip("/"), text))


def _azure_address(text: str) -> Address:
    parts = urlsplit(text)
    host, path = (parts.hostname or "").lower(), unquote(parts.path).strip("/")
    found = _AZURE_HOST.fullmatch(host)
    if not found or parts.port is not None or parts.password is not None:
        raise OutputError(
            "an https:// or abfss:// address names a host of Azure Storage or OneLake, as in "
            f"abfss://container@account.dfs.core.windows.net/prefix; there are {_EXAMPLES}"
        )
    container, prefix = unquote(parts.username or ""), path
    if parts.scheme == "https":
        if parts.username is not None:
            raise OutputError(
                "the address must hold no credentials; these have settings (storage_…)"
            )
        container, _, prefix = path.partition("/")
    endpoint = "https://" + re.sub(r"\.dfs\.", ".blob.", host)
    address = _checked(
        Address(Service.AZURE, container, prefix.strip("/"), text, found["account"], endpoint)
    )
    if found["suffix"] == _ONELAKE and prefix.split("/")[1:2] != ["Files"]:
        raise OutputError(
            f"{text}: on OneLake an archive lies in the Files of an item, as in "
            "abfss://workspace@onelake.dfs.fabric.microsoft.com/lake.Lakehouse/Files/invoices"
        )
    return address


def _checked(address: Address) -> Address:
    if not address.container:
        raise OutputError(f"{address}: the address names no bucket or container; as in {_EXAMPLES}")
    if address.prefix and {"", ".", ".."} & set(address.prefix.split("/")):
        raise OutputError(f"{address}: a prefix has no empty names, and none that are . or ..")
    return address
