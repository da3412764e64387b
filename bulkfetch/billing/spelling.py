"""Providers, types, currencies, periods and days, in each spelling that is accepted."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Any, TypeAlias
from urllib.parse import quote

from bulkfetch.errors import SettingsError
from bulkfetch.words import printable


def path_segment(name: str) -> str:
    """Escape a name from the server, so that it is one segment of a path and no more."""
    escaped = quote(name, safe="")
    if set(name) <= {"."}:
        return escaped.replace(".", "%2E")
    return escaped


PERIODS = ("current", "previous")
"""The periods whose line items may be unbilled, as v1 calls them."""
EXPORTED_PERIODS = ("current", "last")
"""The same periods as Microsoft Graph calls them."""


def currency_code(text: str) -> str:
    """Return a currency code in capitals. Raises SettingsError for anything else."""
    if not re.fullmatch(r"[A-Za-z]{3}", text.strip()):
        raise SettingsError(
            f"a currency is a code of three letters such as EUR, not {printable(text)!r}"
        )
    return text.strip().upper()


Day: TypeAlias = date | str
"""A day as it may be given: a date, a datetime (which is a date too), or ISO text of either."""


def read_day(value: Day) -> date:
    """Return the day of a date, of a datetime, or of the ISO text of either.

    A datetime is the day that it has in UTC, because invoice dates are in UTC; without a timezone
    it is taken as UTC. A datetime of numpy is one of its day. Raises SettingsError for anything
    else, such as a month of pandas, which is many days.
    """
    try:
        given = _parse_day(value) if isinstance(value, str) else _plain_day(value)
        if isinstance(given, datetime) and given.tzinfo:
            given = given.astimezone(UTC)
        return date(given.year, given.month, given.day)
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise SettingsError(
            f"must be a day such as 2024-12-31, not {printable(repr(value))}"
        ) from None


def _plain_day(value: Any) -> date:
    """Return a date as it is, and that of numpy's datetime64, which has no year or day of its own.

    Raises TypeError for anything else, and for a datetime64 of a month or a year.
    """
    kind = type(value)
    if (kind.__module__, kind.__name__) == ("numpy", "datetime64"):
        if re.search(r"\[[YMW]\]", str(value.dtype)):
            raise TypeError(f"{value.dtype} has no day")
        value = value.astype("datetime64[D]").item()
    if not isinstance(value, date):
        raise TypeError(f"{kind.__name__} is not a date")
    return value


def _parse_day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return datetime.fromisoformat(text)


def pascal_case(name: str) -> str:
    """Spell `billing_line_items` as the path does: `BillingLineItems`."""
    return path_segment("".join(word[:1].upper() + word[1:] for word in name.split("_")))
