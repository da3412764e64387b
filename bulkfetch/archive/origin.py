"""`archive.json`: whose invoices, in what shape; no other is mixed in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import orjson

from bulkfetch.archive.layout import ARCHIVE, FORMAT_VERSION
from bulkfetch.archive.records import refuse_other_format, sealed, unsealed
from bulkfetch.billing.apis import Wanted
from bulkfetch.billing.schemas import SCHEMA_VERSION
from bulkfetch.errors import DamagedArchiveError, OutputError
from bulkfetch.settings.declared import ROW_GROUP_ROWS
from bulkfetch.storage.store import Store
from bulkfetch.words import given_as

_ARCHIVE_HASH = "archive_sha256"
_API = "new_commerce_api"
_WANTED: Mapping[object, Wanted] = {"auto": "auto", "v1": "v1", "graph": "graph"}
_SANDBOX = re.compile(r"sandbox, seed (\d+), (\d+) line items(?:, details (.+))?")
UNKNOWN_TENANT = "unknown"
"""What stands for the tenant of a run whose settings and token do not name it."""


def check_facts(found: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Check the `facts` of a run against those `found` in an archive; None is not known.

    Raises OutputError if what the archive was made from, or what shapes its files, differs: one
    archive never mixes two.
    """
    wanted = _wanted(facts)
    differing = [name for name in wanted if _differs(found.get(name), wanted[name])]
    if "part_rows" in differing and _follow(found) and _follow(wanted):
        differing = [name for name in differing if name != "row_group_rows"]
    if differing:
        words = "; ".join(_difference(name, found[name], wanted[name]) for name in differing)
        raise OutputError(
            f"this archive was made with other settings: {words}; or export into a new directory"
        )


def claim_archive(
    store: Store,
    facts: Mapping[str, Any],
    *selected: Mapping[str, Any],
    anew: bool = False,
    api: Wanted = "auto",
) -> None:
    """Mark an output directory as ours, and add what was `selected` to the selections before.

    It also keeps the `api` that is wanted for new commerce, which may change from run to run. With
    `anew`, an archive file that is damaged is written again. Raises OutputError as `check_facts`
    does, and for another format.
    """
    before = store.read(ARCHIVE)
    found: Mapping[str, Any] = {}
    try:
        found = {} if before is None else _parse_archive(before)
    except DamagedArchiveError:
        if not anew:
            raise
    check_facts(found, facts)
    selections = found.get("selections", [])
    for selection in selected:
        selections = join_selections(selections, selection)
    facts_of_run = _wanted(facts)
    if facts_of_run.get("tenant") == UNKNOWN_TENANT:
        facts_of_run["tenant"] = found.get("tenant", UNKNOWN_TENANT)
    content = sealed({**found, **facts_of_run, _API: api, "selections": selections}, _ARCHIVE_HASH)
    if before != content:
        store.write(ARCHIVE, content)


def wanted_api(store: Store) -> Wanted | None:
    """Return which API the last run wanted for new commerce; None where the archive file does not
    say, because it is damaged or lost."""
    with suppress(DamagedArchiveError):
        return _WANTED.get((read_archive(store) or {}).get(_API))
    return None


def join_selections(
    selections: Sequence[Mapping[str, Any]], selection: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the union of selections, without those that another one includes.

    A selection has what narrows it; an empty one is everything.
    """
    joined = [dict(each) for each in selections]
    if not any(_includes(each, selection) for each in joined):
        joined = [each for each in joined if not _includes(selection, each)]
        joined.append(dict(selection))
    return joined


def _includes(wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
    """Return whether a selection narrows by nothing that the other one does not narrow by too."""
    return all(narrow.get(name) == value for name, value in wide.items())


def _wanted(facts: Mapping[str, Any]) -> dict[str, Any]:
    known = {name: value for name, value in facts.items() if value is not None}
    return {"format_version": FORMAT_VERSION, "schema_version": SCHEMA_VERSION, **known}


def _differs(then: object, now: object) -> bool:
    """Return whether two facts contradict each other; what is not known contradicts nothing."""
    return then != now and not {None, UNKNOWN_TENANT} & {then, now}


def _follow(facts: Mapping[str, Any]) -> bool:
    """Return whether the row groups follow from the parts, as where nobody has chosen them."""
    of_parts: int = min(ROW_GROUP_ROWS, facts["part_rows"])
    return bool(facts.get("row_group_rows", of_parts) == of_parts)


def _difference(name: str, then: object, now: object) -> str:
    """Say in what an archive differs from a run, and what to do to continue with it."""
    if name in ("format_version", "schema_version"):
        return (
            f"{name} is {then}, this bulkfetch writes {now}: continue with the version that wrote "
            "it"
        )
    if name == "tenant":
        return (
            f"it has the invoices of tenant {then}, and these credentials are of tenant {now}: "
            "continue with that one"
        )
    if name == "source":
        return f"its source is {then}, now {now}: {_return_to(str(then), str(now))}"
    return f"{name} is {then}, now {now}: give {given_as(name, then)}"


def _return_to(then: str, now: str) -> str:
    """Say how to name the first of two sources of invoices."""
    sandbox = _SANDBOX.fullmatch(then)
    if sandbox is not None:
        seed, line_items, details = sandbox.groups()
        words = f"give --sandbox --sandbox-seed {seed} --sandbox-line-items {line_items}"
        if details:
            return f"{words} --sandbox-details {details}"
        if ", details " in now:
            return f"{words}, without --sandbox-details"
        return words
    words = f"give {given_as('base_url', then)}" if "://" in then else "use the first again"
    if _SANDBOX.fullmatch(now):
        return f"leave out --sandbox, and {words}"
    return words


def refuse_no_archive(output: object) -> OutputError:
    """Return the error for an output that no export has made an archive."""
    return OutputError(
        f"{output} is not an archive of bulkfetch: it has no {ARCHIVE}; if its first export failed "
        "or was interrupted, run that again"
    )


def read_archive(store: Store) -> dict[str, Any] | None:
    """Return what an archive says it was made with, or None if there is no archive file.

    Raises OutputError if it is of another format, DamagedArchiveError if it cannot be read.
    """
    content = store.read(ARCHIVE)
    if content is None:
        return None
    return _parse_archive(content)


def _parse_archive(content: bytes) -> dict[str, Any]:
    try:
        facts = orjson.loads(content)
        version = facts.get("format_version") if isinstance(facts, dict) else None
        if not isinstance(version, int):
            raise ValueError("it does not say which format it has")
    except ValueError as error:
        raise DamagedArchiveError(_damaged(error)) from error
    refuse_other_format(version)
    try:
        return unsealed(content, _ARCHIVE_HASH)
    except (ValueError, TypeError, KeyError) as error:
        raise DamagedArchiveError(_damaged(error)) from error


def _damaged(error: Exception) -> str:
    return (
        f"{ARCHIVE} is damaged ({error}); `bulkfetch repair` writes it again from the settings it "
        "is run with"
    )
