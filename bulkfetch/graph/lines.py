"""The lines of an export's files: unzipped piece by piece, counted, and cut into pages."""

from __future__ import annotations

import codecs
from collections.abc import Generator, Iterable, Iterator

from isal import isal_zlib

from bulkfetch.errors import MalformedBodyError

PAGE_BYTES = 4 << 20
"""How much text a page has at least, if it is not the last one of its file."""
_PIECE_BYTES = 256 << 10
READ_BYTES = 256 << 10
"""How much of a file is read at once."""
_MAX_LINE_BYTES = 64 << 20
_GZIP = 31  # zlib's name for: a gzip header, a trailing checksum, the largest window
_MAGIC = b"\x1f\x8b"
_BLANK = b" \t\r"
(_OPENING,) = b"{"


class Unzipper:
    """Undoes gzip in pieces, so that neither a file nor its text is in memory as a whole.

    A file may have any number of gzip members, and zeros behind the last one. It may also be text
    already, where some layer on the way has unzipped it. A byte-order mark is left out.
    """

    def __init__(self) -> None:
        self._inflater: isal_zlib.Decompress | None = None
        """Undoes the member that has begun and not ended."""
        self._members = 0
        self._is_text = False
        self._held = b""
        """A byte between two members that does not tell yet what follows."""
        self._start: bytes | None = b""
        """The start of the text, while it may be part of a byte-order mark."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the text of the next bytes. Raises MalformedBodyError if they are damaged."""
        for piece in self._unzip(data):
            if self._start is None:
                yield piece
                continue
            self._start += piece
            if not codecs.BOM_UTF8.startswith(self._start) or self._start == codecs.BOM_UTF8:
                text, self._start = self._start.removeprefix(codecs.BOM_UTF8), None
                yield text

    def _unzip(self, data: bytes) -> Iterator[bytes]:
        data, self._held = self._held + data, b""
        while data:
            if self._inflater is None and not self._is_text and not self._begins(data):
                return
            if self._is_text:
                yield data
                return
            yield from self._inflate(data)
            data = self._take_rest()

    def finish(self) -> bytes:
        """Return the text that is left. Raises MalformedBodyError if the file is cut."""
        if self._inflater is not None or self._held == _MAGIC[:1]:
            raise MalformedBodyError("the gzip file is cut")
        start = self._start or b""
        if self._members:
            self._check_padding(self._held)
            return start
        return start + self._held

    def _begins(self, data: bytes) -> bool:
        """Return whether a member, or the text, begins with `data`."""
        if len(data) < len(_MAGIC):
            self._held = data
        elif data.startswith(_MAGIC):
            self._inflater = isal_zlib.decompressobj(wbits=_GZIP)
        elif self._members:
            self._check_padding(data)
        else:
            self._is_text = True
        return self._inflater is not None or self._is_text

    def _check_padding(self, data: bytes) -> None:
        if data.strip(b"\0"):
            raise MalformedBodyError("the gzip file has other data behind its end")

    def _inflate(self, data: bytes) -> Iterator[bytes]:
        inflater = self._inflater
        while inflater is not None and not inflater.eof:
            try:
                piece = inflater.decompress(data, _PIECE_BYTES)
            # the stubs of isal declare its exception as an int
            except isal_zlib.error as error:  # type: ignore[misc]
                raise MalformedBodyError(f"the gzip file is damaged ({error})") from error
            yield piece
            data = inflater.unconsumed_tail
            if not data and len(piece) < _PIECE_BYTES:
                return

    def _take_rest(self) -> bytes:
        """Return what is behind the member, if it has ended."""
        inflater = self._inflater
        if inflater is None or not inflater.eof:
            return b""
        self._inflater = None
        self._members += 1
        return bytes(inflater.unused_data)


class LineCount:
    """Counts the lines of a file as it comes, blank ones aside, and keeps none of them."""

    def __init__(self) -> None:
        self.lines = 0
        self._unzipper = Unzipper()
        self._length = 0
        """How long the line is that has not ended yet."""
        self._last = b""
        """Its last byte so far that is not blank."""

    def feed(self, data: bytes) -> None:
        """Count the lines of the next bytes. Raises MalformedBodyError if they are damaged."""
        for piece in self._unzipper.feed(data):
            self._count(piece)

    def finish(self) -> None:
        """Count the last line. Raises MalformedBodyError if the file or that line is cut."""
        self._count(self._unzipper.finish())
        if self._last not in (b"", b"}"):
            raise MalformedBodyError("the last line is cut")
        self._count(b"\n")

    def _count(self, text: bytes) -> None:
        """Count the lines that end in a text."""
        start = lines = 0
        while (end := text.find(b"\n", start)) >= 0:
            # nearly all lines begin so, and need no copy to be known as not blank
            if text[start] == _OPENING or self._last or text[start:end].strip(_BLANK):
                lines += 1
            if self._last:
                self._last = b""
            start = end + 1
        self.lines += lines
        rest = text[start:]
        self._length = len(rest) + (0 if start else self._length)
        self._last = rest.rstrip(_BLANK)[-1:] or self._last
        if self._length > _MAX_LINE_BYTES:
            raise MalformedBodyError(f"a line is longer than {_MAX_LINE_BYTES} bytes")


def read_pages(chunks: Iterable[bytes], *, skipped: int = 0) -> Generator[bytes, None, None]:
    """Yield the text of a file as pages of whole lines, from the line behind `skipped` ones on.

    A page that begins at the same line is the same. Blank lines do not count, and none begins a
    page.
    """
    texts = _texts_of(chunks)
    page: list[bytes] = []
    size = 0
    for text in _behind(texts, skipped) if skipped else texts:
        rest = text
        while rest := rest if size else rest.lstrip(_BLANK + b"\n"):
            end = rest.find(b"\n", max(0, PAGE_BYTES - size - 1)) + 1
            page.append(rest[:end] if end else rest)
            size += len(page[-1])
            rest = rest[end:] if end else b""
            if end:
                yield b"".join(page)
                page, size = [], 0
    if size:
        yield b"".join(page)


def _texts_of(chunks: Iterable[bytes]) -> Iterator[bytes]:
    unzipper = Unzipper()
    for chunk in chunks:
        yield from unzipper.feed(chunk)
    yield unzipper.finish()


def _behind(texts: Iterable[bytes], skipped: int) -> Iterator[bytes]:
    """Yield the text behind so many lines."""
    rest = b""
    for text in texts:
        if not skipped:
            yield text
            continue
        lines, end, rest = (rest + text).rpartition(b"\n")
        skipped, behind = _skip(lines + end, skipped)
        if not skipped:
            yield behind + rest


def _skip(lines: bytes, count: int) -> tuple[int, bytes]:
    """Return how many lines are still to be skipped, and the text behind those that were."""
    if not count:
        return 0, lines
    start = 0
    while count and start < len(lines):
        end = lines.find(b"\n", start) + 1 or len(lines)
        count -= bool(lines[start:end].strip(_BLANK + b"\n"))
        start = end
    return count, lines[start:]
