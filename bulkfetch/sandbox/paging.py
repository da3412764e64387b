"""Which rows a page holds and where its links lead: decisions on plain numbers, faults of paging
included."""

from __future__ import annotations

import base64
import hashlib
import struct
from dataclasses import dataclass

from bulkfetch.sandbox.options import SandboxOptions

_PLACE = struct.Struct(">QI")
_PROOF_BYTES = 16


@dataclass(frozen=True, slots=True)
class Place:
    """A size and an offset, as they stand in a link."""

    size: int
    offset: int


@dataclass(frozen=True, slots=True)
class Page:
    """A run of rows and its links. `self_link` is None when it repeats a request without a size."""

    start: int
    rows: int
    self_link: Place | None
    next_link: Place | None = None
    previous_link: Place | None = None


@dataclass(frozen=True, slots=True)
class PastEnd:
    """An offset after the last row, and the answer to it: `400`, `404` or `stall`."""

    answer: str


def plain_page(total: int, size: int, offset: int) -> Page:
    """A page as the recordings have it: the last has no `next`, the first no `previous`."""
    return Page(
        start=offset,
        rows=max(min(size, total - offset), 0),
        self_link=Place(size, offset),
        next_link=Place(size, offset + size) if offset + size < total else None,
        previous_link=Place(size, max(offset - size, 0)) if offset else None,
    )


def offset_page(
    total: int, size: int | None, offset: int, options: SandboxOptions
) -> Page | PastEnd:
    """Return the page of a legacy stream that was asked for, with the faults of the options."""
    used = (
        options.default_size if size is None or options.ignore_size else min(size, options.max_size)
    )
    if options.ignore_offset:
        return plain_page(total, used, 0)
    if offset and offset >= total:
        return _past_end(total, used, offset, options.past_end)
    page = plain_page(total, used, offset)
    if options.ignore_offset_echo:
        first = plain_page(total, used, 0)
        return Page(first.start, first.rows, page.self_link, page.next_link, page.previous_link)
    page = _shorten(page, total, used, options)
    if size is None and not offset:
        return Page(page.start, page.rows, None, page.next_link)
    return page


def _past_end(total: int, size: int, offset: int, answer: str) -> Page | PastEnd:
    if answer == "repeat":
        return plain_page(total, size, max(total - 1, 0) // size * size)
    if answer == "empty":
        return plain_page(total, size, offset)
    return PastEnd(answer)


def _shorten(page: Page, total: int, size: int, options: SandboxOptions) -> Page:
    number, inside = divmod(page.start, size)
    if inside or number not in (options.short_page, options.short_page_gap):
        return page
    rows = (page.rows + 1) // 2
    after = page.start + (size if number == options.short_page_gap else rows)
    following = Place(size, after) if after < total else None
    return Page(page.start, rows, page.self_link, following, page.previous_link)


def total_count(page_rows: int, total: int, options: SandboxOptions) -> int:
    """Return `totalCount`: the rows of this page, as in the API, unless an option changes it."""
    if options.lying_total:
        return max(total - 1, 0)
    if options.true_total:
        return total
    return page_rows


def write_token(seed: int, stream: str, place: Place) -> str:
    """The continuation token that leads to a place in a stream: opaque, in the documented shape."""
    packed = _PLACE.pack(place.offset, place.size)
    proof = _proof(seed, stream, packed)
    front = proof.hex()
    guid = f"{front[:8]}-{front[8:12]}-{front[12:16]}-{front[16:20]}-{front[20:]}"
    return f"{guid},{base64.b64encode(packed + proof).decode()}"


def read_token(seed: int, stream: str, token: str) -> Place | None:
    """The place a token leads to; None if it was not written for this stream."""
    try:
        raw = base64.b64decode(token.rpartition(",")[2], validate=True)
    except ValueError:
        return None
    if len(raw) != _PLACE.size + _PROOF_BYTES:
        return None
    offset, size = _PLACE.unpack(raw[: _PLACE.size])
    place = Place(size, offset)
    if write_token(seed, stream, place) == token:
        return place
    return None


def _proof(seed: int, stream: str, packed: bytes) -> bytes:
    return hashlib.blake2b(f"{seed}/{stream}/".encode() + packed, digest_size=_PROOF_BYTES).digest()
