"""What a page says of itself: total, links, token."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from bulkfetch.errors import MalformedBodyError

CONTINUATION_HEADER = "MS-ContinuationToken"
ENVELOPE_KEYS = ("totalcount", "continuationtoken", "links")
"""The keys of an envelope that matter, spelled in any case."""
_WHOLE_NUMBER = re.compile("[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Link:
    """A link of a page: its target, and the continuation token that goes with it."""

    uri: str
    continuation_token: str | None = None

    @property
    def size(self) -> int | None:
        """The `size` in the link's query, or None."""
        return self._number("size")

    @property
    def offset(self) -> int | None:
        """The `offset` in the link's query, or None if it is missing, or empty as in samples."""
        return self._number("offset")

    def _number(self, name: str) -> int | None:
        query = (
            self.uri.partition("?")[2].partition("#")[0].replace("?", "&")
        )  # samples have a second "?"
        values = [value for key, value in parse_qsl(query) if key.casefold() == name]
        if values and _WHOLE_NUMBER.fullmatch(values[0]):
            return int(values[0])
        return None


@dataclass(frozen=True, slots=True)
class Envelope:
    """What a page says besides its items. `total_count` usually counts the page, not the
    collection."""

    total_count: int | None = None
    self_link: Link | None = None
    next_link: Link | None = None
    continuation_token: str | None = None


def envelope_of(page: Mapping[str, Any]) -> Envelope:
    """Read the envelope of a decoded page leniently: what is not as documented counts as absent.

    Raises MalformedBodyError for links that are not an object, and for a next link without a
    target: only a missing next link means the end.
    """
    links = _value(page, "links")
    if links is not None and not isinstance(links, Mapping):
        raise MalformedBodyError(
            "the body is a page, but its links are not an object, so the next page is unknown"
        )
    following = _value(links, "next")
    next_link = _link(following)
    if next_link is None and _says_something(following):
        raise MalformedBodyError("the body is a page, but its next link has no uri")
    token = next_link.continuation_token if next_link else None
    return Envelope(
        total_count=_count(_value(page, "totalCount")),
        self_link=_link(_value(links, "self")),
        next_link=next_link,
        continuation_token=token or _token(_value(page, "continuationToken")),
    )


def _count(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        return None
    return value


def _token(value: Any) -> str | None:
    if isinstance(value, str) and value.strip():
        return value
    return None


def _value(mapping: Any, name: str) -> Any:
    """Return the value of a key in any case: missing a `Next` would end the collection too
    early."""
    if not isinstance(mapping, Mapping):
        return None
    if name in mapping:
        return mapping[name]
    return next(
        (value for key, value in mapping.items() if key.casefold() == name.casefold()), None
    )


def _says_something(link: Any) -> bool:
    if isinstance(link, Mapping):
        return any(value is not None for value in link.values())
    return link is not None


def _link(value: Any) -> Link | None:
    uri = _value(value, "uri")
    if not isinstance(uri, str):
        return None
    headers = _value(value, "headers")
    for header in headers if isinstance(headers, list) else ():
        if (
            isinstance(header, Mapping)
            and str(_value(header, "key")).casefold() == CONTINUATION_HEADER.casefold()
        ):
            token = _value(header, "value")
            return Link(uri, token if isinstance(token, str) and token.strip() else None)
    return Link(uri)
