"""PDF documents of any size: a page of text, and random bytes that are not shown."""

from __future__ import annotations

from collections.abc import Sequence

from bulkfetch.sandbox.draws import Draws


def pdf(lines: Sequence[str], *, seed: int, padding: int = 0) -> bytes:
    """Return a document of one page with `lines`, and `padding` bytes that are not shown."""
    shown = "".join(f"({_escape(line)}) Tj T* " for line in lines)
    text = f"BT /F1 12 Tf 72 720 Td 16 TL {shown}ET".encode("latin-1", "replace")
    filling = (
        bytes.fromhex(Draws(seed, "pdf", *lines).guid().replace("-", "")) * (padding // 16 + 1)
    )[:padding]
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R "
        b"/Resources << /Font << /F1 "
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(text), text),
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(filling), filling),
    ]
    body, places = b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    count = len(objects) + 1
    start = b"xref\n0 %d\n0000000000 65535 f \n" % count
    trailer = b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n"
    return body + start + table + trailer % (count, len(body))


def _escape(line: str) -> str:
    return line.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")
