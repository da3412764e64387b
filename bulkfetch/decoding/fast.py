"""The fast way from a page to columns: a native JSON parser, and a proof that it lost nothing.

`arro3` parses a whole page as one JSON object, decimals and all, without the interpreter's lock.
It drops, rounds or unifies some values without an error. Those are found beforehand, or by
counting: every quotation mark of the page belongs to a key or a text that must appear in the
result. So an unknown field, an explicit null, or a number given as text leaves some over. A page in
doubt is refused, and takes the exact way.
"""

from __future__ import annotations

import codecs
import re
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import simdjson
from arro3.io import read_json

from bulkfetch.decoding.columns import PLAIN_NUMBER, UNFIT, Columns, decimal_of
from bulkfetch.decoding.dates import parse_date
from bulkfetch.decoding.fields import MONEY, Field, Kind
from bulkfetch.decoding.jsontext import Number, quote

T = TypeVar("T")

_WIRE_TYPES = {
    Kind.TEXT: pa.string(),
    Kind.INTEGER: pa.decimal256(76, 24),  # as an integer, 1.5 would be read as 1
    Kind.DECIMAL: MONEY,
    Kind.DATE: pa.string(),
    Kind.BOOLEAN: pa.bool_(),
    Kind.TEXT_LIST: pa.list_(pa.string()),
    Kind.OBJECT_TYPE: Kind.OBJECT_TYPE.arrow_type,
}
_LINK = pa.struct(
    [
        ("uri", pa.string()),
        ("method", pa.string()),
        ("headers", pa.list_(pa.struct([("key", pa.string()), ("value", pa.string())]))),
    ]
)
ENVELOPE_KEYS = ("totalcount", "continuationtoken", "links")
"""The keys of an envelope that matter, spelled in any case."""
_ENVELOPE = pa.schema(
    [
        ("totalCount", pa.int64()),
        ("continuationToken", pa.string()),
        ("links", pa.struct([("self", _LINK), ("next", _LINK), ("previous", _LINK)])),
        ("attributes", Kind.OBJECT_TYPE.arrow_type),
    ]
)
_NEEDS_ESCAPE = r'["\\\x00-\x1f]'
_QUOTE = pa.scalar(ord('"'), pa.uint8())
_MAX_ENVELOPE_DEPTH = 16
_MAX_STRANGERS = 100


@dataclass(frozen=True, slots=True)
class FastPage:
    """A page that the fast way took: its envelope as plain values, its rows as columns."""

    envelope: Mapping[str, Any]
    rows: int
    columns: Columns
    keys: int
    """How many keys the page's object has."""


