"""One secret in each way that JSON, URLs and XML may spell it."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable
from functools import cached_property

_SELDOM_ESCAPED = string.ascii_letters + string.digits + "-_"
_HEX = "|".join(f"{ord(each):02x}" for each in _SELDOM_ESCAPED)
_DECIMAL = "|".join(str(ord(each)) for each in _SELDOM_ESCAPED)
_ESCAPE = re.compile(
    rf"(?i:\\+u00({_HEX})|%(?:25)*({_HEX})|&(?:amp;)*#x0*({_HEX});)"
    rf"|&(?:amp;)*#0*({_DECIMAL});"
)
"""An escape of a character that needs none."""
_NAMED = {"&": "amp", "<": "lt", ">": "gt", '"': "quot", "'": "apos"}
"""Characters that XML and HTML have names for."""


class Spellings:
    """One secret, found in a text with any of its characters escaped, once or several times."""

    def __init__(self, secret: str) -> None:
        self._secret = secret
        # where the longest run of characters that are seldom escaped is not, the secret is not
        self.core = max(re.findall(r"[\w-]+", secret, re.ASCII), key=len, default="")
        self.core_bytes = self.core.encode()

    @cached_property
    def _pattern(self) -> str:
        return "".join(map(_spellings_of, self._secret))

    @cached_property
    def _in_text(self) -> re.Pattern[str]:
        return re.compile(self._pattern)

    @cached_property
    def _in_bytes(self) -> re.Pattern[bytes]:
        return re.compile(self._pattern.encode("utf-8", "surrogatepass"))

    def hide(self, text: str) -> str:
        """Return a text with `***` in place of the secret."""
        return self._in_text.sub("***", text)

    def hide_in_bytes(self, text: bytes) -> bytes:
        """Return a text of UTF-8 with `***` in place of the secret."""
        return self._in_bytes.sub(b"***", text)


def hide_all(text: str, secrets: Iterable[Spellings]) -> str:
    """Return a text without any of the secrets."""
    plain = without_escapes(text)
    for each in secrets:
        if each.core in text or each.core in plain:
            text = each.hide(text)
    return text


def without_escapes(text: str) -> str:
    """Return a text with its escapes of ASCII letters, digits, `-` and `_` undone, once."""
    if "\\" not in text and "%" not in text and "&" not in text:
        return text
    return _ESCAPE.sub(_unescape, text)


def _unescape(found: re.Match[str]) -> str:
    in_hex = found[1] or found[2] or found[3]
    return chr(int(in_hex, 16) if in_hex else int(found[4]))


def _spellings_of(character: str) -> str:
    """Return a pattern of one character, as it is or escaped."""
    itself = re.escape(character)
    units = character.encode("utf-16-be", "surrogatepass").hex()
    in_json = "".join(rf"\\+u{units[place : place + 4]}" for place in range(0, len(units), 4))
    in_urls = "".join(f"%(?:25)*{each:02x}" for each in character.encode("utf-8", "surrogatepass"))
    in_xml = rf"&(?:amp;)*(?:#x0*{ord(character):x}|#0*{ord(character)});"
    escaped = [in_json, in_urls, in_xml]
    if character in _NAMED:
        escaped.append(f"&(?:amp;)*{_NAMED[character]};")
    # JSON in JSON has several backslashes
    plain = itself if character.isalnum() else rf"\\*{itself}"
    return f"(?:(?i:{'|'.join(escaped)})|{plain})"
