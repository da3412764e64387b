"""What Graph can export of a tenant: rows, cut into blobs, in one generation after the other.

The billed rows of an invoice charge what those of the invoice API charge: its header agrees with
both.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from isal import isal_zlib

from bulkfetch.sandbox.draws import Draws
from bulkfetch.sandbox.graph.options import GraphOptions
from bulkfetch.sandbox.graph.rows import line_pool
from bulkfetch.sandbox.line_items import RowStyle
from bulkfetch.sandbox.pool import POOL_ROWS, RowPool
from bulkfetch.sandbox.tenant import LEGACY, Invoice, Tenant

CACHED_BYTES = 1 << 30
SEGMENT_ROWS = 2000
"""How many rows are made and compressed at once."""
_V1_PERIODS = {"current": "current", "last": "previous"}
_CHARGING, _EXPLAINING = "billing_line_items", "usage_line_items"
_DETAIL_TYPES = {"reconciliation": _CHARGING, "usage": _EXPLAINING}


@dataclass(frozen=True, slots=True)
class Export:
    """What is exported: `usage/billed/G000700111`, or `reconciliation/unbilled/current/EUR`."""

    line_item_type: str
    subject: str
    attribute_set: str = "full"

    @property
    def name(self) -> str:
        """Its name, whichever attributes it has."""
        return f"{self.line_item_type}/{self.subject}"

    @property
    def is_billed(self) -> bool:
        """Whether its rows are on an invoice."""
        return self.subject.startswith("billed/")


@dataclass(frozen=True, slots=True)
class Generation:
    """Which of the data of one export are meant: they can be made anew."""

    number: int = 0
    """Counts the eTags."""
    rows: int = 0
    """Counts the times that rows changed."""
    split: int = 0
    """Counts the times that order and blobs changed."""
    names: int = 0
    """Counts the names of blobs."""
    is_kept: bool = False
    """Whether its blobs stay when newer ones are made."""

    def renewed(self, change: str) -> Generation:
        """Return the generation after this one."""
        more = {
            "rows": ("number", "rows", "names"),
            "split": ("number", "split", "names"),
            "in_place": ("number", "rows"),
            "beside": ("number", "rows", "names"),
            "contradiction": ("split", "names"),
        }[change]
        return replace(self, is_kept=False, **{name: getattr(self, name) + 1 for name in more})


@dataclass(frozen=True, slots=True)
class Drawn:
    """The rows of one export: runs of the pool, each from a row on, and so many."""

    invoice: Invoice
    runs: tuple[tuple[int, int], ...]

    @property
    def count(self) -> int:
        """How many rows it has."""
        return sum(count for _, count in self.runs)


@dataclass(frozen=True, slots=True)
class BlobName:
    """One blob of one generation: its name, and the rows that it has."""

    name: str
    start: int
    end: int


class Exports:
    """Every export of one tenant. The same options give the same bytes."""

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant
        self._options: GraphOptions = tenant.options.graph
        self._generations: dict[str, list[Generation]] = defaultdict(lambda: [Generation()])
        self._blobs = _Cache()

    def drawn(self, export: Export) -> Drawn | None:
        """Return the rows of an export; None if there is nothing to export."""
        invoice = self._invoice(export)
        if invoice is None:
            return None
        counts = _counts(invoice, _DETAIL_TYPES[export.line_item_type])
        return Drawn(invoice, tuple((invoice.shift, count) for count in counts))

    def names(self) -> list[str]:
        """Return the names of all exports that have rows."""
        billed = [f"billed/{invoice.id}" for invoice in self._tenant.all_invoices()]
        open_ones = [
            f"unbilled/{period}/{currency}"
            for currency in self._tenant.currencies
            for period in _V1_PERIODS
        ]
        exports = [Export(kind, each) for kind in _DETAIL_TYPES for each in (*billed, *open_ones)]
        return [each.name for each in exports if (drawn := self.drawn(each)) and drawn.count]

    def rows(self, name: str, attribute_set: str = "full") -> list[bytes]:
        """Return the rows that an export has now, each as JSON, in the order of its blobs' names.

        Raises LookupError if there is no such export.
        """
        export = _export_named(name, attribute_set)
        return self._rows(export, self.generation(export))

    def history(self, name: str) -> list[list[bytes]]:
        """Return the rows of each generation so far, the latest last."""
        export = _export_named(name, "full")
        return [self._rows(export, each) for each in self._generations[name]]

    def _rows(self, export: Export, generation: Generation) -> list[bytes]:
        drawn = self.drawn(export)
        if drawn is None:
            raise LookupError(export.name)
        text = b"".join(self._text(export, generation, 0, drawn.count))
        return text.split(b"\n")[:-1]

    def generation(self, export: Export) -> Generation:
        """Return the generation that is current."""
        return self._generations[export.name][-1]

    def renew(self, name: str, change: str = "rows") -> None:
        """Make the data of an export anew; `change` is one of `faults.CHANGES`."""
        past = self._generations[name]
        if change == "beside":
            past[-1] = replace(past[-1], is_kept=True)
        past.append(past[-1].renewed(change))

    def served(self, export: Export, names: int) -> Generation | None:
        """Return the generation whose blobs have those names; None if they are gone."""
        past = self._generations[export.name]
        found = [each for each in past if each.names == names]
        if found and (found[-1] is past[-1] or found[-1].is_kept):
            return found[-1]
        return None

    def blob_names(self, export: Export, generation: Generation) -> list[BlobName]:
        """Return the blobs of a generation, in the order of their names."""
        drawn = self.drawn(export)
        count = drawn.count if drawn else 0
        blobs = self._options.blobs + generation.split
        if not count and self._options.empty == "no_blobs":
            blobs = 0
        draws = Draws(self._tenant.options.seed, "blobs", export.name, generation.names)
        guid, first, step = draws.guid(), draws.below(150), draws.between(1, 7)
        edges = [count * each // blobs for each in range(blobs + 1)] if blobs else []
        return [
            BlobName(f"part-{first + step * place:05d}-{guid}.c000.json.gz", *edge)
            for place, edge in enumerate(pairwise(edges))
        ]

    def blob(self, export: Export, generation: Generation, blob: BlobName) -> bytes:
        """Return the stored bytes of a blob. They are kept as long as there is room."""
        key = (export, generation.rows, generation.split, blob.start, blob.end)

        def make() -> bytes:
            return gzip_of(self._text(export, generation, blob.start, blob.end))

        return self._blobs.get(key, make)

    def _invoice(self, export: Export) -> Invoice | None:
        if not export.is_billed:
            _, period, currency = export.subject.split("/")
            return self._tenant.unbilled(_V1_PERIODS.get(period, ""), currency)
        invoice = self._tenant.find(export.subject.removeprefix("billed/"))
        usage = export.line_item_type == "usage"
        since = self._options.usage_since if usage else self._options.since
        if invoice is None or invoice.kind == LEGACY or invoice.billing_period < since:
            return None
        return invoice

    def _text(
        self, export: Export, generation: Generation, start: int, end: int
    ) -> Iterator[bytes]:
        """Yield the rows from `start` to `end` as lines, a segment at a time."""
        drawn = self.drawn(export)
        if drawn is None:
            return
        pools = list(self._pools(export, generation, drawn))
        for at in range(start, end, SEGMENT_ROWS):
            pieces: list[bytes] = []
            for first, count in _turned(at, min(at + SEGMENT_ROWS, end), drawn.count, generation):
                for pool, low, high in pools:
                    begin, stop = max(first, low), min(first + count, high)
                    if begin < stop:
                        pieces += [*pool.pieces(begin, stop - begin), b"\n"]
            yield b"".join(pieces)

    def _pools(
        self, export: Export, generation: Generation, drawn: Drawn
    ) -> Iterator[tuple[RowPool, int, int]]:
        """Yield the pool of each run, and the rows that it has. They are numbered through."""
        options, invoice = self._tenant.options, drawn.invoice
        style = replace(invoice.style, early=False) if invoice.style.early else invoice.style
        style = style if export.line_item_type == "reconciliation" else RowStyle()
        pool = line_pool(
            options.seed, export.line_item_type, style, export.attribute_set, self._options.rows
        )
        places = {
            **self._tenant.places(invoice),
            "partner": options.tenant_id.encode(),
            "generation": b"%d" % generation.rows,
        }
        joints = pool.filled(places)
        starts = accumulate((count for _, count in drawn.runs), initial=0)
        for (shift, count), start in zip(drawn.runs, starts, strict=False):
            yield RowPool(joints, (shift - start) % POOL_ROWS, "\n"), start, start + count


def _export_named(name: str, attribute_set: str) -> Export:
    line_item_type, _, subject = name.partition("/")
    return Export(line_item_type, subject, attribute_set)


def _counts(invoice: Invoice, line_item_type: str) -> list[int]:
    """Return how many rows each provider has, without those that repeat the rows of others.

    An invoice that lists none that charge has such rows all the same, as its total says.
    """
    own = {
        detail.provider: detail.line_items
        for detail in invoice.details
        if detail.line_item_type == line_item_type
    }
    if own.keys() - {"all"}:
        own.pop("all", None)
    if not own and line_item_type == _CHARGING:
        return [invoice.details[0].line_items]
    return list(own.values())


def _turned(start: int, end: int, count: int, generation: Generation) -> list[tuple[int, int]]:
    """Return which rows stand from `start` to `end`, as (first, how many): a later split begins in
    the middle of them."""
    turn = count // 3 if generation.split % 2 else 0
    edge = count - turn
    runs = [(start + turn, min(end, edge) - start)] if start < edge else []
    if end <= edge:
        return runs
    return [*runs, (max(start, edge) - edge, end - max(start, edge))]


def gzip_of(segments: Iterator[bytes]) -> bytes:
    """Return texts as one gzip member."""
    packer = isal_zlib.compressobj(1, isal_zlib.DEFLATED, 31)  # five times as fast as zlib's
    return b"".join([*map(packer.compress, segments), packer.flush()])


class _Cache:
    """Blobs that were made, up to a number of bytes; each is made once, by any thread."""

    def __init__(self) -> None:
        self._made: OrderedDict[object, bytes] = OrderedDict()
        self._making: defaultdict[object, threading.Lock] = defaultdict(threading.Lock)
        self._lock = threading.Lock()

    def get(self, key: object, make: Callable[[], bytes]) -> bytes:
        with self._lock:
            making = self._making[key]
        with making:
            with self._lock:
                if key in self._made:
                    self._made.move_to_end(key)
                    return self._made[key]
            made = make()
            with self._lock:
                self._made[key] = made
                while len(self._made) > 1 and sum(map(len, self._made.values())) > CACHED_BYTES:
                    self._made.popitem(last=False)
            return made
