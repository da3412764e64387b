"""The compiled decoder: a page to columns in one pass, or a reason to take the exact way.

The library is plain C (`kernel/`). It gives exactly the columns of `columns.py`, or refuses a text.
It is called without the interpreter's lock, and hands its arrays over by the Arrow C data
interface.
"""

from __future__ import annotations

import ctypes
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import pyarrow as pa

from bulkfetch.decoding.columns import Columns
from bulkfetch.decoding.fields import ITEM, RESCUED, UNDECLARED, Field, Kind, LineItemSchema
from bulkfetch.decoding.library import ArrowArray, Library, LibraryPage, Refusal, Stranger, load

MAX_STRANGERS = 250
"""`KERNEL_MAX_STRANGERS` of `kernel.h`."""
_CAPSULE = b"arrow_array"
"""Must outlive every capsule: these keep a pointer to it."""
KINDS = {
    kind: number
    for number, kind in enumerate(
        (
            Kind.TEXT,
            Kind.INTEGER,
            Kind.DECIMAL,
            Kind.DATE,
            Kind.BOOLEAN,
            Kind.TEXT_LIST,
            Kind.OBJECT_TYPE,
            Kind.JSON,
        )
    )
}
"""The numbers of `kernel_kind` in `kernel.h`."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """The rows of a text as columns; the value of `items` is `text[items_start:items_end]`."""

    rows: int
    columns: Columns
    items_start: int
    items_end: int


_Decode: TypeAlias = "Callable[[int, int, int, object], int]"
_DecodeWith: TypeAlias = "Callable[[Kernel], Decoded | Refusal]"


class Kernel:
    """The kernel with the schema of one line-item type. Safe to share between threads."""

    def __init__(self, library: Library, schema: LineItemSchema) -> None:
        fields = _fields_of(schema)
        self.schema = schema
        self._library = library
        self._names = tuple(field.name for field in fields)
        self._handle = _compile(library, schema)
        self._arrow = _arrow_schema(fields)

    def __del__(self) -> None:
        if handle := getattr(self, "_handle", None):
            self._library.kernel_free(handle)

    def decode_page(self, text: bytes, start: int = 0) -> Decoded | Refusal:
        """Decode the UTF-8 JSON of a page, which begins at byte `start`."""
        return self._decode(self._library.kernel_decode_page, text, start)

    def decode_lines(self, text: bytes) -> Decoded | Refusal:
        """Decode line items as UTF-8 JSON, one a line."""
        return self._decode(self._library.kernel_decode_lines, text, 0)

    def _decode(self, decode: _Decode, text: bytes, start: int) -> Decoded | Refusal:
        if self._handle is None:
            return Refusal("the kernel cannot have this schema")
        buffer = pa.py_buffer(text)
        page, counts = LibraryPage(), (ctypes.c_uint64 * (len(self._names) + 1))()
        strangers = (Stranger * MAX_STRANGERS)()
        page.rescues = ctypes.addressof(counts)
        page.strangers = ctypes.addressof(strangers)
        status = decode(
            self._handle, buffer.address + start, buffer.size - start, ctypes.byref(page)
        )
        if status:
            return _refusal(self._library, status, start + page.stopped_at)
        rescues = Counter({name: times for name, times in zip(self._names, counts) if times})  # noqa: B905  # one count more
        for stranger in strangers[: page.stranger_count]:
            name_start = start + stranger.start
            name = text[name_start : name_start + stranger.length].decode()
            rescues[name] = stranger.times
        columns = _columns(self._take(page.array), rescues, whole=not self._names)
        return Decoded(page.rows, columns, start + page.items_start, start + page.items_end)

    def _take(self, array: ArrowArray) -> pa.RecordBatch:
        try:
            return pa.record_batch(_Handed(self._arrow, array))
        finally:  # does nothing once pyarrow has taken it
            self._library.kernel_release(ctypes.byref(array))


def find_items(text: bytes, start: int = 0) -> tuple[int, int] | Refusal:
    """Return where the value of a page's `items` starts and ends, having checked all JSON."""
    library = load()
    if isinstance(library, Refusal):
        return library
    buffer, page = pa.py_buffer(text), LibraryPage()
    address, size = buffer.address + start, buffer.size - start
    if status := library.kernel_find_items(address, size, ctypes.byref(page)):
        return _refusal(library, status, start + page.stopped_at)
    return start + page.items_start, start + page.items_end


