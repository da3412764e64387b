"""From the bytes of a page to an Arrow record batch, exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, Protocol, TypeVar

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from bulkfetch.decoding.columns import Columns, columns_of
from bulkfetch.decoding.envelope import ENVELOPE_KEYS, Envelope, envelope_of
from bulkfetch.decoding.fields import UNDECLARED, LineItemSchema
from bulkfetch.decoding.jsontext import Json, Number, Pairs, dumps, loads, text_in, utf8_of
from bulkfetch.decoding.kernel import Kernels, find_items
from bulkfetch.decoding.library import Refusal
from bulkfetch.errors import MalformedBodyError
from bulkfetch.words import printable


class AnyPage(Protocol):
    """What is known of a page, however its rows are kept."""

    @property
    def rows(self) -> int:
        """How many rows it has."""
        ...

    @property
    def digest(self) -> bytes:
        """What identifies the text of its rows, to recognise a copy of an earlier page; empty for
        lines, which are not asked for page by page."""
        ...


P = TypeVar("P", bound=AnyPage)


@dataclass(frozen=True, slots=True)
class Page:
    """A page whose rows are Arrow columns; they have no line numbers yet."""

    rows: int
    columns: Columns
    digest: bytes


@dataclass(frozen=True, slots=True)
class JsonPage:
    """A page whose items are JSON values; their numbers keep the text of the source."""

    items: list[Json]
    digest: bytes

    @property
    def rows(self) -> int:
        """How many items the page has."""
        return len(self.items)


@dataclass(frozen=True, slots=True)
class Response(Generic[P]):
    """One response of the v1 API: a page, and what it says besides."""

    page: P
    envelope: Envelope


class Decoder(Protocol[P]):
    """Makes pages of what the server sends, in one form of page. Safe to share between threads."""

    @property
    def is_quick(self) -> bool:
        """Whether decoding a page takes hardly longer than a look at its envelope."""
        ...

    def decode(self, body: bytes) -> Response[P]:
        """Decode a response of the v1 API. Raises MalformedBodyError for anything but a page."""
        ...

    def decode_lines(self, text: bytes) -> P:
        """Decode line items as UTF-8 JSON, one a line; blank lines are skipped. Raises
        MalformedBodyError."""
        ...

    def page(self, items: list[Json], digest: bytes = b"") -> P:
        """Make a page of items that a source has parsed with `jsontext.loads`."""
        ...


class JsonDecoder:
    """Keeps items as JSON values."""

    is_quick = False

    def decode(self, body: bytes) -> Response[JsonPage]:
        """Parse a response body. Raises MalformedBodyError for anything but a page."""
        text = utf8_of(body)
        top, items = page_of(text)
        return Response(self.page(items, digest_of(text, 1 + len(top))), envelope_of(top))

    def decode_lines(self, text: bytes) -> JsonPage:
        """Parse line items, one a line. Raises MalformedBodyError."""
        return self.page(items_of_lines(text))

    def page(self, items: list[Json], digest: bytes = b"") -> JsonPage:
        """Make a page of parsed items."""
        return JsonPage(items, digest)


_BLANKS = b" \t\r\n"


class PageDecoder:
    """Decodes the pages of one transfer into record batches. Safe to share between threads.

    Line items of a type without a declared schema are kept whole, as in `fields.UNDECLARED`.
    """

    def __init__(
        self, invoice_id: str, schema: LineItemSchema | None, kernels: Kernels | None = None
    ) -> None:
        self.invoice_id = invoice_id
        self.schema = schema or UNDECLARED
        """The schema of the batches."""
        self._kernels = kernels or Kernels()

    @property
    def is_quick(self) -> bool:
        """Whether there is a kernel."""
        return self._kernels.are_here

    def decode(self, body: bytes) -> Response[Page]:
        """Decode a response body. Raises MalformedBodyError for anything but a page of line
        items."""
        text, start = text_in(body)
        text = text.rstrip(_BLANKS)  # what follows would be copied, and may be most of the body
        decoded = self._kernels.decode_page(self.schema, text, start)
        if decoded is not None:
            digest = _digest(memoryview(text)[decoded.items_start : decoded.items_end - 1])
            envelope = _envelope_around(text, start, decoded.items_start, decoded.items_end)
            return Response(Page(decoded.rows, decoded.columns, digest), envelope)
        text = text[start:]
        top, items = page_of(text)
        return Response(self.page(items, digest_of(text, 1 + len(top))), envelope_of(top))

    def decode_lines(self, text: bytes) -> Page:
        """Decode line items as UTF-8 JSON, one a line; blank lines are skipped. Raises
        MalformedBodyError."""
        decoded = self._kernels.decode_lines(self.schema, text)
        if decoded is not None:
            return Page(decoded.rows, decoded.columns, b"")
        return self.page(items_of_lines(text))

    def page(self, items: list[Json], digest: bytes = b"") -> Page:
        """Make a page of parsed items."""
        return Page(len(items), self._columns(items), digest)

    def _columns(self, items: list[Json]) -> Columns:
        """Take the exact way."""
        if self.schema is UNDECLARED:
            return _whole_items(items)
        schema = self.schema
        return columns_of(
            items, schema.fields, any_case=schema.any_case, null_fits=schema.null_fits
        )

    def batch(self, page: Page, first_line: int) -> pa.RecordBatch:
        """Make a record batch of `page`, whose first row is number `first_line` of its transfer."""
        lines = pc.add(_line_numbers(page.rows), pa.scalar(first_line, pa.int64()))
        invoice_ids = pa.repeat(pa.scalar(self.invoice_id), page.rows)
        arrays = [invoice_ids, lines, *page.columns.arrays]
        if self.schema.rescues:
            arrays.append(page.columns.rescued)
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema.arrow)


@lru_cache(maxsize=8)
def _line_numbers(rows: int) -> pa.Array:
    return pa.array(range(rows), pa.int64())


def page_of(text: bytes) -> tuple[Mapping[str, Any], list[Json]]:
    """Parse a collection into envelope and items. Raises MalformedBodyError for anything else."""
    top = loads(text)
    if not isinstance(top, Pairs):
        raise MalformedBodyError("the body is JSON, but not a page: it is not an object")
    names = Counter(
        name.casefold() if name.casefold() in ENVELOPE_KEYS else name for name, _ in top
    )
    if twice := [name for name, times in names.items() if times > 1]:
        raise MalformedBodyError(f"the body is JSON, but not a page: it has two {twice[0]!r} keys")
    items = top.get("items")
    if not isinstance(items, list):
        raise MalformedBodyError(
            f"the body is JSON, but not a page: it has no `items`{_said_instead(top)}"
        )
    if any(_repeats_a_key(value) for name, value in top if name.casefold() == "links"):
        raise MalformedBodyError(
            "the body is a page, but its links repeat a key, so the next page is unknown"
        )
    return {name: _plain(value) for name, value in top if name != "items"}, items


def items_of_lines(text: bytes) -> list[Json]:
    """Parse JSON lines, of which only a line feed ends one. Raises MalformedBodyError, naming the
    line."""
    items = []
    for number, line in enumerate(text.split(b"\n"), 1):
        if not line.strip(b" \t\r"):
            continue
        try:
            items.append(loads(line))
        except MalformedBodyError as error:
            raise MalformedBodyError(f"line {number}: {error}") from error
    return items


def peek(body: bytes) -> Envelope:
    """Read the envelope of a page without making anything of its items.

    Raises MalformedBodyError for anything that is not a page.
    """
    text, start = text_in(body)
    found = find_items(text, start)
    if isinstance(found, Refusal):
        return envelope_of(page_of(text[start:])[0])
    return _envelope_around(text, start, *found)


def _envelope_around(text: bytes, start: int, items_start: int, items_end: int) -> Envelope:
    """Read the envelope of a page whose items are valid JSON, and may be left out."""
    return envelope_of(page_of(text[start:items_start] + b"[]" + text[items_end:])[0])


def _whole_items(items: list[Json]) -> Columns:
    """Return line items as JSON text. Raises MalformedBodyError if one is not an object."""
    for row, item in enumerate(items):
        if not isinstance(item, Pairs):
            raise MalformedBodyError(f"item {row} of the page is not a JSON object")
    texts = pa.array([dumps(item) for item in items], pa.string())
    return Columns([texts], pa.nulls(len(items), pa.string()))


def digest_of(text: bytes, keys: int) -> bytes:
    """Return a hash of the rows of a page whose object has `keys` keys, wherever these stand.

    It takes a thirtieth of the time of SHA-256. It distinguishes the pages of a transfer, and no
    one gains from making two pages look alike.
    """
    found = find_items(text)
    if not isinstance(found, Refusal):
        return _digest(memoryview(text)[found[0] : found[1] - 1])
    start, before = _find_start(text)
    end = _find_end(text, start, keys - before) if before else None
    if end is None:  # it is spelled in an odd way: parse it, which takes longer
        return _digest(dumps(page_of(text)[1]).encode())
    return _digest(memoryview(text)[text.index(b"[", start) : end])


def _digest(rows: bytes | memoryview) -> bytes:
    return xxhash.xxh3_128_digest(rows)


_ITEMS = b'"items"'
_MAX_GUESSES = 64


def _find_start(text: bytes) -> tuple[int, int]:
    """Return where the value of `items` starts, and how many keys there are up to it, 0 if it is
    not found.

    What stands before `items` is a whole JSON object if it is closed there; it is not if the place
    is within a text or another object.
    """
    place = -1
    for _ in range(_MAX_GUESSES):
        place = text.find(_ITEMS, place + 1)
        if place < 0:
            break
        if keys := _keys_in(text[:place] + _ITEMS + b":0}"):
            return place + len(_ITEMS), keys
    return 0, 0


def _find_end(text: bytes, start: int, behind: int) -> int | None:
    """Return where the value of `items` ends if `behind` keys follow it; None if it is not
    found."""
    place = len(text)
    for _ in range(_MAX_GUESSES):
        place = text.rfind(b"]", start, place)
        if place < 0:
            break
        if _keys_in(b"{" + _ITEMS + b":[" + text[place:]) == 1 + behind:
            return place
    return None


def _keys_in(text: bytes) -> int:
    """Return how many keys a JSON object has; 0 if the text is not one."""
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return 0
    if isinstance(found, dict):
        return len(found)
    return 0


def _repeats_a_key(value: Json) -> bool:
    """Return whether an object in `value` repeats a key, in any case; a dict would hide it."""
    if isinstance(value, Pairs):
        keys = {key.casefold() for key, _ in value}
        return len(keys) < len(value) or any(_repeats_a_key(inner) for _, inner in value)
    return isinstance(value, list) and any(map(_repeats_a_key, value))


def _plain(value: Json) -> Any:
    """Turn an envelope value into plain Python: numbers as int or float, objects as dict."""
    if isinstance(value, Pairs):
        return {name: _plain(inner) for name, inner in value}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, Number):
        if value.lstrip("-").isdigit() and len(value) <= 20:
            return int(value)
        return float(value)
    return value


def _said_instead(top: Pairs) -> str:
    """Quote an error that came with a status of success."""
    said = [
        printable(f"{name} {value}")
        for name, value in top
        if name in ("code", "description", "message", "error")
    ]
    if said:
        return f"; it says: {', '.join(said)[:200]}"
    return ""
