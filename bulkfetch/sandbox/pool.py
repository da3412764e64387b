"""A thousand rendered rows, from which any page is put together without rendering a row again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import accumulate

from bulkfetch.sandbox.line_items import ROW_DIGITS, RowStyle, RowTemplate, row_template

POOL_ROWS = 997
"""A prime, so that line items rarely come in whole rounds, and two invoices rarely cost the
same."""

_LOW_DIGITS = 4
_LOW_END = 10**_LOW_DIGITS
# stands for the place of the row number; JSON text escapes it, so it is nowhere else
_ROW = b"\0"


class TemplatePool:
    """The rows of one kind with their places still open, and what any run of them adds up to.

    `separator` stands between two rows: a comma in a JSON array, a line end in JSON lines.
    """

    def __init__(self, templates: Sequence[RowTemplate], separator: str = ",") -> None:
        circle = separator.join(template.text for template in templates)
        head, circle = circle.split("<row>", 1)
        circle = f"{circle}{separator}{head}".replace("<row>", _ROW.decode())
        self._texts = [part.encode() for part in re.split(r"<\w+>", circle)]
        self._places = re.findall(r"<(\w+)>", circle)
        self._sums = tuple(accumulate((template.cents for template in templates), initial=0))

    def filled(self, places: Mapping[str, bytes]) -> list[bytes]:
        """What stands between the number of each row and that of the next; the first follows the
        last."""
        pieces = [b""] * (2 * len(self._texts) - 1)
        pieces[0::2] = self._texts
        pieces[1::2] = [places[place] for place in self._places]
        return b"".join(pieces).split(_ROW)

    def cents(self, shift: int, count: int) -> int:
        """The sum of `count` rows from the row at `shift` on, going round as often as it takes."""
        return self._cents_before(shift + count) - self._cents_before(shift)

    def _cents_before(self, row: int) -> int:
        rounds, rest = divmod(row, len(self._sums) - 1)
        return rounds * self._sums[-1] + self._sums[rest]


@cache
def template_pool(seed: int, kind: str, style: RowStyle) -> TemplatePool:
    """The pool of one kind of rows; there are a handful for a whole tenant."""
    return TemplatePool([row_template(seed, kind, style, index) for index in range(POOL_ROWS)])


class RowPool:
    """The rows of one invoice, open only where the number of the row goes."""

    def __init__(self, joints: list[bytes], shift: int, separator: str = ",") -> None:
        self._joints = joints
        self._shift = shift
        self._between = f"}}{separator}{{".encode()

    def pieces(self, start: int, count: int) -> list[bytes]:
        """The text of `count` rows from `start` on, separators between them, in pieces to be
        joined."""
        if not count:
            return []
        size = len(self._joints)
        first = (self._shift + start) % size
        rounds = (first + count - 1) // size + 1
        pieces = [b""] * (3 * count)
        pieces[0::3], pieces[1::3] = row_numbers(start, count)
        pieces[2::3] = (self._joints * rounds)[first : first + count]
        pieces[-1] = self._cut(pieces[-1])[0]
        pieces.insert(0, self._cut(self._joints[first - 1])[1])
        return pieces

    def _cut(self, joint: bytes) -> tuple[bytes, bytes]:
        """The end of one row, and the beginning of the next."""
        end = joint.rindex(self._between) + 1
        return joint[:end], joint[end + 1 :]


def row_numbers(start: int, count: int) -> tuple[list[bytes], list[bytes]]:
    """Return the digits of `count` row numbers from `start` on: the high ones, and the low ones."""
    highs: list[bytes] = []
    lows: list[bytes] = []
    while count:
        high, low = divmod(start, _LOW_END)
        run = min(count, _LOW_END - low)
        highs += [b"%0*d" % (ROW_DIGITS - _LOW_DIGITS, high)] * run
        lows += _low_digits()[low : low + run]
        start, count = start + run, count - run
    return highs, lows


@cache
def _low_digits() -> list[bytes]:
    return [b"%0*d" % (_LOW_DIGITS, number) for number in range(_LOW_END)]
