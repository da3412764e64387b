"""Hides the secrets of a run, `***` in their place, wherever a server repeats them."""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from bulkfetch.decoding.jsontext import utf8_of
from bulkfetch.decoding.searching import has, has_escape
from bulkfetch.logguard import Spellings, hide_all, without_escapes

_SHORTEST_IN_TEXT = 4
"""Shorter ones would blank out words of messages; no secret that protects anything is so short."""
_SHORTEST_IN_DATA = 12
"""What is archived stays as the server said it, but for what cannot be there by accident."""
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Mask:
    """Knows the secrets of one run: these very texts are hidden, and nothing like them."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._known: dict[str, Spellings] = {}
        self._in_data: dict[str, Spellings] = {}
        for secret in secrets:
            self.learn(secret)

    def learn(self, secret: str) -> None:
        """Hide a secret from now on, as well as those before it."""
        if len(secret) < _SHORTEST_IN_TEXT or secret in self._known:
            return
        spellings = Spellings(secret)
        if len(secret) >= _SHORTEST_IN_DATA and not secret.isdigit():
            self._in_data[secret] = spellings
        self._known[secret] = spellings

    def hide(self, text: str) -> str:
        """Return words of a message without the secrets."""
        return hide_all(text, list(self._known.values()))

    def hide_in_body(self, body: bytes) -> bytes:
        """Return a body without the secrets, and the same object if it has none. CPU-bound.

        A body of UTF-16 that has one is returned as UTF-8. Raises MalformedBodyError if its text
        cannot be read.
        """
        text = utf8_of(body) if body.startswith(_UTF16) else body
        clean, plain = text, None
        if has_escape(text):
            plain = without_escapes(text.decode("latin-1")).encode("latin-1")
        for each in list(self._in_data.values()):
            if has(clean, each.core_bytes) or (plain is not None and has(plain, each.core_bytes)):
                clean = each.hide_in_bytes(clean)
        if clean is text:
            return body
        return clean
