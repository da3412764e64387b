"""How a fault changes the stored bytes of a blob."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping

from bulkfetch.sandbox.breaking import cut
from bulkfetch.sandbox.faults import Fault

_MEMBERS = 5
Form = Callable[[bytes, Fault], bytes]


def unzipped(blob: bytes) -> bytes:
    """Return the rows of a blob as text."""
    return zlib.decompress(blob, 31)


def zipped(text: bytes) -> bytes:
    """Return text as one gzip member."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return packer.compress(text) + packer.flush()


def _text(change: Callable[[bytes], bytes]) -> Form:
    """Change the rows of a blob, as text."""
    return lambda blob, _fault: zipped(change(unzipped(blob)))


def _members(blob: bytes, _fault: Fault) -> bytes:
    text = unzipped(blob)
    step = max(1, len(text) // _MEMBERS)
    return b"".join(zipped(text[at : at + step]) for at in range(0, len(text), step))


def _blank_lines(text: bytes) -> bytes:
    return b"\n" + text.replace(b"\n", b"\n\n", 3) + b"\n"


def _without_last_row(text: bytes) -> bytes:
    return b"".join(line + b"\n" for line in text.split(b"\n")[:-2])


def _with_two_in_a_line(text: bytes) -> bytes:
    return text.replace(b"}\n{", b"} {", 1)


FORMS: Mapping[str, Form] = {
    "blob_cut": lambda blob, fault: cut(blob, fault.share),
    "blob_members": _members,
    "blob_trailing": lambda blob, _fault: blob + b"more of it",
    "blob_checksum": lambda blob, _fault: blob[:-8] + bytes(4) + blob[-4:],
    "blob_encoded": lambda blob, _fault: blob,
    "blob_unzipped": lambda blob, _fault: unzipped(blob),
    "blob_empty": lambda _blob, _fault: b"",
    "blob_without_rows": lambda _blob, _fault: zipped(b""),
    "blob_lost_row": _text(_without_last_row),
    "blob_cut_line": _text(lambda text: text[: max(len(text) - 20, 0)]),
    "blob_last_line": _text(lambda text: text.removesuffix(b"\n")),
    "blob_crlf": _text(lambda text: text.replace(b"\n", b"\r\n")),
    "blob_blank_lines": _text(_blank_lines),
    "blob_not_json": _text(lambda text: b"The service is busy.\n" + text),
    "blob_two_rows": _text(_with_two_in_a_line),
}
"""What the fault of each kind makes of a blob. Range and Content-Length are of what it makes."""
