"""Plain little-endian arrays and blobs on disk: written in one pass, read through memory maps."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike

from searchpipe.arrays import Array


class ArrayWriter:
    """Appends arrays of one dtype to a file, which ``owner`` closes if nobody else does. For one thread."""

    def __init__(self, path: Path, dtype: DTypeLike, owner: ExitStack) -> None:
        self.path = path
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.size = 0
        self._file: BinaryIO = owner.enter_context(path.open("wb"))

    def append(self, values: Any) -> None:
        """Append ``values``, converted to the dtype, in C order."""
        array = np.ascontiguousarray(values, dtype=self.dtype)
        self._file.write(array.data if array.size else b"")
        self.size += array.size

    def close(self) -> None:
        """Write out what is buffered. Idempotent."""
        self._file.close()


def open_array(path: Path, dtype: DTypeLike, shape: tuple[int, ...]) -> Array:
    """Return a read-only view of the array at ``path``; a file that is too small raises ValueError."""
    expected = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if path.stat().st_size != expected:
        raise ValueError(f"{path} has {path.stat().st_size} bytes instead of {expected}")
    if expected == 0:
        return np.empty(shape, dtype)  # nothing cannot be mapped
    return np.asarray(np.memmap(path, np.dtype(dtype).newbyteorder("<"), "r", shape=shape))


class BlobWriter:
    """Appends byte strings: the bytes to ``NAME.blob``, their ends to ``NAME.ends``. For one thread."""

    def __init__(self, folder: Path, name: str, owner: ExitStack) -> None:
        self._file: BinaryIO = owner.enter_context((folder / f"{name}.blob").open("wb"))
        self._ends = ArrayWriter(folder / f"{name}.ends", np.int64, owner)
        self._end = 0
        self._ends.append([0])

    def append(self, items: list[bytes]) -> None:
        """Append ``items`` in their order."""
        lengths = np.fromiter((len(item) for item in items), np.int64, len(items))
        self._file.write(b"".join(items))
        self._ends.append(self._end + np.cumsum(lengths))
        self._end += int(lengths.sum())

    def close(self) -> None:
        """Write out what is buffered. Idempotent."""
        self._file.close()
        self._ends.close()


class BlobStore:
    """Byte strings by number, memory-mapped. Safe from many threads.

    ``docs`` is int ``(n,)``, int32 at best; a number that does not exist raises IndexError.
    """

    def __init__(self, folder: Path, name: str, count: int) -> None:
        from searchpipe._core import Blobs

        blob = folder / f"{name}.blob"
        held = open_array(blob, np.uint8, (blob.stat().st_size,))
        ends = open_array(folder / f"{name}.ends", np.int64, (count + 1,))
        if ends[0] != 0 or ends[-1] != len(held):
            raise ValueError(f"{blob} does not end where its table of ends says")
        self._blobs = Blobs(held, ends.astype(np.int64, copy=False))
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> bytes:
        return self._blobs.one(index)

    def texts(self, docs: Array) -> list[str]:
        """The strings of ``docs``, decoded. Raises UnicodeDecodeError for what is no UTF-8."""
        return self._blobs.texts(docs)

    def json_list(self, docs: Array) -> bytes:
        """One JSON list of the strings of ``docs``, each of them JSON: to be decoded in one call."""
        return self._blobs.json_list(docs)

    def touch(self, docs: Array) -> int:
        """Read the strings of ``docs`` ahead, within 1 MiB and 0.3 ms; how many it came to. Never IndexError.

        A slow disk makes it end with the page fault in which the time passes. The GIL is released.
        """
        return self._blobs.touch(docs)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
