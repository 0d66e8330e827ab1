"""Appending to a .npy file whose number of rows is known only at the end."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np


class NpyWriter:
    """Writes rows one after the other; the header says how many there are when it is closed.

    Plain writes, not a memory map: a full disk then is an error and not a bus fault.

    Args:
        path: the file.
        dtype: of the values.
        width: columns; None for an array of one dimension.
        rows: what of an unfinished file to keep; whatever follows is cut off.

    Raises:
        OSError: the file has fewer rows than are to be kept, or cannot be written.
    """

    def __init__(self, path: Path, dtype: type, width: int | None = None, rows: int = 0) -> None:
        self.rows = rows
        self._dtype = np.dtype(dtype)
        self._shape = () if width is None else (width,)
        self._file = path.open("r+b" if rows else "wb")
        self._header()
        if rows:
            stop = self._file.tell() + rows * (width or 1) * self._dtype.itemsize
            if self._file.seek(0, os.SEEK_END) < stop:
                self._file.close()
                raise OSError(f"'{path}' is shorter than the {rows} rows that were written to it")
            self._file.truncate(stop)
            self._file.seek(stop)

    def _header(self) -> None:
        # numpy pads headers so that the first axis can grow in place.
        np.lib.format.write_array_header_1_0(
            self._file,
            {"descr": self._dtype.str, "fortran_order": False, "shape": (self.rows, *self._shape)},
        )

    def write(self, array: np.ndarray) -> None:
        """Appends rows."""
        self._file.write(np.ascontiguousarray(array, dtype=self._dtype).data)
        self.rows += len(array)

    def sync(self) -> None:
        """Returns when all rows are on the disk, not in its buffers."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> NpyWriter:
        """Nothing to do: the file is open."""
        return self

    def __exit__(self, *_: object) -> None:
        """Completes the header and closes the file."""
        with self._file:
            self._file.seek(0)
            self._header()
