"""Vectors of an earlier build, used again for texts that did not change."""

from __future__ import annotations

from contextlib import ExitStack
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from searchpipe.arrays import Float32
from searchpipe.catalog.storage import ArrayWriter, open_array

_FILE = "texts.u64"


def text_keys(texts: list[str]) -> NDArray[np.uint64]:
    """128 bits of each text's hash: uint64 ``(n, 2)``."""
    digests = b"".join(blake2b(text.encode("utf-8", "replace"), digest_size=16).digest() for text in texts)
    return np.frombuffer(digests, "<u8").reshape(-1, 2)


class TextKeyWriter:
    """Writes the key of each document's text beside its vector. For one thread."""

    def __init__(self, folder: Path, owner: ExitStack) -> None:
        self._writer = ArrayWriter(folder / _FILE, np.uint64, owner)

    def append(self, keys: NDArray[np.uint64]) -> None:
        """Append uint64 ``(n, 2)``."""
        self._writer.append(keys)

    def close(self) -> None:
        """Finish the file. Idempotent."""
        self._writer.close()


class KnownVectors:
    """Vectors of an earlier build by the text that they were made from. Safe from many threads."""

    def __init__(self, folder: Path, count: int, dim: int) -> None:
        self._vectors: Float32 = open_array(folder / "vectors.f32", np.float32, (count, dim))
        keys = open_array(folder / _FILE, np.uint64, (count, 2))
        self._order = np.argsort(keys[:, 0], kind="stable")
        self._sorted = np.ascontiguousarray(keys[self._order])

    def find(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], Float32]:
        """Which keys (uint64 ``(n, 2)``) are known, bool ``(n,)``, and the vectors of those."""
        places = np.searchsorted(self._sorted[:, 0], keys[:, 0])
        places = np.minimum(places, len(self._sorted) - 1)
        known = (self._sorted[places] == keys).all(axis=1)
        return known, self._vectors[self._order[places[known]]]