class FastDecoder:
    """Decodes the pages of one line-item type. Safe to share between threads.

    Text fields that the schema does not know are learned as they appear, so that a field Microsoft
    adds costs a second parse once, not on every page.
    """

    def __init__(self, fields: tuple[Field, ...]) -> None:
        self._fields = fields
        self._strangers: tuple[str, ...] = ()
        self._wires: dict[tuple[str, ...], pa.Schema] = {}
        self._names = {field.name for field in fields}
        self._folded = {field.name.casefold() for field in fields}
        self._numbers = {
            field.name for field in fields if field.kind in (Kind.INTEGER, Kind.DECIMAL)
        }
        self._number_as_text = _number_as_text(self._numbers)
        self._integers = [place for place, field in enumerate(fields) if field.kind is Kind.INTEGER]
        self._dates = [place for place, field in enumerate(fields) if field.kind is Kind.DATE]

    def decode(self, text: bytes) -> FastPage | None:
        """Decode the UTF-8 JSON of a page, or return None if it must take the exact way."""
        return _of_valid(text, lambda page: None if _is_risky(text) else self._decode(text, page))

    def _decode(self, text: bytes, page: simdjson.Object) -> FastPage | None:
        strangers = self._strangers
        table = _parse(text, self._wire(strangers))
        rows = None if table is None else _rows_of(table)
        if table is None or rows is None:
            return None
        if not self._nothing_lost(text, page, table):
            return self._decode(text, page) if self._learn(page, strangers) else None
        columns, envelope = self._columns(rows), _envelope_of(page)
        if columns is None or envelope is None:
            return None
        return FastPage(envelope, len(rows), columns, len(page))

    def _learn(self, page: simdjson.Object, strangers: tuple[str, ...]) -> bool:
        """Add unknown fields as text, and return whether there are any: then the page can be parsed
        again."""
        items: Any = page["items"]  # an array of objects, as the parser found
        found = {name for row in items for name in row}.difference(self._names, strangers)
        if not found or len(found) + len(strangers) > _MAX_STRANGERS:
            return False
        if any(name.casefold() in self._folded for name in found):
            return False
        self._strangers = tuple(sorted(found.union(strangers)))
        return True

    def _wire(self, strangers: tuple[str, ...]) -> pa.Schema:
        wire = self._wires.get(strangers)
        if wire is None:
            wire = self._wires[strangers] = self._new_wire(strangers)
        return wire

    def _new_wire(self, strangers: tuple[str, ...]) -> pa.Schema:
        item = pa.struct(
            [
                *((field.name, _WIRE_TYPES[field.kind]) for field in self._fields),
                *((name, pa.string()) for name in strangers),
            ]
        )
        return _ENVELOPE.append(pa.field("items", pa.list_(item)))

    def _nothing_lost(self, text: bytes, page: simdjson.Object, table: pa.Table) -> bool:
        """Return whether each key and each text of the page is in the table.

        Whatever is missing has a key, and so leaves over two quotation marks of its own. Numbers
        given as text leave theirs over too, although the table has them as numbers. So nothing is
        lost exactly if all marks left over are those of numbers.
        """
        found = sum(
            2 * (len(column) - column.null_count) + _quotes_of(column) for column in table.columns
        )
        surplus: int = _quotes_in(text) - found
        if surplus:
            surplus -= _quotes_beside(page, self._numbers)
        return surplus == 0 or (surplus > 0 and surplus == 2 * self._numbers_as_text(text))

    def _numbers_as_text(self, text: bytes) -> int:
        """Count the numbers of the line items that are given as the plain text of a number."""
        if self._number_as_text is None:
            return 0
        return int(pc.count_substring_regex(_as_array(text), self._number_as_text)[0].as_py())

    def _columns(self, rows: pa.StructArray) -> Columns | None:
        known = len(self._fields)
        arrays = [rows.field(place) for place in range(known)]
        left: list[tuple[str, pa.Array]] = []
        for place in self._dates:
            arrays[place], inexact = _dates(arrays[place])
            if inexact is not None:
                left.append((self._fields[place].name, inexact))
        left.extend(
            (field.name, rows.field(place))
            for place, field in enumerate(rows.type)
            if place >= known
        )
        try:
            for place in self._integers:
                arrays[place] = arrays[place].cast(Kind.INTEGER.arrow_type)
        except pa.ArrowInvalid:  # a fraction, or more than 64 bits
            return None
        return _add_rescued(arrays, left, len(rows))


def _number_as_text(names: set[str]) -> str | None:
    """Return a pattern for a number given as text under one of these names, or None where it could
    mislead.

    A key follows a brace or a comma: within a text its quotation marks would be escaped.
    """
    beside = {_LINK.field(place).name for place in range(_LINK.num_fields)} | {
        "key",
        "value",
        "objectType",
    }
    if not names or not names.isdisjoint(
        beside.union(_ENVELOPE.names, ("self", "next", "previous"))
    ):
        return None
    keys = "|".join(re.escape(name) for name in sorted(names))
    return rf'[{{,]\s*"(?:{keys})"\s*:\s*"{PLAIN_NUMBER.pattern}"'


def _quotes_beside(page: simdjson.Object, numbers: set[str]) -> int:
    """Count the quotation marks of unknown keys and values at the top of a page; 0 if in doubt.

    Values are in doubt if they are nested deeply, repeat a key, or have a text under the name of a
    number of the line items, which would be taken for that number.
    """
    names = [name for name in page if name != "items" and name not in _ENVELOPE.names]
    level: list[Any] = [{name: page[name] for name in names if "\0" not in name}]
    quotes = 0
    for _ in range(_MAX_ENVELOPE_DEPTH):
        nested: list[Any] = []
        for value in level:
            quotes += 2 * isinstance(value, str)
            if isinstance(value, (dict, simdjson.Object)):
                names = list(value)
                if len(set(names)) < len(names) or any("\0" in name for name in names):
                    return 0
                if any(isinstance(value[name], str) for name in numbers.intersection(names)):
                    return 0
                quotes += 2 * len(names)
                nested.extend(value[name] for name in names)
            elif isinstance(value, simdjson.Array):
                nested.extend(value)
        if not nested:
            return quotes
        level = nested
    return 0


