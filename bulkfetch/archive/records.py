"""JSON records that vouch for themselves, and for the files that they name."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any, Protocol, TypeVar

import orjson

from bulkfetch.archive.layout import FORMAT_VERSION
from bulkfetch.errors import DamagedError, OutputError
from bulkfetch.storage.store import Store

R = TypeVar("R")


class FileFacts(Protocol):
    """A file that a record names."""

    @property
    def name(self) -> str:
        """Where it is published."""
        ...

    @property
    def size_bytes(self) -> int:
        """Its size, in bytes."""
        ...

    @property
    def sha256(self) -> str:
        """The sha256 of its content, in hexadecimal digits."""
        ...


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that is published, and what it is made of."""

    name: str
    size_bytes: int
    sha256: str


class Record(Protocol):
    """What an archive takes as a whole: files, and the record that they are whole.

    Transfers, documents, unbilled snapshots and the table of headers are all of this shape.
    """

    @property
    def record_name(self) -> PurePosixPath:
        """Where the record is stored once its files are published."""
        ...

    @property
    def files(self) -> Sequence[FileFacts]:
        """The files that it names."""
        ...

    @property
    def is_view(self) -> bool:
        """Whether it is a view of a moment, of which older generations need not be kept."""
        ...

    def to_json(self) -> bytes:
        """Write the record: the same bytes for the same data."""
        ...


def money(amount: Decimal) -> Decimal:
    """Return the same amount without superfluous zeros, with at least two decimals."""
    whole, _, fraction = f"{amount:f}".partition(".")
    return Decimal(f"{whole}.{fraction.rstrip('0').ljust(2, '0')}")


def sealed(facts: Mapping[str, Any], key: str) -> bytes:
    """Write `facts` as JSON, with the hash of all of them under `key`."""
    return _dumps({**facts, key: _hash(facts)})


def unsealed(content: bytes, key: str) -> dict[str, Any]:
    """Read what `sealed` wrote, without the hash. Raises ValueError, KeyError or TypeError for
    anything else."""
    facts = orjson.loads(content)
    if content != _dumps(facts):
        raise ValueError("it is not written as bulkfetch writes it")
    if facts.pop(key) != _hash(facts):
        raise ValueError("its hash does not match its content")
    return dict(facts)


def parse(content: bytes, name: PurePosixPath, key: str, build: Callable[[dict[str, Any]], R]) -> R:
    """Read a record of the current format. Raises DamagedError if it is not what was written.

    `build` makes the value from the facts; what it raises for facts that do not fit is translated.
    """
    try:
        facts = unsealed(content, key)
        version = facts["format_version"]
        if version != FORMAT_VERSION:
            raise ValueError(f"it has format version {version}, not {FORMAT_VERSION}")
        return build(facts)
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise DamagedError(f"{name} is damaged ({error}); run `bulkfetch repair`") from error


def read(
    store: Store, name: PurePosixPath, parse_record: Callable[[bytes, PurePosixPath], R]
) -> R | None:
    """Return a record, or None if there is none. Raises DamagedError."""
    content = store.read(name)
    return None if content is None else parse_record(content, name)


def check_file(file: FileFacts) -> None:
    """Check the facts of a file before anything relies on them. Raises ValueError."""
    is_size = isinstance(file.size_bytes, int) and file.size_bytes >= 0
    if not is_size or not _SHA256.fullmatch(file.sha256):
        raise ValueError(f"{file.name} has no size or no sha256")


WITHDRAWN_KEY = "withdrawn_sha256"
WITHDRAWN_FACTS = {"format_version": FORMAT_VERSION, "withdrawn": True}


def withdrawn() -> bytes:
    """Write the record that says that a record goes, and nothing comes in its place."""
    return sealed(WITHDRAWN_FACTS, WITHDRAWN_KEY)


def is_sealed(content: bytes) -> bool:
    """Return whether a record is whole, whatever it says: a torn one is not."""
    try:
        facts = orjson.loads(content)
        keys = [key for key in facts if key.endswith("_sha256")]
        return len(keys) == 1 and bool(unsealed(content, keys[0]))
    except (ValueError, KeyError, TypeError):
        return False


def refuse_other_format(version: object) -> None:
    """Refuse an archive of another format. Raises OutputError."""
    if version != FORMAT_VERSION:
        raise OutputError(
            f"this archive has format version {version}; this bulkfetch reads and writes version "
            f"{FORMAT_VERSION} alone: export into a new directory"
        )


_SHA256 = re.compile(r"[0-9a-f]{64}")


def _hash(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(_dumps(facts)).hexdigest()


def _dumps(value: object) -> bytes:
    return orjson.dumps(
        value, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
    )