class Kernels:
    """The kernels of a run, one for each schema. Safe to share between threads.

    `exact` counts the texts that have to take the exact way, by reason.
    """

    def __init__(self, exact: Counter[str] | None = None) -> None:
        self.exact: Counter[str] = Counter() if exact is None else exact
        self._library = load()
        self._kernels: dict[LineItemSchema, Kernel] = {}
        """By the declared schema: where names are the same in any case, the kernel has the spelling
        that was seen last."""
        self._lock = threading.Lock()

    @property
    def are_here(self) -> bool:
        """Whether the library is there: without it every text takes the exact way."""
        return not isinstance(self._library, Refusal)

    def decode_page(self, schema: LineItemSchema, text: bytes, start: int = 0) -> Decoded | None:
        """Decode a page, or return None if it has to take the exact way."""
        return self._note(self._decode(schema, lambda kernel: kernel.decode_page(text, start)))

    def decode_lines(self, schema: LineItemSchema, text: bytes) -> Decoded | None:
        """Decode lines, or return None if they have to take the exact way."""
        return self._note(self._decode(schema, lambda kernel: kernel.decode_lines(text)))

    def _decode(self, schema: LineItemSchema, decode: _DecodeWith) -> Decoded | Refusal:
        """Decode a text. Where names are the same in any case, do so with the spelling that it has:
        the kernel rescues any other."""
        if isinstance(self._library, Refusal):
            return self._library
        kernel = self._of(self._library, schema)
        decoded = decode(kernel)
        if not schema.any_case or isinstance(decoded, Refusal):
            return decoded
        if others := _find_other_spellings(kernel.schema, decoded.columns.rescues):
            kernel = Kernel(self._library, _respell(kernel.schema, others))
            decoded = decode(kernel)
            if isinstance(decoded, Refusal):
                return decoded
            if _find_other_spellings(kernel.schema, decoded.columns.rescues):
                return Refusal("a name has several spellings")
            self._kernels[schema] = kernel
        columns = replace(
            decoded.columns, rescues=_rename(decoded.columns.rescues, kernel.schema, schema)
        )
        return replace(decoded, columns=columns)

    def _of(self, library: Library, schema: LineItemSchema) -> Kernel:
        kernel = self._kernels.get(schema)
        return kernel or self._kernels.setdefault(schema, Kernel(library, schema))

    def _note(self, decoded: Decoded | Refusal) -> Decoded | None:
        if isinstance(decoded, Decoded):
            return decoded
        with self._lock:
            self.exact[decoded.reason] += 1
        return None


def _find_other_spellings(schema: LineItemSchema, rescues: Counter[str]) -> dict[str, str]:
    """Return those names of rescued values that differ from a field in their case only, by the
    field's name."""
    fields = {field.name.casefold(): field.name for field in schema.fields}
    spelled = ((fields.get(name.casefold()), name) for name in rescues)
    return {field: name for field, name in spelled if field is not None and field != name}


def _respell(schema: LineItemSchema, spellings: Mapping[str, str]) -> LineItemSchema:
    fields = (replace(field, name=spellings.get(field.name, field.name)) for field in schema.fields)
    return replace(schema, fields=tuple(fields))


def _rename(rescues: Counter[str], spelled: LineItemSchema, schema: LineItemSchema) -> Counter[str]:
    """Count what was rescued by the declared names of the fields."""
    declared = {
        each.name: field.name for each, field in zip(spelled.fields, schema.fields, strict=True)
    }
    return Counter({declared.get(name, name): times for name, times in rescues.items()})


def _columns(batch: pa.RecordBatch, rescues: Counter[str], *, whole: bool) -> Columns:
    arrays = batch.columns
    if whole:
        return Columns(arrays, pa.nulls(batch.num_rows, pa.string()))
    return Columns(arrays[:-1], arrays[-1], rescues)


def _fields_of(schema: LineItemSchema) -> Sequence[Field]:
    """Return the fields as the kernel has them: none where items are kept whole."""
    return () if schema is UNDECLARED else schema.fields


def _compile(library: Library, schema: LineItemSchema) -> int | None:
    """Compile a schema, or return None if the kernel cannot have it."""
    fields = _fields_of(schema)
    if not fields and schema is not UNDECLARED:
        return None
    if any("\0" in field.name for field in fields):  # the kernel would end the name there
        return None
    names = b"".join(field.name.encode() + b"\0" for field in fields)
    kinds = (ctypes.c_int32 * (len(fields) + 1))(*(KINDS[field.kind] for field in fields))
    return library.kernel_compile(names, kinds, len(fields), int(schema.null_fits))


def _arrow_schema(fields: Sequence[Field]) -> pa.Schema:
    """Return the schema of what the kernel hands over."""
    if not fields:
        return pa.schema([(ITEM, Kind.JSON.arrow_type)])
    columns = [(field.name, field.kind.arrow_type) for field in fields]
    return pa.schema([*columns, (RESCUED, pa.string())])


def _refusal(library: Library, status: int, at: int) -> Refusal:
    return Refusal((library.kernel_reason(status) or b"").decode(), at)


class _Handed:
    """An array of the kernel, in the form in which pyarrow takes it over."""

    def __init__(self, schema: pa.Schema, array: ArrowArray) -> None:
        self._schema, self._array = schema, array

    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]:
        capsule = _new_capsule(ctypes.addressof(self._array), _CAPSULE, None)
        return self._schema.__arrow_c_schema__(), capsule


_new_capsule = ctypes.pythonapi["PyCapsule_New"]  # of our own: the attribute is everyone's
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