def read_envelope(text: bytes) -> Mapping[str, Any] | None:
    """Return a page's envelope without its items, or None if it must take the exact way."""
    return _of_valid(
        text,
        lambda page: _envelope_of(page) if isinstance(page.get("items"), simdjson.Array) else None,
    )


def _envelope_of(document: simdjson.Object) -> Mapping[str, Any] | None:
    """Return what matters of the envelope, or None if it repeats a key, which a dict would hide.

    Iterating over the document's values would turn all items into Python values.
    """
    names = list(document)
    known = [name for name in names if name.casefold() in ENVELOPE_KEYS]
    if len(set(names)) < len(names) or len({name.casefold() for name in known}) < len(known):
        return None
    values = {name: document[name] for name in known}
    if any(_repeats_a_key(value, _MAX_ENVELOPE_DEPTH) for value in values.values()):
        return None
    return {
        name: value.as_dict() if isinstance(value, simdjson.Object) else value
        for name, value in values.items()
    }


def _repeats_a_key(value: Any, levels: int) -> bool:
    """Return whether an object in `value` may repeat a key, in any case; one nested deeply may."""
    if isinstance(value, simdjson.Object):
        keys = list(value)
        # A key with a null character cannot be looked up.
        distinct = {key.casefold() for key in keys if "\0" not in key}
        return (
            levels == 0
            or len(distinct) < len(keys)
            or any(_repeats_a_key(value[key], levels - 1) for key in keys)
        )
    if isinstance(value, simdjson.Array):
        return levels == 0 or any(_repeats_a_key(inner, levels - 1) for inner in value)
    return False


def _of_valid(text: bytes, read: Callable[[simdjson.Object], T | None]) -> T | None:
    """Return what `read` makes of `text` parsed, or None if it is not a JSON object."""
    # simdjson would skip a second mark, which JSON does not allow.
    if text.startswith(codecs.BOM_UTF8):
        return None
    try:
        parser = _IDLE_PARSERS.pop()
    except IndexError:
        parser = simdjson.Parser()
    try:
        return _parse_and_read(text, parser, read)
    finally:
        # A parser takes no other text as long as a document of it is in use; here none is.
        _IDLE_PARSERS.append(parser)


_IDLE_PARSERS: list[simdjson.Parser] = []
"""Each has buffers of several times its largest text: as many as decode at once are enough."""


def _parse_and_read(
    text: bytes, parser: simdjson.Parser, read: Callable[[simdjson.Object], T | None]
) -> T | None:
    try:
        document = parser.parse(text)
    except (ValueError, RuntimeError):  # the exact way says what is wrong
        return None
    return read(document) if isinstance(document, simdjson.Object) else None


def _is_risky(text: bytes) -> bool:
    """Return whether the parser may change a value, or fail in a way that cannot be caught.

    It rounds beyond the 24th decimal, cannot count more than 255 digits, and turns an escaped
    surrogate pair from U+20000 on into another character. An error message of it with a null
    character ends the process. Each pattern begins with a literal, so that the search is cheap.
    """
    if (
        _matches(_TOO_FINE, text)
        or _MANY_DIGITS in text[::16].translate(_ALL_ZEROS)
        or _matches(_RISKY, text)
    ):
        return True
    if not _matches(_MAYBE_EXPONENT, text):
        return False
    return any(decimal_of(Number(token.decode())) is UNFIT for token in _EXPONENT.findall(text))


def _matches(pattern: str, text: bytes) -> bool:
    return bool(pc.match_substring_regex(_as_array(text), pattern)[0].as_py())


def _as_array(text: bytes) -> pa.Array:
    """Return an array with `text` as its only value, without a copy of it."""
    offsets = struct.pack("=qq", 0, len(text))
    return pa.Array.from_buffers(
        pa.large_binary(), 1, [None, pa.py_buffer(offsets), pa.py_buffer(text)]
    )


