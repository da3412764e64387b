"""Providers, types, currencies and periods, in each spelling the API uses."""

from __future__ import annotations

import re
from urllib.parse import quote

from bulkfetch.errors import SettingsError
from bulkfetch.words import printable


def path_segment(name: str) -> str:
    """Escape a name from the server, so that it is one segment of a path and no more."""
    escaped = quote(name, safe="")
    return escaped.replace(".", "%2E") if set(name) <= {"."} else escaped


PERIODS = ("current", "previous")
"""The periods whose line items may be unbilled."""


def currency_code(text: str) -> str:
    """Return a currency code in capitals. Raises SettingsError for anything else."""
    if not re.fullmatch(r"[A-Za-z]{3}", text.strip()):
        raise SettingsError(
            f"a currency is a code of three letters such as EUR, not {printable(text)!r}"
        )
    return text.strip().upper()


def pascal_case(name: str) -> str:
    """Spell `billing_line_items` as the path does: `BillingLineItems`."""
    return path_segment("".join(word[:1].upper() + word[1:] for word in name.split("_")))
