"""Keeps secrets out of what libraries and servers say, in log records of any level above all."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar
from urllib.parse import unquote

from bulkfetch.errors import BulkfetchError
from bulkfetch.spellings import Spellings, hide_all
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
