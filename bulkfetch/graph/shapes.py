"""The shapes of what Microsoft Graph answers: names, and kinds of values, without any value.

No row of an export is public. A file of shapes tells the makers how real ones are spelled.
"""

from __future__ import annotations

import re
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio.to_thread
import orjson

from bulkfetch.billing.transfers import Transfer
from bulkfetch.decoding.jsontext import Json, Number, Pairs, loads, utf8_of
from bulkfetch.errors import BulkfetchError
from bulkfetch.graph.exports import Exports
from bulkfetch.graph.lines import read_pages
from bulkfetch.graph.source import FOLDER, chunks_of
from bulkfetch.graph.spool import Access, spool

_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_DATE = re.compile(r"[0-9]{1,4}[-/][0-9]{1,2}[-/][0-9]{1,4}([T ][0-9:.]+(Z|[-+][0-9:]+)?)?")
_WORDS = {
    *("notstarted", "running", "succeeded", "completed", "failed"),
    *("compressedjson", "compressedjsonlines", "default", "full", "basic"),
}
"""Words of the API itself, which are shown as they are."""
_REMOVED = frozenset({"sastoken"})
_PLAIN_NAME = re.compile(r"[A-Za-z@][\w@. -]{0,79}", re.ASCII)


async def find_shapes(exports: Exports, transfer: Transfer) -> dict[str, Any]:
    """Ask for an export, and return the shapes of its operation, its manifest and its first row.

    Raises TransferError and StorageError.
    """
    operations = exports.operations
    operation, manifest = await operations.export(transfer)
    said = await operations.ask_raw(transfer, operation.path)
    by_id = ""
    try:
        kept: Any = shape_of(loads(await operations.ask_raw_manifest(transfer, manifest.id)))
    except BulkfetchError as error:
        kept, by_id = None, type(error).__name__
    return {
        "line_item_type": transfer.line_item_type,
        "operation": shape_of(loads(utf8_of(said))),
        "manifest": kept,
        "manifest_refused": by_id,
        "blobs": len(manifest.blobs),
        "first_row": await _first_row(exports, exports.access_to(transfer, operation, manifest)),
    }


async def _first_row(exports: Exports, access: Access) -> Any:
    if not access.manifest.blobs:
        return None
    with tempfile.TemporaryDirectory(prefix=FOLDER) as folder:
        path = Path(folder) / "blob-0"
        await spool(access.manifest.blobs[0], path, access, exports.accounts.session)
        line = await anyio.to_thread.run_sync(_first_line, path)
    if line:
        return shape_of(loads(line))
    return None


def _first_line(path: Path) -> bytes:
    with closing(read_pages(chunks_of(path))) as pages:
        return next(pages, b"").partition(b"\n")[0]


def shape_of(value: Json) -> Any:
    """Return the shape of a value of JSON: names of fields, and what kind each value is.

    Of numbers and dates it is the spelling, with 0 for each digit. Of lists it is the first entry.
    """
    if isinstance(value, Pairs):
        return {_name(key): _shape_of_field(key, inner) for key, inner in value}
    if isinstance(value, list):
        if not value:
            return ["of none"]
        return [f"of {len(value):,}", shape_of(value[0])]
    if isinstance(value, Number):
        return f"number {_picture(str(value))}"
    if isinstance(value, str):
        return _shape_of_text(value)
    return {None: "null", True: "true", False: "false"}[value]


def _shape_of_field(key: str, value: Json) -> Any:
    if key.casefold() in _REMOVED:
        return "removed"
    return shape_of(value)


def _shape_of_text(text: str) -> str:
    if not text:
        return "empty text"
    if text.casefold() in _WORDS:
        return f"text {text}"
    if _NUMBER.fullmatch(text) or _DATE.fullmatch(text):
        return f"text {_picture(text)}"
    if text[0] in "[{":
        return "text that begins like JSON"
    return "text"


def _name(key: str) -> str:
    """Return the name of a field, unless it could be a value."""
    if _PLAIN_NAME.fullmatch(key):
        return key
    return "a name of other characters"


def _picture(text: str) -> str:
    return re.sub("[0-9]", "0", text)


def write_shapes(file: Path, shapes: dict[str, Any]) -> None:
    """Write shapes as JSON. Blocks. Raises OSError."""
    file.write_bytes(orjson.dumps(shapes, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
