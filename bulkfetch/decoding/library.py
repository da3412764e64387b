"""The compiled library of this installation (`kernel/`), and what its functions take and return."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Protocol, cast

from bulkfetch.settings.environment import first_variable

ABI: Final = 2
"""The version of the library's functions that this module calls: `KERNEL_ABI` of `kernel.h`."""
NOT_HERE = "this installation has no kernel"
SWITCHED_OFF = "BULKFETCH_KERNEL is off"

_FOLDER = Path(__file__).parent
_NAMES = ("_kernel.so", "_kernel.dylib", "_kernel.dll")


class ArrowArray(ctypes.Structure):
    """An array as the Arrow C data interface lays it out."""

    _fields_ = (
        ("length", ctypes.c_int64),
        ("null_count", ctypes.c_int64),
        ("offset", ctypes.c_int64),
        ("n_buffers", ctypes.c_int64),
        ("n_children", ctypes.c_int64),
        ("buffers", ctypes.c_void_p),
        ("children", ctypes.c_void_p),
        ("dictionary", ctypes.c_void_p),
        ("release", ctypes.c_void_p),
        ("private_data", ctypes.c_void_p),
    )


class Stranger(ctypes.Structure):
    """An unknown key: `kernel_stranger` of `kernel.h`."""

    _fields_ = (
        ("start", ctypes.c_uint64),
        ("length", ctypes.c_uint64),
        ("times", ctypes.c_uint64),
    )


class LibraryPage(ctypes.Structure):
    """What a call found: `kernel_page` of `kernel.h`."""

    _fields_ = (
        ("array", ArrowArray),
        ("rescues", ctypes.c_void_p),
        ("strangers", ctypes.c_void_p),
        ("stranger_count", ctypes.c_uint64),
        ("rows", ctypes.c_uint64),
        ("items_start", ctypes.c_uint64),
        ("items_end", ctypes.c_uint64),
        ("stopped_at", ctypes.c_uint64),
    )


class Library(Protocol):
    """The functions of `kernel.h`."""

    kernel_abi: Callable[[], int]
    kernel_reason: Callable[[int], bytes | None]
    kernel_format: Callable[[int], bytes | None]
    kernel_compile: Callable[[bytes, object, int, int], int | None]
    kernel_free: Callable[[int], None]
    kernel_decode_page: Callable[[int, int, int, object], int]
    kernel_decode_lines: Callable[[int, int, int, object], int]
    kernel_find_items: Callable[[int, int, object], int]
    kernel_has: Callable[[bytes, int, bytes, int], int]
    kernel_has_escape: Callable[[bytes, int], int]
    kernel_release: Callable[[object], None]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the kernel did not take a text, and at which byte."""

    reason: str
    at: int = 0


@cache
def load() -> Library | Refusal:
    """Load the library of this installation."""
    if (first_variable("BULKFETCH_KERNEL") or "").lower() == "off":
        return Refusal(SWITCHED_OFF)
    for name in _NAMES:
        if (path := _FOLDER / name).exists():
            return load_from(path)
    return Refusal(NOT_HERE)


def load_from(path: Path) -> Library | Refusal:
    """Load a library, and say what its functions take and return."""
    try:
        library = ctypes.CDLL(str(path))
        version = library.kernel_abi()
        _declare(library)
    except (OSError, AttributeError) as error:  # of another machine, or a function is missing
        return Refusal(f"the kernel cannot be loaded: {error}")
    if version != ABI:
        return Refusal(f"the kernel has version {version}, and {ABI} is needed: install again")
    return cast("Library", library)


def _declare(library: ctypes.CDLL) -> None:
    address, length, int32 = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int32
    page, text = ctypes.POINTER(LibraryPage), ctypes.c_char_p
    kinds = ctypes.POINTER(ctypes.c_int32)
    for name, result, arguments in (
        ("kernel_reason", text, (int32,)),
        ("kernel_format", text, (int32,)),
        ("kernel_compile", address, (text, kinds, int32, int32)),
        ("kernel_free", None, (address,)),
        ("kernel_decode_page", int32, (address, address, length, page)),
        ("kernel_decode_lines", int32, (address, address, length, page)),
        ("kernel_find_items", int32, (address, length, page)),
        ("kernel_has", int32, (text, length, text, length)),
        ("kernel_has_escape", int32, (text, length)),
        ("kernel_release", None, (ctypes.POINTER(ArrowArray),)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
