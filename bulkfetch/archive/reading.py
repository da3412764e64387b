"""Parquet read without Arrow's threads, which must not hold what belongs to Python."""

from __future__ import annotations

from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq


def parquet_file(
    file: BinaryIO | pa.NativeFile, *, page_checksum_verification: bool = False
) -> pq.ParquetFile:
    """Open a Parquet file; read from it with `use_threads=False`.

    With `pre_buffer`, pyarrow's default, a thread of Arrow reads ahead and lets go of the Python
    file some time after the last row was returned. Where the interpreter is just ending, that
    thread asks for its lock in a destructor, is ended there, and the process aborts ("terminate
    called without an active exception").
    """
    return pq.ParquetFile(
        file, pre_buffer=False, page_checksum_verification=page_checksum_verification
    )
