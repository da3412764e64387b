"""Keeps secrets out of what libraries and servers say, in log records of any level above all.

A secret is found in each way that JSON, URLs and XML may spell it.
"""

from __future__ import annotations

import logging
import re
import string
from collections.abc import Callable, Iterable
from functools import cached_property, wraps
from typing import Any, ParamSpec, TypeVar
from urllib.parse import unquote

from bulkfetch.errors import BulkfetchError
from bulkfetch.words import printable

P = ParamSpec("P")
T = TypeVar("T")
E = TypeVar("E", bound=BulkfetchError)

_SHORTEST = 8
_MOST_KNOWN = 1000
_LIBRARIES = frozenset(
    ("aiohttp", "asyncio", "azure", "botocore", "google", "msal", "obstore", "requests", "urllib3")
)
_TALKATIVE = ("botocore", "google", "msal", "azure.identity")
"""At DEBUG these log whole requests and answers, in which credentials come that nobody knew of."""
_NOT_SHOWN = "(not shown: at this level it may hold credentials)"
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


_known: dict[str, Spellings] = {}


def guard_logs(*secrets: str | None) -> None:
    """Hide `secrets` in all records that are logged in this process from now on.

    What libraries log of requests and credentials at DEBUG is not shown at all.
    """
    for secret in secrets:
        if secret is not None and len(secret) >= _SHORTEST and secret not in _known:
            for spelling in (secret, unquote(secret)):
                _known[spelling] = Spellings(spelling)
    while len(_known) > _MOST_KNOWN:  # tokens of weeks ago
        del _known[next(iter(_known))]
    factory = logging.getLogRecordFactory()
    if not isinstance(factory, _Guard):
        logging.setLogRecordFactory(_Guard(factory))


def hide_known(text: str) -> str:
    """Return a text of a library or a server without the secrets that the logs are guarded from."""
    return hide_all(text, list(_known.values()))


def forget_frames(error: E) -> E:
    """Return an error without the frames it came through, and without what is behind it.

    Tools that show the variables of frames would show secrets.
    """
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def forgets_frames(call: Callable[P, T]) -> Callable[P, T]:
    """Return a function whose errors of ours do not show its frames, as they hold secrets."""

    @wraps(call)
    def call_and_forget(*given: P.args, **named: P.kwargs) -> T:
        try:
            return call(*given, **named)
        except BulkfetchError as error:
            failure = forget_frames(error)
        raise failure

    return call_and_forget


class _Guard:
    """A factory of log records that cleans each record of the factory before it."""

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make

    def __call__(self, *given: Any, **named: Any) -> logging.LogRecord:
        record = self._make(*given, **named)
        _clean(record)
        return record


def _clean(record: logging.LogRecord) -> None:
    is_library = record.name.partition(".")[0] in _LIBRARIES
    if record.levelno < logging.INFO and record.name.startswith(_TALKATIVE):
        record.msg, record.args, record.exc_info = _NOT_SHOWN, (), None
        return
    try:
        text = record.getMessage()
    except Exception:  # whatever is wrong with it, logging itself says so
        return
    clean = hide_known(printable(text) if is_library else text)
    if is_library or clean != text:  # arguments may show more than the message does
        record.msg, record.args = clean, ()
    if record.exc_info and record.exc_info[0] is not None:
        trace = logging.Formatter().formatException(record.exc_info)
        if (hidden := hide_known(trace)) != trace:
            record.exc_info, record.exc_text = None, hidden
