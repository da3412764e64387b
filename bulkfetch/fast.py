"""The fast way from a page to columns: Arrow's own JSON parser, and a proof that it lost nothing.

`pyarrow.json` parses a whole page as one JSON object, decimals and all, in native code. What it would drop
or unify without a word is found by counting: every quotation mark of the page belongs to a key or a text that
must appear in the result, so a null that was spelled out, or a number given as text, leaves some over. A page
about which there is any doubt is refused, and takes the exact way.
"""

from __future__ import annotations

import codecs
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
import simdjson

from bulkfetch.dates import parse_date
from bulkfetch.exact import PLAIN_NUMBER, Columns
from bulkfetch.jsontext import quote
from bulkfetch.schema import Field, Kind

_WIDE = pa.decimal256(76, 24)
"""Numbers are parsed wider than they are kept: Arrow's parser wraps silently where `decimal128` overflows."""

_WIRE_TYPES = {
    Kind.TEXT: pa.string(),
    Kind.INTEGER: _WIDE,
    Kind.DECIMAL: _WIDE,
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
TELLING = ("totalcount", "continuationtoken", "links")
"""What matters of an envelope, in whatever case it is spelled."""
_ENVELOPE = [
    ("totalCount", pa.int64()),
    ("continuationToken", pa.string()),
    ("links", pa.struct([("self", _LINK), ("next", _LINK), ("previous", _LINK)])),
    ("attributes", Kind.OBJECT_TYPE.arrow_type),
]
_NEEDS_ESCAPE = r'["\\\x00-\x1f]'
_QUOTE, _BACKSLASH = pa.scalar(ord('"'), pa.uint8()), pa.scalar(ord("\\"), pa.uint8())
_MAX_ENVELOPE_DEPTH = 16
_MAX_STRANGERS = 100


@dataclass(frozen=True, slots=True)
class FastPage:
    """A page that the fast way took: its envelope as plain values, its rows as columns."""

    envelope: Mapping[str, Any]
    rows: int
    columns: Columns


class FastDecoder:
    """Decodes the pages of one line-item type. Safe to share between threads.

    Text fields that the schema does not know are learned as they appear, so that a field Microsoft adds costs
    a second parse once, not on every page.
    """

    def __init__(self, fields: tuple[Field, ...]) -> None:
        self._fields = fields
        self._strangers: tuple[str, ...] = ()
        self._wires: dict[tuple[str, ...], pa.Schema] = {}
        self._folded = {field.name.casefold() for field in fields}
        self._numbers = [field.name for field in fields if field.kind in (Kind.INTEGER, Kind.DECIMAL)]
        self._dates = [place for place, field in enumerate(fields) if field.kind is Kind.DATE]

    def decode(self, text: bytes) -> FastPage | None:
        """Decode the UTF-8 JSON of a page, or return None for one that the exact way must look at."""
        page = _validated(text)
        return None if page is None or _may_be_too_fine(text) else self._decode(text, page)

    def _decode(self, text: bytes, page: simdjson.Object) -> FastPage | None:
        strangers = self._strangers
        wire = self._wire(strangers)
        table = _parse(text, wire)
        rows = None if table is None else _rows_of(table)
        if table is None or rows is None:
            return None
        found = tuple(field.name for field in rows.type)[len(self._fields) :]
        if found != strangers:
            return self._decode(text, page) if self._learn(rows, found) else None
        if not _has_shape(table.schema, wire) or not self._nothing_lost(text, page, table):
            return None
        columns, envelope = self._columns(rows), _envelope_of(page)
        return None if columns is None or envelope is None else FastPage(envelope, len(rows), columns)

    def _learn(self, rows: pa.StructArray, found: tuple[str, ...]) -> bool:
        """Take unknown text fields in, for the page to be parsed again: some may have become dates."""
        known = len(self._fields)
        for place, name in enumerate(found, start=known):
            field_type = rows.type[place].type
            is_text = pa.types.is_string(field_type) or pa.types.is_timestamp(field_type)
            if not is_text or name.casefold() in self._folded:
                return False
        if len(found) > _MAX_STRANGERS:
            return False
        self._strangers = found
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
        return pa.schema([*_ENVELOPE, ("items", pa.list_(item))])

    def _nothing_lost(self, text: bytes, page: simdjson.Object, table: pa.Table) -> bool:
        found = sum(2 * (len(column) - column.null_count) + _quotes_of(column) for column in table.columns)
        surplus: int = _quotes_in(text) - found
        return surplus == 0 or (surplus > 0 and surplus == 2 * self._numbers_as_text(page))

    def _numbers_as_text(self, page: simdjson.Object) -> int:
        """Count the line items' numbers given as text, or return -1 if one of them is not plainly one."""
        count = 0
        items: Any = page["items"]  # an array, as Arrow found
        for row in items:
            for name in self._numbers:
                value = row.get(name)
                if isinstance(value, str):
                    if not PLAIN_NUMBER.fullmatch(value):
                        return -1
                    count += 1
        return count

    def _columns(self, rows: pa.StructArray) -> Columns | None:
        known = len(self._fields)
        arrays = [rows.field(place) for place in range(known)]
        left: list[tuple[str, pa.Array]] = []
        for place in self._dates:
            arrays[place], inexact = _dates(arrays[place])
            if inexact is not None:
                left.append((self._fields[place].name, inexact))
        left.extend(sorted((field.name, rows.field(place)) for place, field in enumerate(rows.type) if place >= known))
        try:
            arrays = [array.cast(field.kind.arrow_type) for array, field in zip(arrays, self._fields, strict=True)]
        except pa.ArrowInvalid:  # a number too large or too fine for its column
            return None
        return _with_rescued(arrays, left, len(rows))


def read_envelope(text: bytes) -> Mapping[str, Any] | None:
    """Return a page's envelope without its items, or None for a text that the exact way must look at."""
    document = _validated(text)
    if document is None or not isinstance(document.get("items"), simdjson.Array):
        return None
    return _envelope_of(document)


def _envelope_of(document: simdjson.Object) -> Mapping[str, Any] | None:
    """Return what matters of the envelope, or None if a key of it stands twice, of which a dict would keep one.

    To iterate over the document's values would make Python values of all items.
    """
    names = list(document)
    telling = [name for name in names if name.casefold() in TELLING]
    if len(set(names)) < len(names) or len({name.casefold() for name in telling}) < len(telling):
        return None
    values = {name: document[name] for name in telling}
    if any(_repeats_a_key(value, _MAX_ENVELOPE_DEPTH) for value in values.values()):
        return None
    return {name: value.as_dict() if isinstance(value, simdjson.Object) else value for name, value in values.items()}


def _repeats_a_key(value: Any, levels: int) -> bool:
    """Tell whether an object in `value` may have a key twice, in whatever case; what is nested deeply may."""
    if isinstance(value, simdjson.Object):
        keys = list(value)
        distinct = {key.casefold() for key in keys if "\0" not in key}  # a key with a null in it cannot be looked up
        return levels == 0 or len(distinct) < len(keys) or any(_repeats_a_key(value[key], levels - 1) for key in keys)
    if isinstance(value, simdjson.Array):
        return levels == 0 or any(_repeats_a_key(inner, levels - 1) for inner in value)
    return False


def _validated(text: bytes) -> simdjson.Object | None:
    """Return `text` parsed if it is JSON: Arrow's parser crashes on deep nesting, and takes NaN."""
    if text.startswith(codecs.BOM_UTF8):  # a second mark, which simdjson would skip and JSON does not allow
        return None
    parser = getattr(_LOCAL, "parser", None)
    if parser is None:
        parser = _LOCAL.parser = simdjson.Parser()
    try:
        document = parser.parse(text)
    except (ValueError, RuntimeError):  # UnicodeDecodeError among them; the exact way says what is wrong
        return None
    return document if isinstance(document, simdjson.Object) else None


_LOCAL = threading.local()


def _may_be_too_fine(text: bytes) -> bool:
    """Tell whether a number may have more than 100 decimals.

    For these Arrow reads outside of its table of powers of ten (https://github.com/apache/arrow/issues/50964):
    `1e-2147483647` crashes pyarrow 26, and of `1e-216` it makes 0. What is searched for first begins with a
    literal, which makes that cheap.
    """
    if _DECIMALS in text[::4].translate(_ALL_ZEROS) or (b"\\u00" in text and _matches(_ESCAPED, text)):
        return True
    return _matches(_MAYBE_EXPONENT, text) and _matches(_EXPONENT, text)


def _matches(pattern: str, text: bytes) -> bool:
    return bool(pc.match_substring_regex(pa.array([text], pa.large_binary()), pattern)[0].as_py())


_ALL_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_DECIMALS = b"0" * 16  # each stands for four characters
_ESCAPED = r"\\u00(?:2[DEde]|3[0-9]|[46]5)"  # a digit, a minus, a point or an E
_MAYBE_EXPONENT = r'(?i)e-(?:[0-9]{2,11}|0[0-9]{11,})[",}\]\s]'  # not, as often, 12 digits that end a GUID
_EXPONENT = r'[":,\[\s][-+]?[0-9.]*[Ee]-0*(?:2[5-9]|[3-9][0-9]|[1-9][0-9]{2,})[",}\]\s]'


def _parse(text: bytes, wire: pa.Schema) -> pa.Table | None:
    try:
        return pj.read_json(
            pa.BufferReader(text),
            read_options=pj.ReadOptions(use_threads=False, block_size=len(text) + 1),
            parse_options=pj.ParseOptions(explicit_schema=wire, unexpected_field_behavior="infer"),
        )
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None


def _rows_of(table: pa.Table) -> pa.StructArray | None:
    items = table.column("items")
    if table.num_rows != 1 or items.num_chunks != 1 or items.null_count:
        return None
    rows = items.chunk(0).flatten()
    return None if rows.null_count else rows


def _has_shape(schema: pa.Schema, wire: pa.Schema) -> bool:
    """Tell whether a page has the items asked for; its envelope may say more, if that is not nested deeply.

    Arrow drops the keys that a struct has too many, `attributes` say, when it casts one.
    """
    if schema.equals(wire):
        return True
    if not schema.field("items").type.equals(wire.field("items").type):
        return False
    return all(_is_shallow(field.type, _MAX_ENVELOPE_DEPTH) for field in schema)


def _is_shallow(nested: pa.DataType, levels: int) -> bool:
    inner = range(nested.num_fields)
    return not inner or (levels > 0 and all(_is_shallow(nested.field(at).type, levels - 1) for at in inner))


def _quotes_in(text: bytes) -> int:
    """Count the quotation marks that begin or end a key or a text; those inside a text are escaped.

    Comparing all bytes as an Arrow array takes half the time of `bytes.count`.
    """
    characters = pa.Array.from_buffers(pa.uint8(), len(text), [None, pa.py_buffer(text)])
    quotes, backslashes = pc.equal(characters, _QUOTE), pc.equal(characters, _BACKSLASH)
    escaped = pc.and_(backslashes[:-1], quotes[1:])
    if pc.and_(backslashes[:-2], escaped[1:]).true_count:  # that backslash may itself be escaped
        return _quotes_in(text.replace(b"\\\\", b""))
    return int(quotes.true_count - escaped.true_count)


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
    """Return the instants of `texts`, and the texts that say more than these, if there are any."""
    encoded = texts.dictionary_encode()
    instants = [parse_date(text) for text in encoded.dictionary.to_pylist()]
    micros = pa.array([None if each is None else each.microseconds for each in instants], Kind.DATE.arrow_type)
    dates = micros.take(encoded.indices)
    if all(each is not None and each.exact for each in instants):
        return dates, None
    inexact = pa.array([each is None or not each.exact for each in instants]).take(encoded.indices)
    return dates, pc.if_else(inexact, texts, None)


def _with_rescued(arrays: list[pa.Array], left: list[tuple[str, pa.Array]], rows: int) -> Columns | None:
    """Write what the columns could not hold, all of it text here, as one JSON object a row."""
    left = [(name, texts) for name, texts in left if texts.null_count < len(texts)]
    if not left:
        return Columns(arrays, pa.nulls(rows, pa.string()))
    entries = []
    for name, texts in left:
        if pc.any(pc.match_substring_regex(texts, _NEEDS_ESCAPE)).as_py():
            return None
        entry = pc.binary_join_element_wise(f',{quote(name)}:"', texts, '"', "")
        entries.append(entry.fill_null(""))
    joined = pc.binary_join_element_wise(*entries, "")  # its null_handling="skip" loses rows that are all null
    objects = pc.binary_join_element_wise("{", pc.utf8_slice_codeunits(joined, 1), "}", "")
    rescued = pc.if_else(pc.equal(joined, ""), None, objects)
    rescues = Counter({name: len(texts) - texts.null_count for name, texts in left})
    return Columns(arrays, rescued, rescues)
