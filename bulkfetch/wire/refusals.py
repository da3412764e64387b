"""What an answer that is no success means, in the API's own words, and what the reader of an error
can do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from html import unescape
from typing import Any

import orjson

from bulkfetch.decoding.jsontext import utf8_of
from bulkfetch.errors import BulkfetchError, ForeignLinkError, HttpStatusError, RequestError
from bulkfetch.wire.retry import retry_after_s
from bulkfetch.wire.transport import Answer
from bulkfetch.words import printable

_MAX_FAULT_BYTES = 64 << 10
"""Larger error bodies are not read: they are no fault of the API, and would hold up everybody
else."""
_MAX_CODE, _MAX_WORDS, _MAX_DATA = 40, 300, 5
_MAX_LOOKED_AT = 4 << 10
"""Of a longer text no more is looked at: for a title, or for what must not show in the little that
is shown of it."""
_TITLE = re.compile(r"<title[^>]*>([^<]+)", re.IGNORECASE)
_MEANINGS = {
    "400": "access denied",
    "1000": "not found",
    "2032": "access denied",
    "3000": "a property is not valid",
    "800001": "the authentication token is missing",
    "800003": "unexpected error of the service",
    "900126": "a name in the path is none that the service knows",
    "900150": "the role lacks the right",
}
"""What the documented codes mean, for answers that leave their description out."""


@dataclass(frozen=True, slots=True)
class _Fault:
    """What an error body says, made safe to show."""

    code: str | None = None
    description: str | None = None
    data: tuple[str, ...] = ()
    source: str | None = None

    @property
    def words(self) -> str:
        """The fault in words that follow the status."""
        description = self.description or _MEANINGS.get(self.code or "")
        named = [("data", ", ".join(self.data)), ("source", self.source)]
        more = "; ".join(f"{name}: {value}" for name, value in named if value)
        return (
            (f" (code {self.code})" if self.code else "")
            + (f": {description}" if description else "")
            + (f" ({more})" if more else "")
        )


def refusal(answer: Answer, *, token: str = "") -> RequestError:
    """Return the error that an answer which is no success means; `token`, the one that was sent, is
    not shown."""
    if 300 <= answer.status < 400:
        return ForeignLinkError(
            f"the server redirects elsewhere (status {answer.status}), which is never followed"
        )
    fault = _fault(answer, token)
    return HttpStatusError(
        f"the server answered {answer.status}{fault.words}",
        status=answer.status,
        code=fault.code,
        description=fault.description,
        data=fault.data,
        source=fault.source,
        retry_after_s=retry_after_s(answer.headers),
    )


def _fault(answer: Answer, token: str) -> _Fault:
    """Read an error body, in any shape of the service and of what stands before it."""
    if len(answer.wire_body) > _MAX_FAULT_BYTES:
        return _Fault()
    try:
        text = utf8_of(replace(answer, max_bytes=_MAX_FAULT_BYTES).body()).decode(errors="replace")
    except BulkfetchError:
        return _Fault()
    try:
        said = orjson.loads(text)
    except ValueError:
        return _Fault(description=_other_words(text, token))
    fault = _read_fault(said, token) if isinstance(said, dict) else _Fault()
    return fault if fault != _Fault() or not said else _Fault(description=_quoted(said, token))


def _read_fault(said: Mapping[str, Any], token: str) -> _Fault:
    error = said.get("error")  # a name in those of Entra, an object in those of newer services
    said = error if isinstance(error, dict) else {"code": error, **said}
    said = {name.casefold(): value for name, value in said.items()}
    description = said.get("description") or said.get("message") or said.get("error_description")
    data = said.get("data")
    listed = data if isinstance(data, list) else [data]
    return _Fault(
        code=_shown(said.get("code"), _MAX_CODE, token),
        description=_shown(description, _MAX_WORDS, token),
        data=tuple(
            filter(None, (_shown(each, _MAX_WORDS // 3, token) for each in listed[:_MAX_DATA]))
        ),
        source=_shown(said.get("source"), _MAX_CODE, token),
    )


def _shown(value: Any, most: int, token: str) -> str | None:
    """Return a value of the server as safe text; cut last, since half a credential is not known for
    one."""
    if value in (None, ""):
        return None
    try:
        text = value if isinstance(value, str) else orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # nested more deeply than anybody would read
        return None
    text = text.replace(token, "***") if token else text
    return printable(text[:_MAX_LOOKED_AT])[:most]


def _quoted(value: Any, token: str) -> str | None:
    shown = _shown(value, 100, token)
    return f'"{shown.strip()}"' if shown else None


def _other_words(text: str, token: str) -> str | None:
    """Say what a body is that is no JSON: a page of a proxy or a sign-in, or the first of its
    words."""
    text = text.lstrip()
    start = text[:200].casefold()
    if "<!doctype html" not in start and "<html" not in start:
        return _quoted(text, token)
    title = _TITLE.search(text[:_MAX_LOOKED_AT])
    words = _shown(" ".join(unescape(title[1]).split()), 200, token) if title else None
    return "an HTML page" + (f' titled "{words}"' if words else "")


_SUPPORT = "if it happens again, give Microsoft's support the two ids"
_AGAIN = "run the same command again"
_ADVICE = {
    "connection": f"check the network and the base URL, then {_AGAIN}",
    "connection_lost": f"{_AGAIN}; where something on the way cuts long answers, a smaller --page-size helps",
    "untrusted": "if a proxy of yours stands in between, give its certificate with --ca-file",
    "too_many_files": "raise the limit on open files (ulimit -n) or lower --max-in-flight",
    "no_progress": f"{_AGAIN}; --first-byte-timeout-s and --read-timeout-s wait longer",
    "malformed_body": f"{_AGAIN}; {_SUPPORT}",
    "foreign_link": "check the base URL: `bulkfetch config` shows it",
    "contradiction": f"the invoice may have changed while it was read: {_AGAIN}; {_SUPPORT}",
    "transfer": f"{_AGAIN}; {_SUPPORT}",
    "not_tried": _AGAIN,
}
_ADVICE_BY_STATUS = {
    400: f"the service does not give this in the form it was asked for; {_SUPPORT}",
    401: "check that the app or the account is one of this Partner Center's tenant",
    403: "the token lacks the right to read this; it needs the Admin agent or Billing admin role",
    404: "it is not there (any more), or belongs to another tenant: `bulkfetch invoices list` shows what there is",
    410: "it is not there any more: `bulkfetch invoices list` shows what there is",
    429: "lower --max-in-flight, or set --max-requests-per-second",
}

_USERS_ONLY = re.compile(
    r"/invoices/(?!summary$)[^/]+|/invoices/[^/]+(/receipts/[^/]+)?/documents/statement"
)
_NEEDS_USER = (
    "the service gives this to an app together with a user only, and refuses an app alone: "
    "sign in with `bulkfetch login`, or give a refresh token; "
    "the user needs the Admin agent or Billing admin role"
)


def needs_user(path: str) -> bool:
    """Tell whether the service gives what is at `path`, below the base URL, to app+user credentials
    only.

    That is one invoice by its id, the account summaries, and documents; lists and line items are
    for apps as well.
    """
    return _USERS_ONLY.fullmatch(path) is not None


def lacks_user(error: BulkfetchError) -> bool:
    """Tell whether a request was refused, as the credentials of an app alone are for what is for
    users only."""
    is_refused = isinstance(error, HttpStatusError) and error.status in (401, 403)
    return (
        is_refused
        and isinstance(error, RequestError)
        and error.facts is not None
        and needs_user(error.facts.path)
    )


def advice(reason: str, status: int | None = None) -> str:
    """Return what the reader of an error can do, as a clause; nothing where its message says it."""
    if status is None:
        return _ADVICE.get(reason, "")
    if status == 408 or status >= 500:
        return f"{_AGAIN} later; {_SUPPORT}"
    return _ADVICE_BY_STATUS.get(status, _SUPPORT)


def advice_on(error: BulkfetchError) -> str:
    """Return the advice on an error, or on the request behind it."""
    cause = error if isinstance(error, RequestError) else error.__cause__
    if isinstance(cause, HttpStatusError) and lacks_user(cause):
        return _NEEDS_USER
    if isinstance(cause, HttpStatusError):
        return advice(cause.reason, cause.status)
    return advice(cause.reason if isinstance(cause, RequestError) else error.reason)
