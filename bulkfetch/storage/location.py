"""Where an archive is, for libraries that open its files by themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath


def _nothing() -> Mapping[str, str]:
    return {}


@dataclass(frozen=True, slots=True)
class Location:
    """The address of an archive: an absolute path, or `s3://`, `az://` or `gs://` with the prefix.

    `options` returns what a client of the object store needs, in the names of the Rust crate
    object_store (`aws_access_key_id`, …): credentials as they are now, endpoint, region, proxy.
    """

    address: str
    options: Callable[[], Mapping[str, str]] = field(default=_nothing, repr=False, compare=False)

    def at(self, name: PurePosixPath) -> str:
        """Return the address of a file or folder of the archive."""
        return f"{self.address.rstrip('/')}/{name}"
