"""What a refusal of an object store means, and what to do."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bulkfetch.words import printable

REFUSED = (401, 403, 501)
NO_CONTAINER = (
    "NoSuchBucket",
    "ContainerNotFound",
    "FilesystemNotFound",
    "ResourceNotFound",
    "WorkspaceNotFound",
)
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([^<]{1,80})</Code>")
_MESSAGE = re.compile(r"<Message>([^<\n]{1,400})")
_PROVIDER = re.compile(r"External \w+ credential provider: (?:\w+: )?(.*)")
_HOST = re.compile(r"https?://([^/\s?#]+)")
_CAUSES = {
    "dns error": "there is no host of that name",
    "ConnectionRefused": "the connection is refused",
    "UnknownIssuer": "its certificate is not one to be trusted",
    "invalid peer certificate": "its certificate is not one to be trusted",
    "TimedOut": "it does not answer in time",
    "timed out": "it does not answer in time",
    "body error": "its answer breaks off",
    "ConnectionReset": "the connection breaks off",
    "IncompleteMessage": "the connection breaks off",
}
"""What stands in the text of an error, the first that does, and what it means."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a request, in the words of the store where it has said something."""

    text: str
    status: int | None = None
    code: str = ""

    @property
    def is_final(self) -> bool:
        """Whether the same request would be refused again."""
        is_refused = self.status is not None and 400 <= self.status < 500
        return is_refused and self.status not in (408, 429) and self.code != "RequestTimeout"

    def advice(self, verb: str) -> str:
        """Say what the reader can do, if that is known."""
        if self.code in _ADVICE:
            return _ADVICE[self.code]
        if self.status in (401, 403):
            return f"the credentials need the right to {verb} objects there; the page of the cloud in docs/ lists them"
        return _ADVICE_BY_STATUS.get(self.status or 0, "")

    def __str__(self) -> str:
        return self.text


_EXPIRED = "the credentials have expired: sign in again, or give newer ones, and run the same command again"
_ADVICE = {
    "InvalidAccessKeyId": "the access key id is not known there: is it that of another account, or server?",
    "SignatureDoesNotMatch": "the secret key does not go with its id, or something in between changes requests",
    "AuthenticationFailed": "the key or SAS is wrong or has expired, or the clock of this machine is off",
    "InvalidAuthenticationInfo": _EXPIRED,
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "RequestTimeTooSkewed": "the clock of this machine is off: set it",
    "AuthorizationPermissionMismatch": "give the identity the role Storage Blob Data Contributor (docs/azure.md)",
    "PermanentRedirect": "the bucket is in another region: give storage_region",
    "AuthorizationHeaderMalformed": "the bucket is in another region: give storage_region",
    "NotImplemented": "this server lacks conditional writes (If-Match, If-None-Match), which keep two runs apart",
    "BlobImmutableDueToPolicy": "a policy makes what is there immutable; an archive has to replace and delete",
}
_ADVICE_BY_STATUS = {
    301: "the bucket is in another region: give storage_region",
    501: _ADVICE["NotImplemented"],
}


def problem_of(error: BaseException) -> Problem:
    """Find the words for an error of obstore, whose own text holds whole addresses and answers."""
    text = str(error)
    status, code, message = _STATUS.search(text), _CODE.search(text), _MESSAGE.search(text)
    if (refusal := _PROVIDER.search(text)) is not None:  # ours, which ask the cloud's own library
        return Problem(
            printable(f"the credentials cannot be renewed ({refusal[1][:300]})"),
            401,
            "ExpiredToken",
        )
    if status is None:
        host = _HOST.search(text)
        cause = next(
            (words for mark, words in _CAUSES.items() if mark in text), "it does not answer"
        )
        return Problem(printable(f"{host[1] if host else 'the store'} cannot be used: {cause}"))
    words = " ".join(each[1] for each in (code, message) if each)
    return Problem(
        printable(f"the store answers {status[1]}{f' {words}' if words else ''}"),
        int(status[1]),
        code[1] if code else "",
    )
