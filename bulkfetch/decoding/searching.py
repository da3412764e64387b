"""Whether a text has another one in it, or an escape that needs not be: asked of every page."""

from __future__ import annotations

import string

from bulkfetch.decoding.library import Refusal, load

_PLAIN = string.ascii_letters + string.digits + "-_%"
_HEX = frozenset(
    spelling(f"{ord(each):02x}").encode() for each in _PLAIN for spelling in (str.lower, str.upper)
)


def has(text: bytes, sought: bytes) -> bool:
    """Return whether a text has `sought` in it."""
    library = load()
    if isinstance(library, Refusal):
        return sought in text
    return bool(library.kernel_has(text, len(text), sought, len(sought)))


def has_escape(text: bytes) -> bool:
    """Return whether JSON or a URL in a text escapes a character that needs no escape: an ASCII
    letter or digit, `-`, `_`, or the `%` of another escape."""
    library = load()
    if isinstance(library, Refusal):
        return has_escape_by_parts(text)
    return bool(library.kernel_has_escape(text, len(text)))


def has_escape_by_parts(text: bytes) -> bool:
    """Return the same without the library."""
    for mark in (b"\\u00", b"%"):
        if mark[:1] in text and not _HEX.isdisjoint([part[:2] for part in text.split(mark)[1:]]):
            return True
    return False
