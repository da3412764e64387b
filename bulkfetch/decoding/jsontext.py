"""JSON read without changing a value: numbers stay text, repeated keys stay visible.

RFC 8259 lets numbers have any precision and objects repeat their keys; `json` and `orjson` turn the
first into floats and silently drop the second. Financial records can bear neither.
"""

from __future__ import annotations

import codecs
import json
from json.encoder import encode_basestring as _quote
from typing import NoReturn, TypeAlias

from bulkfetch.errors import MalformedBodyError

MAX_DEPTH = 256
"""Values nested deeper than this are refused; real payloads nest 7 deep."""


class Number(str):
    """A JSON number, as the text the source wrote."""

    __slots__ = ()


class Pairs(tuple[tuple[str, "Json"], ...]):
    """A JSON object, as its key and value pairs in the source's order, repeated keys included."""

    __slots__ = ()

    def get(self, key: str) -> Json:
        """Return the last value of `key`, or None: for objects whose keys are known not to
        repeat."""
        found: Json = None
        for name, value in self:
            if name == key:
                found = value
        return found


Json: TypeAlias = "bool | str | Number | Pairs | list[Json] | None"


def utf8_of(body: bytes) -> bytes:
    """Return the JSON text of `body` as UTF-8 without a byte-order mark, which decides whatever the
    headers say.

    Bodies of Partner Center begin with a UTF-8 mark, those of its preview host are UTF-16LE. Raises
    MalformedBodyError for a UTF-16 text that is cut off.
    """
    if body.startswith(codecs.BOM_UTF8):
        return body[len(codecs.BOM_UTF8) :]
    for mark, charset in ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")):
        if body.startswith(mark):
            try:
                return body[len(mark) :].decode(charset).encode()
            except UnicodeError as error:
                raise MalformedBodyError(
                    f"the body starts with a {charset.upper()} byte-order mark "
                    f"but is not valid {charset.upper()}"
                ) from error
    return body


def text_in(body: bytes) -> tuple[bytes, int]:
    """Return bytes with the UTF-8 JSON text of `body`, and where in them it starts.

    A body that is UTF-8 already is not copied. Raises MalformedBodyError as `utf8_of` does.
    """
    if body.startswith(codecs.BOM_UTF8):
        return body, len(codecs.BOM_UTF8)
    return utf8_of(body), 0


def loads(text: bytes) -> Json:
    """Parse UTF-8 JSON without loss. Raises MalformedBodyError, naming the byte, for anything
    else."""
    try:
        characters = text.decode()
    except UnicodeDecodeError as error:
        raise MalformedBodyError(f"the body is not UTF-8 at byte {error.start}") from error
    try:
        value = _DECODER.decode(characters)
    except json.JSONDecodeError as error:
        at = len(characters[: error.pos].encode())
        raise MalformedBodyError(
            f"the body is not JSON at byte {at} of {len(text)}: {error.msg}"
        ) from error
    except RecursionError:
        raise MalformedBodyError(_TOO_DEEP) from None
    if characters.count("[") + characters.count("{") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise MalformedBodyError(_TOO_DEEP)
    return value  # type: ignore[no-any-return]  # decode() returns Any; the hooks above make it Json


def dumps(value: Json) -> str:
    """Write `value` as compact JSON: numbers in the source's spelling, text with as few escapes as
    possible."""
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{quote(key)}:{dumps(inner)}" for key, inner in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(dumps, value)) + "]"
    return _CONSTANTS[value]


def quote(text: str) -> str:
    """Write `text` as a JSON string; a lone surrogate, which UTF-8 cannot hold, stays an escape."""
    quoted = _quote(text)
    if is_unicode(quoted):
        return quoted
    return "".join(f"\\u{ord(c):04x}" if "\ud800" <= c <= "\udfff" else c for c in quoted)


def is_unicode(text: str) -> bool:
    r"""Return whether `text` can be stored as UTF-8, which a lone surrogate (`"\ud800"` in JSON)
    cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_constant(name: str) -> NoReturn:
    raise MalformedBodyError(f"the body is not JSON: it contains {name}")


def _depth(value: Json) -> int:
    """Return how deep `value` is nested, without recursion, which the limit is there to avoid."""
    depth, level = 0, [value]
    while level:
        nested = [inner for inner in level if isinstance(inner, (list, Pairs))]
        depth += bool(nested)
        level = []
        for container in nested:
            level.extend(
                (inner for _, inner in container) if isinstance(container, Pairs) else container
            )
    return depth


_TOO_DEEP = f"the body nests values more than {MAX_DEPTH} deep"
_CONSTANTS = {None: "null", True: "true", False: "false"}
_DECODER = json.JSONDecoder(
    object_pairs_hook=Pairs, parse_float=Number, parse_int=Number, parse_constant=_refuse_constant
)
