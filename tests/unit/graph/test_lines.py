"""Lines of zipped files: counted and cut, however the bytes come."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkfetch.errors import MalformedBodyError
from bulkfetch.graph import lines as lines_module
from bulkfetch.graph.lines import LineCount, Unzipper, read_pages

TEXTS = st.lists(
    st.sampled_from(
        [
            b'{"a":1}',
            b'{"b":"\xe2\x80\xa8 no line end \xc2\x85"}',
            b"",
            b" \t",
            b'{"c":"' + bytes(range(97, 123)) * 40 + b'"}',
        ]
    ),
    max_size=30,
)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\n \t\r\n"])


@st.composite
def files(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A text of lines, and a file of it: gzip of some members, or the text itself."""
    text = b"".join(line + draw(ENDS) for line in draw(TEXTS))
    if draw(st.booleans()):
        text = text.rstrip(b"\n")
    if draw(st.integers(0, 4)) == 0 and not text.startswith(b"\x1f\x8b"):
        return text, text
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
    members = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    zipped = b"".join(gzip.compress(each, mtime=0) for each in members)
    return text, zipped + bytes(draw(st.sampled_from([0, 1, 3, 512])))


def chunks_of(data: bytes, size: int) -> Iterator[bytes]:
    yield from (data[at : at + size] for at in range(0, len(data), size))


def rows_of(text: bytes) -> list[bytes]:
    """What counts as a row, worked out in another way."""
    return [line.strip() for line in text.split(b"\n") if line.strip()]


def unzip(data: bytes, size: int) -> bytes:
    unzipper = Unzipper()
    text = b"".join(b"".join(unzipper.feed(chunk)) for chunk in chunks_of(data, size))
    return text + unzipper.finish()


@given(files(), st.sampled_from([1, 2, 3, 7, 64, 100_000]))
def test_a_file_is_unzipped_whatever_its_members_and_the_chunks_it_comes_in(
    file: tuple[bytes, bytes], size: int
) -> None:
    text, zipped = file
    assert unzip(zipped, size) == text


@given(files(), st.sampled_from([1, 3, 64, 100_000]))
def test_lines_are_counted_but_blank_ones(file: tuple[bytes, bytes], size: int) -> None:
    text, zipped = file
    count = LineCount()
    for chunk in chunks_of(zipped, size):
        count.feed(chunk)
    count.finish()
    rows = rows_of(text)
    assert count.lines == len(rows)


@settings(max_examples=60)
@given(files(), st.integers(10, 300), st.data())
def test_pages_have_all_lines_and_begin_again_at_any_of_their_starts(
    file: tuple[bytes, bytes], page_bytes: int, data: st.DataObject
) -> None:
    text, zipped = file
    size = data.draw(st.sampled_from([1, 5, 1000]))
    before, lines_module.PAGE_BYTES = lines_module.PAGE_BYTES, page_bytes
    try:
        pages = list(read_pages(chunks_of(zipped, size)))
        assert rows_of(b"".join(pages)) == rows_of(text)
        assert all(page.endswith(b"\n") and len(page) >= page_bytes for page in pages[:-1])
        assert all(map(rows_of, pages))
        counts = [len(rows_of(page)) for page in pages]
        for number in range(1, len(pages)):
            again = list(read_pages(chunks_of(zipped, 1000), skipped=sum(counts[:number])))
            assert list(map(rows_of, again)) == list(map(rows_of, pages[number:]))
    finally:
        lines_module.PAGE_BYTES = before


ROWS = b'{"a":1}\n' * 1000 + b'{"a":2}'
ZIPPED = gzip.compress(ROWS, mtime=0)


def count_of(data: bytes, size: int = 50) -> LineCount:
    count = LineCount()
    for chunk in chunks_of(data, size):
        count.feed(chunk)
    count.finish()
    return count


@pytest.mark.parametrize("end", range(1, len(ZIPPED)))
def test_a_cut_gzip_file_is_noticed_wherever_the_cut_is(end: int) -> None:
    with pytest.raises(MalformedBodyError, match="cut"):
        count_of(ZIPPED[:end])
    with pytest.raises(MalformedBodyError, match="cut"):
        count_of(ZIPPED + ZIPPED[:end])


@pytest.mark.parametrize("at", range(10, len(ZIPPED)))
def test_a_changed_byte_is_noticed(at: int) -> None:
    damaged = bytearray(ZIPPED)
    damaged[at] ^= 0xFF
    with pytest.raises(MalformedBodyError):
        count_of(bytes(damaged))


@pytest.mark.parametrize("behind", [b"more", b"\0\0x", b"{", b"\x1f\x8c"])
def test_other_data_behind_the_end_is_noticed(behind: bytes) -> None:
    for size in (1, 50, 10_000):
        with pytest.raises(MalformedBodyError, match="behind its end"):
            count_of(ZIPPED + behind, size)


def test_an_empty_file_has_no_lines_and_a_file_without_lines_neither() -> None:
    for data in (b"", gzip.compress(b""), b"\n\r\n", gzip.compress(b" \n\n")):
        assert count_of(data).lines == 0


def test_a_cut_last_line_is_an_error_and_a_missing_line_end_is_not() -> None:
    assert count_of(ZIPPED).lines == 1001
    for cut in (ROWS[:-1], ROWS[:-3], ROWS[:-6]):
        with pytest.raises(MalformedBodyError, match="the last line is cut"):
            count_of(gzip.compress(cut))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (b'{"a":1}\r\n{"a":2}\r\n', 2),
        (b' {"a":1} \t\r\n \t\r\n{"a":2}', 2),
        (b'\n\n{"a":1}\n\n', 1),
        (b'\xef\xbb\xbf{"a":1}\n{"a":2}', 2),
        (b'{"a":"\xe2\x80\xa8"}\n', 1),
    ],
)
def test_lines_are_counted_the_same_in_pieces_of_any_size(
    text: bytes, lines: int, size: int
) -> None:
    assert count_of(text, size).lines == lines


def test_counting_keeps_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = [b'{"a":"', *[b"x" * (1 << 16)] * 640, b'"}']
    count = LineCount()
    tracemalloc.start()
    try:
        for piece in pieces:
            count.feed(piece)
        count.finish()
        assert count.lines == 1
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    monkeypatch.setattr(lines_module, "_MAX_LINE_BYTES", 1000)
    for text in (b"x" * 1200, b"x" * 1200 + b"}\n", b'{"a":1}\n' + b"y" * 1200):
        with pytest.raises(MalformedBodyError, match="a line is longer than 1000 bytes"):
            count_of(text, 100)


def test_a_byte_order_mark_is_left_out() -> None:
    text = b"\xef\xbb\xbf" + ROWS
    assert count_of(gzip.compress(text)).lines == count_of(ZIPPED).lines
    assert b"".join(read_pages([gzip.compress(text)])) == ROWS


@pytest.mark.slow
def test_a_file_that_expands_without_end_takes_little_memory() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = packer.compress(bytes(200 << 20)) + packer.flush()
    with pytest.raises(MalformedBodyError, match="a line is longer than"):
        count_of(bomb, 1 << 16)
