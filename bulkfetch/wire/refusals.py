"""What an error answer means, in the words of the API, and what the reader can do about it."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

import orjson

from bulkfetch.decoding.jsontext import utf8_of
from bulkfetch.errors import (
    BulkfetchError,
    ForeignLinkError,
    ForeignPageError,
    HttpStatusError,
    MalformedBodyError,
    ProxyError,
    RequestError,
)
from bulkfetch.strangers import recognize
from bulkfetch.wire.messages import Answer
from bulkfetch.wire.retry import is_failing, is_throttled, retry_after_s
from bulkfetch.words import printable, with_names

_MAX_FAULT_BYTES = 64 << 10
"""Larger error bodies are not parsed: they do not come from the API, and parsing takes time."""
_MAX_CODE, _MAX_WORDS, _MAX_DATA = 40, 300, 5
_MAX_LOOKED_AT = 4 << 10
"""How much of a text is searched for secrets, before it is cut to be shown."""
_GZIP = 16 + zlib.MAX_WBITS
_MEANINGS = {
    "400": "access denied",
    "1000": "not found",
    "2032": "access denied",
    "3000": "a property is not valid",
    "800001": "the authentication token is missing",
    "800003": "unexpected error of the service",
    "900126": "the service does not know a name in the path",
    "900150": "the role lacks the right",
}
"""What the documented codes mean, for answers without a description."""
_NEEDS_CREDENTIALS = 407
_MEANINGS_OF_STATUS = {
    _NEEDS_CREDENTIALS: "a proxy asks for credentials",
    511: "the network asks for a sign-in",
}
"""What statuses mean that the service itself never gives."""
T = TypeVar("T")

_SUPPORT = "if it happens again, give Microsoft's support the two ids"
_AGAIN = "run the same command again"
_PORTAL = (
    "something between this machine and the service answered: sign in to the network in a browser, "
    "or check the proxy and the base URL (`bulkfetch config` shows both)"
)
_GATEWAY = f"a proxy or gateway on the way to the service fails: {_AGAIN} later; {_SUPPORT}"
_ADVICE = {
    "connection": f"check the network and the base URL, then {_AGAIN}",
    "proxy": "check the proxy: `bulkfetch config` shows which one applies",
    "connection_lost": f"{_AGAIN}; if a proxy cuts long answers, a smaller {{page_size}} helps",
    "untrusted": "if you use a proxy, give its certificate with {ca_file}",
    "too_many_files": "raise the limit on open files (ulimit -n) or lower {max_in_flight}",
    "no_progress": f"{_AGAIN}; {{first_byte_timeout_s}} and {{read_timeout_s}} wait longer",
    "malformed_body": f"{_AGAIN}; {_SUPPORT}",
    "foreign_link": (
        "if it is the sign-in page of a network, sign in there in a browser; "
        "else check the base URL: `bulkfetch config` shows it"
    ),
    "foreign_page": _PORTAL,
    "contradiction": f"the invoice may have changed while it was read: {_AGAIN}; {_SUPPORT}",
    "transfer": f"{_AGAIN}; {_SUPPORT}",
    "not_tried": _AGAIN,
}
_ADVICE_BY_STATUS = {
    400: f"the service refuses the form of this request; {_SUPPORT}",
    401: "check that the app or account belongs to this Partner Center's tenant",
    403: "the token lacks the right to read this; it needs the Admin agent or Billing admin role",
    404: (
        "it does not exist (any more), or belongs to another tenant: `bulkfetch invoices list` "
        "shows the invoices of this one"
    ),
    _NEEDS_CREDENTIALS: (
        "give the proxy with a user and a password, as http://user:password@host:port, in {proxy} "
        "or HTTPS_PROXY; `bulkfetch config` shows which one applies"
    ),
    410: "it does not exist any more: `bulkfetch invoices list` shows the invoices that do",
    429: "lower {max_in_flight}, or set {max_requests_per_second}",
    511: _PORTAL,
}
_USERS_ONLY = re.compile(
    r"/invoices/(?!summary$)[^/]+|/invoices/[^/]+(/receipts/[^/]+)?/documents/statement"
)
_NEEDS_USER = (
    "the service gives this to an app together with a user only, and refuses an app alone: "
    "sign in with `bulkfetch login`, or give a refresh token; "
    "the user needs the Admin agent or Billing admin role"
)


@dataclass(frozen=True, slots=True)
class _Fault:
    """What an error body says, made safe to show."""

    code: str | None = None
    description: str | None = None
    data: tuple[str, ...] = ()
    source: str | None = None
    is_page: bool = False

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


def refusal(answer: Answer, *, hide: Callable[[str], str] = str) -> RequestError:
    """Return the error for an answer that is not a success. `hide` removes secrets from it."""
    if 300 <= answer.status < 400:
        return ForeignLinkError(
            f"the server redirects elsewhere (status {answer.status}{_target_of(answer)}), "
            "which is never followed"
        )
    fault = _fault_of(answer, hide)
    if fault.code is None:  # Azure Storage says it there, and to a HEAD there alone
        fault = replace(fault, code=_show(answer.headers.get("x-ms-error-code"), _MAX_CODE, hide))
    if answer.status in _MEANINGS_OF_STATUS:  # most proxies and portals send a page with it
        said = filter(None, (_MEANINGS_OF_STATUS[answer.status], fault.description))
        fault = replace(fault, description=", with ".join(said))
    return HttpStatusError(
        f"the server answered {answer.status}{fault.words}",
        status=answer.status,
        code=fault.code,
        description=fault.description,
        data=fault.data,
        source=fault.source,
        retry_after_s=retry_after_s(answer.headers),
        is_page=fault.is_page,
        answer_id=answer_id_of(answer.headers),
    )


def answer_id_of(headers: Mapping[str, str]) -> str:
    """Return the id that Microsoft Graph or Azure Storage gave its answer, "" without one."""
    given = headers.get("request-id") or headers.get("x-ms-request-id") or ""
    return printable(given)[:_MAX_CODE]


def _target_of(answer: Answer) -> str:
    """Name the host that a redirect leads to; the rest of an address may hold a secret."""
    try:
        host = urlsplit(answer.headers.get("location", "")).hostname
    except ValueError:
        return ""
    if host:
        return f", to {printable(host)[:_MAX_WORDS]}"
    return ""


def read_or_blame(
    read: Callable[[bytes], T], content_type: str, hide: Callable[[str], str], body: bytes
) -> T:
    """Return what `read` makes of the body of a success.

    Raises ForeignPageError if the service did not send it, else the MalformedBodyError of `read`.
    """
    try:
        return read(body)
    except MalformedBodyError as error:
        stranger = recognize(body, content_type, hide=hide)
        if stranger is None:
            raise
        if stranger.is_empty:
            raise MalformedBodyError("the body is empty") from error
        raise ForeignPageError(f"the answer is {stranger}, and not JSON") from error


def refuse_page(answer: Answer, hide: Callable[[str], str]) -> None:
    """Raise ForeignPageError if a body whose content coding cannot be undone is a web page."""
    stranger = recognize(answer.wire_body, answer.headers.get("content-type", ""), hide=hide)
    if stranger is not None and stranger.is_page:
        raise ForeignPageError(f"the answer is {stranger}, and not JSON")


def _fault_of(answer: Answer, hide: Callable[[str], str]) -> _Fault:
    """Read an error body in any form that the service, or a proxy before it, sends."""
    head = _head_of(answer)
    content_type = answer.headers.get("content-type", "")
    stranger = recognize(head or answer.wire_body, content_type, hide=hide)
    if stranger is not None:
        is_marked = stranger.is_page or stranger.is_xml
        return _Fault(
            description=(str(stranger) if is_marked else stranger.quoted) or None,
            is_page=stranger.is_page,
        )
    if len(head) > _MAX_FAULT_BYTES:
        return _Fault()
    try:
        text = utf8_of(head).decode(errors="replace")
        text = text.replace("\0", "")  # UTF-16 without a mark, whose words nothing would recognise
    except BulkfetchError:
        return _Fault()
    try:
        said = orjson.loads(text)
    except ValueError:
        return _Fault(description=_quote(text, hide))
    fault = _read_fault(said, hide) if isinstance(said, dict) else _Fault()
    if fault != _Fault() or not said:
        return fault
    return _Fault(description=_quote(said, hide))


def _head_of(answer: Answer) -> bytes:
    """Return the body as far as it is looked at, and one byte more if it is longer."""
    most = _MAX_FAULT_BYTES + 1
    coding = answer.headers.get("content-encoding", "identity").strip(" \t").casefold()
    if coding in ("", "identity"):
        return answer.wire_body[:most]
    inflater = zlib.decompressobj(_GZIP)
    try:
        head = inflater.decompress(answer.wire_body, most)
    except zlib.error:  # it is damaged, or another coding
        return b""
    is_cut = not inflater.eof and len(head) < most
    if is_cut:
        return b""
    return head


def _read_fault(said: Mapping[str, Any], hide: Callable[[str], str]) -> _Fault:
    error = said.get("error")  # Entra sends a name here, newer services an object
    said = error if isinstance(error, dict) else {"code": error, **said}
    said = {name.casefold(): value for name, value in said.items()}
    description = said.get("description") or said.get("message") or said.get("error_description")
    data = said.get("data")
    listed = data if isinstance(data, list) else [data]
    return _Fault(
        code=_show(said.get("code"), _MAX_CODE, hide),
        description=_show(description, _MAX_WORDS, hide),
        data=tuple(
            filter(None, (_show(each, _MAX_WORDS // 3, hide) for each in listed[:_MAX_DATA]))
        ),
        source=_show(said.get("source"), _MAX_CODE, hide),
    )


def _show(value: Any, most: int, hide: Callable[[str], str]) -> str | None:
    """Return a value from the server as text that is safe to show.

    It is cut last: half of a credential would not be recognised.
    """
    if value in (None, ""):
        return None
    try:
        text = value if isinstance(value, str) else orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # nested too deeply
        return None
    text = hide(text)
    return printable(text[:_MAX_LOOKED_AT])[:most]


def _quote(value: Any, hide: Callable[[str], str]) -> str | None:
    shown = _show(value, 100, hide)
    if shown:
        return f'"{shown.strip()}"'
    return None


def needs_user(path: str) -> bool:
    """Return whether the service serves `path`, below the base URL, to an app with a user only.

    That is one invoice by its id, the account summaries, and documents. An app alone may read lists
    and line items.
    """
    return _USERS_ONLY.fullmatch(path) is not None


def lacks_user(error: BulkfetchError) -> bool:
    """Return whether a request was refused that an app alone may not make."""
    if not isinstance(error, HttpStatusError) or error.status not in (401, 403) or error.is_page:
        return False
    return error.facts is not None and needs_user(error.facts.path)


def advice(reason: str, status: int | None = None) -> str:
    """Return what the reader of an error can do, as a clause; "" if its message says it."""
    if status is None:
        return with_names(_ADVICE.get(reason, ""))
    if status == 408 or status >= 500:
        return f"{_AGAIN} later; {_SUPPORT}"
    return with_names(_ADVICE_BY_STATUS.get(status, _SUPPORT))


def advice_on(error: BulkfetchError) -> str:
    """Return the advice on an error, or on the request behind it."""
    cause = error if isinstance(error, RequestError) else error.__cause__
    if isinstance(cause, ProxyError):
        return cause.advice
    if isinstance(cause, HttpStatusError) and lacks_user(cause):
        return _NEEDS_USER
    if isinstance(cause, HttpStatusError) and cause.is_page and cause.status != _NEEDS_CREDENTIALS:
        if is_failing(cause) or is_throttled(cause):
            return _GATEWAY
        return _PORTAL
    if isinstance(cause, HttpStatusError):
        return advice(cause.reason, cause.status)
    return advice(cause.reason if isinstance(cause, RequestError) else error.reason)
