"""Secrets that tests give away, and the search for them in each way that they may be spelt."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from urllib.parse import quote, quote_plus, unquote

MARGIN = 4
"""Characters that base64 spells differently at the ends, by what stands beside them."""


def spellings_of(secret: str) -> Iterable[str]:
    """Yield each way in which a secret may be found in a text."""
    for each in {secret, unquote(secret)}:
        yield from (each, quote(each), quote(each, safe=""), quote_plus(each), quote(quote(each)))
        yield json.dumps(each)[1:-1]
        yield json.dumps(json.dumps(each))[3:-3]
        for form in ("\\u{:04x}", "\\u{:04X}", "%{:02x}", "%{:02X}", "&#{};"):
            yield "".join(form.format(ord(character)) for character in each)
        yield each.encode().hex()
        for shift in range(3):
            for encode in (base64.b64encode, base64.urlsafe_b64encode):
                yield encode(b"x" * shift + each.encode()).decode()[MARGIN:-MARGIN]


def found_of(secrets: Iterable[str], text: str) -> list[str]:
    """Return each spelling of a secret that is in a text, with what is around it."""
    found = []
    for secret in secrets:
        for spelling in set(spellings_of(secret)):
            place = text.find(spelling)
            if place >= 0:
                found.append(f"{spelling!r}: …{text[max(0, place - 300) : place + 300]!r}…")
    return found
