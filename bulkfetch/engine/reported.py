"""An error of one process, told to another as values that JSON can hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from bulkfetch.errors import BulkfetchError, EngineError, RequestFacts

_FACTS = "facts"
"""The attribute of errors of requests that is no plain value."""


def describe_error(error: BulkfetchError) -> dict[str, Any]:
    """Return what `error_from` makes the same error of, with its cause if that is one of ours."""
    attributes = dict(vars(error))
    if isinstance(attributes.get(_FACTS), RequestFacts):
        attributes[_FACTS] = asdict(attributes[_FACTS])
    cause = error.__cause__
    return {
        "kind": type(error).__name__,
        "words": [str(each) for each in error.args],
        "attributes": attributes,
        "cause": describe_error(cause) if isinstance(cause, BulkfetchError) else None,
    }


def error_from(facts: Mapping[str, Any]) -> BulkfetchError:
    """Return the error that `describe_error` described; one of an unknown kind is an
    EngineError."""
    kind = next((each for each in _kinds() if each.__name__ == facts["kind"]), EngineError)
    error = kind.__new__(kind, *facts["words"])
    attributes = dict(facts["attributes"])
    if isinstance(attributes.get(_FACTS), dict):
        attributes[_FACTS] = RequestFacts(**attributes[_FACTS])
    if isinstance(attributes.get("data"), list):
        attributes["data"] = tuple(attributes["data"])
    vars(error).update(attributes)
    if facts["cause"] is not None:
        error.__cause__ = error_from(facts["cause"])
    return error


def _kinds(base: type[BulkfetchError] = BulkfetchError) -> Iterator[type[BulkfetchError]]:
    yield base
    for kind in base.__subclasses__():
        yield from _kinds(kind)