_TOO_FINE = r"\.[0-9]{25}"
_ALL_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_MANY_DIGITS = b"0" * 12  # each stands for sixteen characters
_ESCAPED_QUOTE, _ESCAPED_BACKSLASH_AND_QUOTE = r'\\"', r'\\\\"'
_RISKY = r"\\u(?:0000|[dD](?:8[4-9a-fA-F]|[9aAbB]))"
_MAYBE_EXPONENT = r":\s*-?[0-9.]+[eE]"
_EXPONENT = re.compile(rb":\s*(-?[0-9.]+[eE][-+]?[0-9]+)")


def _parse(text: bytes, wire: pa.Schema) -> pa.Table | None:
    try:
        return pa.table(read_json(text, wire))
    except pa.ArrowInvalid:
        return None


def _rows_of(table: pa.Table) -> pa.StructArray | None:
    items = table.column("items")
    if table.num_rows != 1 or items.num_chunks != 1 or items.null_count:
        return None
    rows = items.chunk(0).flatten()
    return None if rows.null_count else rows


def _quotes_in(text: bytes) -> int:
    """Count the quotation marks that begin or end a key or a text; those inside a text are escaped.

    Comparing all bytes as an Arrow array takes half the time of `bytes.count` where there are as
    many.
    """
    characters = pa.Array.from_buffers(pa.uint8(), len(text), [None, pa.py_buffer(text)])
    quotes = int(pc.equal(characters, _QUOTE).true_count)
    # After an escaped backslash a quotation mark may not be escaped itself.
    if _matches(_ESCAPED_BACKSLASH_AND_QUOTE, text):
        text = text.replace(b"\\\\", b"")
    return quotes - int(pc.count_substring_regex(_as_array(text), _ESCAPED_QUOTE)[0].as_py())


def _quotes_of(array: pa.Array | pa.ChunkedArray) -> int:
    """Count the quotation marks with which the source must have written the values of `array`."""
    if isinstance(array, pa.ChunkedArray):
        return sum(map(_quotes_of, array.chunks))
    if pa.types.is_string(array.type) or pa.types.is_timestamp(array.type):
        return int(2 * (len(array) - array.null_count))
    if pa.types.is_struct(array.type):
        fields = map(array.field, range(array.type.num_fields))
        return sum(2 * (len(field) - field.null_count) + _quotes_of(field) for field in fields)
    return _quotes_of(array.flatten()) if pa.types.is_list(array.type) else 0


def _dates(texts: pa.Array) -> tuple[pa.Array, pa.Array | None]:
    """Return the instants of `texts`, and those texts that say more than their instant, if any."""
    encoded = texts.dictionary_encode()
    instants = [parse_date(text) for text in encoded.dictionary.to_pylist()]
    micros = pa.array(
        [None if each is None else each.microseconds for each in instants], Kind.DATE.arrow_type
    )
    dates = micros.take(encoded.indices)
    if all(each is not None and each.exact for each in instants):
        return dates, None
    inexact = pa.array([each is None or not each.exact for each in instants]).take(encoded.indices)
    return dates, pc.if_else(inexact, texts, None)


def _add_rescued(
    arrays: list[pa.Array], left: list[tuple[str, pa.Array]], rows: int
) -> Columns | None:
    """Write what the columns could not hold, here only texts, as one JSON object a row."""
    left = [(name, texts) for name, texts in left if texts.null_count < len(texts)]
    if not left:
        return Columns(arrays, pa.nulls(rows, pa.string()))
    entries = []
    for name, texts in left:
        if pc.any(pc.match_substring_regex(texts, _NEEDS_ESCAPE)).as_py():
            return None
        entry = pc.binary_join_element_wise(f',{quote(name)}:"', texts, '"', "")
        entries.append(entry.fill_null(""))
    # No entry is null here: null_handling="skip" would lose rows that are all null.
    joined = pc.binary_join_element_wise(*entries, "")
    objects = pc.binary_join_element_wise("{", pc.utf8_slice_codeunits(joined, 1), "}", "")
    rescued = pc.if_else(pc.equal(joined, ""), None, objects)
    rescues = Counter({name: len(texts) - texts.null_count for name, texts in left})
    return Columns(arrays, rescued, rescues)
