"""JSON records that vouch for themselves, and for the files that they name."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any, Protocol, TypeVar

import orjson

from bulkfetch.archive.layout import FORMAT_VERSION
from bulkfetch.errors import DamagedError, OutputError
from bulkfetch.storage.store import Store

R = TypeVar("R")

_READ_BYTES = 1 << 20


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


def money_text(amount: Decimal | None) -> str | None:
    """Return the text of an amount as `money` writes it; None for none."""
    if amount is None:
        return None
    return f"{money(amount):f}"


def amount_text(amount: Decimal | None) -> str | None:
    """Return the text of an amount, digit by digit; None for none."""
    if amount is None:
        return None
    return f"{amount:f}"


def amount_in(text: str | None) -> Decimal | None:
    """Return the amount that a text is; None for none. Raises ArithmeticError for another text."""
    if text is None:
        return None
    return Decimal(text)


def sealed(facts: Mapping[str, Any], key: str) -> bytes:
    """Write `facts` as JSON, with the hash of all of them under `key`."""
    return _dumps({**facts, key: _hash(facts)})


def unsealed(content: bytes, key: str) -> dict[str, Any]:
    """Read what `sealed` wrote, without the hash. Raises ValueError, KeyError or TypeError for
    anything else."""
    facts = orjson.loads(content)
    if not isinstance(facts, dict):
        raise ValueError("it is not a JSON object")
    if key not in facts:
        raise ValueError("it has no hash of its content")
    names = list(facts)
    stated = facts.pop(key)
    line = f'\n  "{key}": "{stated}"'.encode()
    if content.count(line) != 1 or names != sorted(names):
        raise ValueError("it is not written as bulkfetch writes it")
    if hashlib.sha256(_without(line, content)).hexdigest() != stated:
        raise ValueError("its hash does not match its content")
    return facts


def _without(line: bytes, content: bytes) -> bytes:
    """Return the bytes of a record as they were hashed: without the line of the hash, and without
    the comma that parts it from the next one, or from the one before if it is the last."""
    before, _, behind = content.partition(line)
    if behind.startswith(b","):
        return before + behind[1:]
    return before.removesuffix(b",") + behind


def misplaced(name: PurePosixPath, owner: object) -> DamagedError:
    """Return the error for a sound record that has the name of another one."""
    return DamagedError(
        f"{name} is not in its place: it belongs to {owner}; run `bulkfetch repair`, and if that "
        "leaves it, move it out of the archive and run it again"
    )


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
    if content is None:
        return None
    return parse_record(content, name)


def hash_of(store: Store, name: PurePosixPath) -> str:
    """Return the sha256 of a stored file, in hexadecimal digits. Raises StorageError."""
    digest = hashlib.sha256()
    with store.open(name) as file:
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def check_file(file: FileFacts) -> None:
    """Check the facts of a file before anything relies on them. Raises ValueError."""
    is_size = isinstance(file.size_bytes, int) and file.size_bytes >= 0
    if not is_size or not _SHA256.fullmatch(file.sha256):
        raise ValueError(f"{file.name} has no size or no sha256")


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """The record that a record goes, with others or without, and which records come in its place.

    `leaving` are the names of the records that go together, `coming` those of the records that take
    their place, with the sha256 of what they will say: none goes before all of them are sure to
    come.
    """

    leaving: tuple[PurePosixPath, ...]
    coming: Mapping[PurePosixPath, str] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """Write the record: the same bytes for the same data."""
        facts = {
            "format_version": FORMAT_VERSION,
            "withdrawn": sorted(name.name for name in self.leaving),
            "replaced_by": {name.name: sha256 for name, sha256 in self.coming.items()},
        }
        return sealed(facts, _WITHDRAWN_HASH)


_WITHDRAWN_HASH = "withdrawn_sha256"


def parse_withdrawal(content: bytes | None, name: PurePosixPath) -> Withdrawal | None:
    """Read the record to come of `name` if it says that it goes; None for any other record.

    Raises DamagedError if it names something else than this record and others of its invoice.
    """
    if content is None or _WITHDRAWN_HASH.encode() not in content:
        return None
    try:
        facts = unsealed(content, _WITHDRAWN_HASH)
    except (ValueError, KeyError, TypeError):
        return None
    try:
        leaving, coming = facts["withdrawn"], facts["replaced_by"]
        named = {*leaving, *coming}
        if name.name not in leaving or any(
            _invoice_of(each) != _invoice_of(name.name) for each in named
        ):
            raise ValueError("it names records that are not of this invoice")
        return Withdrawal(
            tuple(name.with_name(each) for each in leaving),
            {name.with_name(each): str(sha256) for each, sha256 in coming.items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"the withdrawal of {name} is damaged ({error})") from error


def _invoice_of(record: str) -> str:
    """Return the invoice in the name of a transfer's record, all of any other name."""
    if not _RECORD_NAME.fullmatch(record):
        raise ValueError(f"{record!r} is not the name of a record")
    return record.partition("+")[0]


def is_sealed(content: bytes) -> bool:
    """Return whether a record is whole, whatever it says: a torn one is not."""
    try:
        facts = orjson.loads(content)
        keys = [key for key in facts if key.endswith("_sha256")]
        return len(keys) == 1 and bool(unsealed(content, keys[0]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def refuse_other_format(version: object) -> None:
    """Refuse an archive of another format. Raises OutputError."""
    if version != FORMAT_VERSION:
        raise OutputError(
            f"this archive has format version {version}; this bulkfetch reads and writes version "
            f"{FORMAT_VERSION} alone: export into a new directory"
        )


_RECORD_NAME = re.compile(r"[^./\\]+\.json")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def _hash(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(_dumps(facts)).hexdigest()


def _dumps(value: object) -> bytes:
    return orjson.dumps(
        value, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
    )
