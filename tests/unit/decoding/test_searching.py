from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.decoding.library import Library, Refusal, load
from bulkfetch.decoding.searching import has, has_escape, has_escape_by_parts

PLAIN = re.compile(rb"[A-Za-z0-9_%-]")
ESCAPE = re.compile(rb"(?:\\u00|%)([0-9A-Fa-f]{2})")
"""An escape of one byte; those of a text may overlap, as in `%%41`."""
PIECES = [
    b"\\",
    b"\\u00",
    b"\\u",
    b"%",
    b"4",
    b"1",
    b"F",
    b"f",
    b"2",
    b"5",
    b"d",
    b"D",
    b"\0",
    b"x",
]


@pytest.fixture(scope="module")
def library() -> Library:
    library = load()
    if isinstance(library, Refusal):
        pytest.skip(library.reason)
    return library


def escapes_plain(text: bytes) -> bool:
    """The same by a regular expression, at every place."""
    at_each = (ESCAPE.match(text, place) for place in range(len(text)))
    found = (match for match in at_each if match)
    return any(PLAIN.fullmatch(bytes([int(match[1], 16)])) for match in found)


@given(st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join))
def test_an_escape_that_needs_not_be_is_found_wherever_it_is(text: bytes) -> None:
    assert has_escape(text) == has_escape_by_parts(text) == escapes_plain(text)


@given(
    st.lists(st.sampled_from([b"ab", b"b", b"aaa", b"\0"]), max_size=60).map(b"".join), st.data()
)
def test_a_text_is_found_in_another_if_it_is_there(text: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    sought = text[start : data.draw(st.integers(start, len(text)))]
    assert has(text, sought)
    other = sought + data.draw(st.sampled_from([b"a", b"b", b"\0"]))
    assert has(text, other) == (other in text)


def test_the_library_is_asked(library: Library) -> None:
    """Without it, the tests above would compare Python with itself."""
    assert library.kernel_has(b"x secret", 8, b"secret", 6) == 1
    assert library.kernel_has(b"x secret", 7, b"secret", 6) == 0
    assert library.kernel_has_escape(b"a%41", 4) == 1
    assert library.kernel_has_escape(b"a%41", 3) == 0
