"""Hides the secrets of a run, `***` in their place, wherever a server repeats them."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from functools import cached_property

from bulkfetch.decoding.jsontext import utf8_of

_SHORTEST_IN_TEXT = 4
"""Shorter ones would blank out words of messages; no secret that protects anything is so short."""
_SHORTEST_IN_DATA = 12
"""What is archived stays as the server said it, but for what cannot be there by accident."""
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class _Spellings:
    """One secret as it may be written: plain, or with characters escaped as JSON and URLs do."""

    def __init__(self, secret: str) -> None:
        self._secret = secret
        # escapes are for punctuation, so the longest run of other characters stands as it is
        self._core = max(re.findall(r"[\w-]+", secret, re.ASCII), key=len, default="")
        self._core_bytes = self._core.encode()
        self.is_data = len(secret) >= _SHORTEST_IN_DATA and not secret.isdigit()

    @cached_property
    def _pattern(self) -> str:
        return "".join(
            rf"(?:{re.escape(each)}|(?i:\\u{ord(each):04x}|%{ord(each):02x}))"
            if each.isalnum()
            else rf"(?:\\?{re.escape(each)}|(?i:\\u{ord(each):04x}|%{ord(each):02x}))"
            for each in self._secret
        )

    @cached_property
    def _in_text(self) -> re.Pattern[str]:
        return re.compile(self._pattern)

    @cached_property
    def _in_bytes(self) -> re.Pattern[bytes]:
        return re.compile(self._pattern.encode())

    def hide(self, text: str) -> str:
        return self._in_text.sub("***", text) if self._core in text else text

    def hide_in_bytes(self, body: bytes) -> bytes:
        return self._in_bytes.sub(b"***", body) if self._core_bytes in body else body


class Mask:
    """Knows the secrets of one run: these very texts are hidden, and nothing like them."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._known: dict[str, _Spellings] = {}
        for secret in secrets:
            self.learn(secret)

    def learn(self, secret: str) -> None:
        """Hide a secret from now on, as well as those before it."""
        if len(secret) >= _SHORTEST_IN_TEXT and secret not in self._known:
            self._known[secret] = _Spellings(secret)

    def hide(self, text: str) -> str:
        """Return words of a message without the secrets."""
        for spellings in list(self._known.values()):
            text = spellings.hide(text)
        return text

    def hide_in_body(self, body: bytes) -> bytes:
        """Return a body without the secrets, and the same object if it has none. CPU-bound.

        A body of UTF-16 that has one is returned as UTF-8. Raises MalformedBodyError if its text
        cannot be read.
        """
        text = utf8_of(body) if body.startswith(_UTF16) else body
        clean = text
        for spellings in list(self._known.values()):
            if spellings.is_data:
                clean = spellings.hide_in_bytes(clean)
        return body if clean is text else clean
