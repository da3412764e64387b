"""What a user of Spark asks for, read from the options of a data source."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import pyarrow as pa

from bulkfetch.billing.details import DETAILS, Detail, api_spelling, detail_of
from bulkfetch.billing.parts import Part
from bulkfetch.errors import SettingsError
from bulkfetch.runs.selection import Selection
from bulkfetch.settings.declared import setting_names
from bulkfetch.words import counted, printable

OPTIONS = (
    "provider",
    "lineItemType",
    "invoice",
    "since",
    "until",
    "unbilled",
    "currency",
    "allowEmpty",
)
"""What can be asked for: the words of `bulkfetch export`, as Spark spells options."""
_BY_LOWER_CASE = {name.lower(): name for name in OPTIONS}
_SECRET = re.compile(
    "token|secret|passw|pwd|key|credential|sas$|signature|auth|bearer|nonce|certificate|cookie"
)
_FLAGS = {"true": True, "false": False}
_QUOTED = re.compile(r"[\[\](){}'\"]")


@dataclass(frozen=True, slots=True)
class Wanted:
    """The line items of one provider and type, of the invoices of a selection."""

    selection: Selection
    allow_empty: bool = False

    @property
    def detail(self) -> Detail:
        """What is known of the provider and the type."""
        (provider,), (line_item_type,) = self.selection.providers, self.selection.line_item_types
        return detail_of(api_spelling(provider), api_spelling(line_item_type))

    @property
    def columns(self) -> pa.Schema:
        """The columns of the line items, as in the files of an export."""
        return self.detail.columns.arrow


def check_parts(parts: Iterable[Part], wanted: Wanted) -> None:
    """Raise SettingsError if parts of another provider and type have line items that are wanted.

    These are the ones that Microsoft Graph has instead of v1, in columns of its own.
    """
    detail = wanted.detail
    others = [
        each.transfer
        for each in parts
        if (each.transfer.provider, each.transfer.line_item_type)
        != (detail.provider, detail.line_item_type)
    ]
    if not others:
        return
    first = min(others, key=lambda each: each.invoiced_on or date.max)
    before = ""
    if first.invoiced_on is not None and first.invoiced_on > date.min:
        day = first.invoiced_on - timedelta(days=1)
        before = f"; here, leave them out: until {day}"
    raise SettingsError(
        f"the {detail.provider}/{detail.line_item_type} of {counted(len(others), 'invoice')}, "
        f"{first.invoice_id} the first, come from Microsoft Graph, in other columns: read them as "
        f"provider {first.provider!r} and type {first.line_item_type!r}{before}"
    )


def read_options(options: Mapping[str, str]) -> Wanted:
    """Return what is wanted. Names of options may be in any case, as Spark takes them.

    Raises SettingsError for an option that is unknown, missing or wrong. The value of an unknown
    option is not repeated: it may be a secret.
    """
    given: dict[str, str] = {}
    for name, value in options.items():
        known = _BY_LOWER_CASE.get(name.lower())
        if known is None:
            raise SettingsError(_refusal(printable(name)))
        given[known] = value.strip()
    selection: dict[str, Any] = {
        "providers": _one_name("provider", given, _EXAMPLE[0]),
        "line_item_types": _one_name("lineItemType", given, _EXAMPLE[1]),
        "invoices": _names("invoice", given),
        "since": given.get("since") or None,
        "until": given.get("until") or None,
        "unbilled": _flag("unbilled", given),
        "currencies": _names("currency", given),
    }
    if selection["currencies"] and not selection["unbilled"]:
        raise SettingsError("option 'currency' is for unbilled line items: set 'unbilled' to true")
    return Wanted(Selection(**selection), _flag("allowEmpty", given))


_EXAMPLE = next(iter(DETAILS))


def _refusal(name: str) -> str:
    """Say why an option is not known, and what to do."""
    plain = name.lower().replace("_", "").replace("-", "")
    if _SECRET.search(plain):
        return (
            f"option {name!r} looks like a secret, and Spark writes options to its event log and "
            "shows them in its UI: give secrets to bulkfetch.engine.source.register(spark, …)"
        )
    for setting in setting_names():
        if setting.replace("_", "") == plain:
            return (
                f"option {name!r} is a setting, and not part of a selection: give it as "
                f"bulkfetch.engine.source.register(spark, {setting}=…)"
            )
    close = difflib.get_close_matches(plain, _BY_LOWER_CASE, n=1, cutoff=0.6)
    meant = ""
    if close:
        meant = f"did you mean {_BY_LOWER_CASE[close[0]]!r}? "
    return f"there is no option {name!r}: {meant}there are {', '.join(OPTIONS)}"


def _one_name(option: str, given: Mapping[str, str], example: str) -> str:
    """Return the one name that an option has to have."""
    names = _names(option, given)
    if not names:
        raise SettingsError(
            f"option {option!r} is missing: each provider and line-item type has columns of its "
            f"own, so give one of each, as in .option({option!r}, {example!r})"
        )
    if len(names) > 1:
        raise SettingsError(
            f"option {option!r}: {printable(', '.join(names))} have columns of their own: make a "
            "frame of each"
        )
    return names[0]


def _names(option: str, given: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names that an option has, with commas between."""
    value = given.get(option, "")
    if _QUOTED.search(value):
        raise SettingsError(
            f"option {option!r}: must be names with commas between, as in A,B, without quotes or "
            f"brackets; not {printable(value)!r}"
        )
    return tuple(name.strip() for name in value.split(",") if name.strip())


def _flag(option: str, given: Mapping[str, str]) -> bool:
    value = given.get(option, "").lower() or "false"
    if value not in _FLAGS:
        raise SettingsError(
            f"option {option!r}: must be true or false, not {printable(given[option])!r}"
        )
    return _FLAGS[value]
