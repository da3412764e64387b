"""The kernel for tests: it is there, or the tests of it are skipped or fail, as they were told."""

from __future__ import annotations

import os

import pytest

from bulkfetch.decoding.columns import columns_of
from bulkfetch.decoding.envelope import envelope_of
from bulkfetch.decoding.fields import UNDECLARED, LineItemSchema
from bulkfetch.decoding.jsontext import Json
from bulkfetch.decoding.kernel import Decoded, Kernel
from bulkfetch.decoding.library import Refusal, load
from bulkfetch.decoding.pages import PageDecoder, items_of_lines, page_of


def kernel_of(schema: LineItemSchema) -> Kernel:
    """Return the kernel with a schema. Without one the test is skipped, or fails where
    BULKFETCH_KERNEL is `require`."""
    library = load()
    if isinstance(library, Refusal):
        if os.environ.get("BULKFETCH_KERNEL") == "require":
            pytest.fail(library.reason)
        pytest.skip(f"{library.reason}; `pip install -e .` builds it")
    return Kernel(library, schema)


def reason_or_same(kernel: Kernel, text: bytes, schema: LineItemSchema) -> str | None:
    """Return why the kernel refuses a page, or None, having checked that it gives what the exact
    way does."""
    decoded = kernel.decode_page(text)
    if isinstance(decoded, Refusal):
        assert 0 <= decoded.at <= len(text)
        return decoded.reason
    top, items = page_of(text)
    around = text[: decoded.items_start] + b"[]" + text[decoded.items_end :]
    assert page_of(around) == (top, [])
    assert envelope_of(page_of(around)[0]) == envelope_of(top)
    _assert_same(decoded, items, schema)
    return None


def reason_or_same_lines(kernel: Kernel, text: bytes, schema: LineItemSchema) -> str | None:
    """The same of JSON lines."""
    decoded = kernel.decode_lines(text)
    if isinstance(decoded, Refusal):
        return decoded.reason
    _assert_same(decoded, items_of_lines(text), schema)
    return None


def _assert_same(decoded: Decoded, items: list[Json], schema: LineItemSchema) -> None:
    if schema is UNDECLARED:
        exact = PageDecoder("D1", schema).page(items).columns
    else:  # the kernel itself takes one spelling of each name
        exact = columns_of(items, schema.fields, null_fits=schema.null_fits)
    assert decoded.rows == len(items)
    for field, ours, theirs in zip(
        schema.fields, decoded.columns.arrays, exact.arrays, strict=True
    ):
        ours.validate(full=True)
        assert ours.type == theirs.type, field
        assert ours.null_count == theirs.null_count, field
        assert ours.equals(theirs), field
    assert decoded.columns.rescued.equals(exact.rescued)
    assert decoded.columns.rescues == exact.rescues
