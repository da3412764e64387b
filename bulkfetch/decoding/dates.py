"""Dates of the API, in any of the spellings it uses, as microseconds since 1970 in UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple


class Instant(NamedTuple):
    """A point in time. `exact` is False where the text says more than the instant does.

    That is the case for fractions finer than a microsecond, which are cut off towards the past, and
    for an offset other than zero, whose local time is gone.
    """

    microseconds: int
    exact: bool


@lru_cache(maxsize=1 << 14)
def parse_date(text: str) -> Instant | None:
    """Read `YYYY-MM-DD[Thh:mm:ss[.fraction][Z|±hh:mm]]`; None for anything else.

    A date without time is its midnight, and one without offset is UTC, as the .NET SDK reads it.
    Year 1, which the API uses for "never", is a date like others. A leap second, hour 24 and years
    outside 1 to 9999 are not dates.
    """
    match = _SPELLING.fullmatch(text)
    if match is None:
        return None
    year, month, day = map(int, match.groups()[:3])
    hour, minute, second = map(int, match.groups("0")[3:6])
    fraction, offset = match.groups()[6:]
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None
    offset_us = _offset_us(offset)
    if offset_us is None:
        return None
    fraction = fraction or ""
    delta = moment - _EPOCH
    microseconds = (
        (delta.days * 86_400 + delta.seconds) * 1_000_000
        + int(fraction[:6].ljust(6, "0"))
        - offset_us
    )
    if not _FIRST <= microseconds <= _LAST:
        return None
    return Instant(microseconds, exact=offset in _ZERO and not fraction[6:].strip("0"))


def _offset_us(offset: str | None) -> int | None:
    if offset is None or offset in _ZERO:
        return 0
    hours, minutes = int(offset[1:3]), int(offset[4:6])
    if hours > 23 or minutes > 59:
        return None
    return (hours * 60 + minutes) * 60_000_000 * (-1 if offset[0] == "-" else 1)


_SPELLING = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?(Z|[+-][0-9]{2}:[0-9]{2})?)?"
)
_ZERO = (None, "Z", "+00:00")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST = -62_135_596_800_000_000  # 0001-01-01T00:00:00Z
_LAST = 253_402_300_799_999_999  # 9999-12-31T23:59:59.999999Z
