"""JSON records that vouch for themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import orjson


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
        raise ValueError("it is not written as it was")
    if facts.pop(key) != _hash(facts):
        raise ValueError("its hash is not that of its content")
    return dict(facts)


def _hash(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(_dumps(facts)).hexdigest()


def _dumps(value: object) -> bytes:
    return orjson.dumps(
        value, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
    )
