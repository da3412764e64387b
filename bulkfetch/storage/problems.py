"""What an error of an object store means, and what the reader can do about it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bulkfetch.logguard import hide_known
from bulkfetch.strangers import recognize
from bulkfetch.words import printable

REFUSED = (401, 403, 501)
"""Statuses of a request that would be refused again."""
NO_CONTAINER = (
    "NoSuchBucket",
    "ContainerNotFound",
    "FilesystemNotFound",
    "ResourceNotFound",
    "WorkspaceNotFound",
)
"""Error codes of S3, Azure and OneLake for a bucket or container that does not exist."""
_STATUS = re.compile(r"status code: (\d{3})")
_BODY = re.compile(r"status code: \d{3}[^:<\n]{0,60}: (.{1,60000})", re.DOTALL)
_CODE = re.compile(r"<Code>([^<]{1,80})</Code>")
_MESSAGE = re.compile(r"<Message>([^<\n]{1,400})")
_PROVIDER = re.compile(r"External \w+ credential provider: (?:\w+: )?(.*)")
_HOST = re.compile(r"https?://([^/\s?#]+)")
_SEE_PROXY = "`bulkfetch config` shows which proxy it is"
_CAUSES = {
    "ProxyAuthRequired": f"its proxy refuses the credentials, or wants some (407); {_SEE_PROXY}",
    "TunnelUnsuccessful": f"its proxy does not connect to it; {_SEE_PROXY}",
    "TunnelUnexpectedEof": f"its proxy closes the connection; {_SEE_PROXY}",
    "ConnectFailed(": f"its proxy cannot be reached; {_SEE_PROXY}",
    "MissingEtag": "its answer is not that of a store: is a proxy or portal between?",
    "dns error": "no host has that name",
    "ConnectionRefused": "the connection is refused",
    "UnknownIssuer": "its certificate is not trusted",
    "invalid peer certificate": "its certificate is not trusted",
    "TimedOut": "it does not answer in time",
    "timed out": "it does not answer in time",
    "body error": "its answer breaks off",
    "ConnectionReset": "the connection breaks off",
    "IncompleteMessage": "the connection breaks off",
}
"""Texts of errors without an answer, and what they mean; the first that matches counts."""
_EXPIRED = (
    "the credentials have expired: sign in again, or give new ones, and run the same command again"
)
_OTHER_REGION = "the bucket is in another region: give storage_region"
_NO_CONDITIONS = (
    "this server lacks conditional writes (If-Match, If-None-Match), which keep two runs apart"
)
_PORTAL = (
    "something between this machine and the store answered: sign in to the network in a browser, "
    "or check the proxy and storage_endpoint (`bulkfetch config` shows both)"
)
_ADVICE = {
    "InvalidAccessKeyId": (
        "the store does not know this access key id: is it from another account or server?"
    ),
    "SignatureDoesNotMatch": (
        "the secret key does not belong to its id, or a proxy in between changes requests"
    ),
    "AuthenticationFailed": (
        "the key or SAS is wrong or has expired, or the clock of this machine is wrong"
    ),
    "InvalidAuthenticationInfo": _EXPIRED,
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "RequestTimeTooSkewed": "the clock of this machine is wrong: set it",
    "AuthorizationPermissionMismatch": (
        "give the identity the role Storage Blob Data Contributor (docs/azure.md)"
    ),
    "PermanentRedirect": _OTHER_REGION,
    "AuthorizationHeaderMalformed": _OTHER_REGION,
    "NotImplemented": _NO_CONDITIONS,
    "BlobImmutableDueToPolicy": (
        "a policy makes the stored objects immutable; an archive must replace and delete some"
    ),
}
_ADVICE_BY_STATUS = {
    407: f"a proxy wants other credentials; {_SEE_PROXY}",
    301: _OTHER_REGION,
    501: _NO_CONDITIONS,
}


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a request failed, in the words of the store if it answered."""

    text: str
    status: int | None = None
    code: str = ""
    is_page: bool = False
    """Whether the answer is a web page: then it is not the store that gave it."""

    @property
    def is_final(self) -> bool:
        """Whether the same request would be refused again."""
        is_refused = self.status is not None and 400 <= self.status < 500
        return is_refused and self.status not in (408, 429) and self.code != "RequestTimeout"

    def advice(self, verb: str) -> str:
        """Return what the reader can do, or "" if that is not known."""
        if self.is_page:
            return _PORTAL
        if self.code in _ADVICE:
            return _ADVICE[self.code]
        if self.status in (401, 403):
            return (
                f"the credentials need permission to {verb} objects there; the cloud's page in "
                "docs/ lists the permissions"
            )
        return _ADVICE_BY_STATUS.get(self.status or 0, "")

    def __str__(self) -> str:
        return self.text


def problem_of(error: BaseException) -> Problem:
    """Describe an error of obstore, whose own text holds whole addresses and answers.

    What a store repeats of credentials is hidden.
    """
    text = hide_known(str(error))
    status, code, message = _STATUS.search(text), _CODE.search(text), _MESSAGE.search(text)
    if (refusal := _PROVIDER.search(text)) is not None:
        # raised by a credential provider of ours, which asks the cloud's own library
        words = printable(f"the credentials cannot be renewed ({refusal[1][:300]})")
        return Problem(words, 401, "ExpiredToken")
    if status is None:
        host = _HOST.search(text)
        causes = (words for mark, words in _CAUSES.items() if mark in text)
        cause = next(causes, "it does not answer")
        return Problem(printable(f"{host[1] if host else 'the store'} cannot be used: {cause}"))
    body = _BODY.search(text)
    stranger = recognize(body[1].encode(), hide=hide_known) if body else None
    if stranger is not None and stranger.is_page:
        words = printable(f"the store answers {status[1]}: {stranger}")
        return Problem(words, int(status[1]), is_page=True)
    words = " ".join([status[1], *(each[1] for each in (code, message) if each)])
    return Problem(printable(f"the store answers {words}"), int(status[1]), code[1] if code else "")
