"""The catalog's own ids: by ordinal, and back."""

from __future__ import annotations

from contextlib import ExitStack
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from searchpipe.catalog.storage import ArrayWriter, BlobStore, BlobWriter, open_array


class IdWriter:
    """Writes ids in the order of their ordinals. For one thread."""

    def __init__(self, folder: Path, owner: ExitStack) -> None:
        self._folder = folder
        self._owner = owner
        self._blobs = BlobWriter(folder, "ids", owner)
        self._hashes: list[int] = []

    def append(self, ids: list[str]) -> None:
        """Append ``ids``; that they are distinct is the caller's part."""
        encoded = [value.encode() for value in ids]
        self._blobs.append(encoded)
        self._hashes += map(_hash, encoded)

    def close(self) -> None:
        """Write the table that leads from an id to its ordinal."""
        self._blobs.close()
        hashes = np.array(self._hashes, np.uint64)
        order = np.argsort(hashes, kind="stable")
        for name, dtype, values in (("hashes", np.uint64, hashes[order]), ("order", np.int32, order)):
            writer = ArrayWriter(self._folder / f"ids.{name}", dtype, self._owner)
            writer.append(values)
            writer.close()


class IdTable:
    """Ids of ``count`` documents, memory-mapped. Safe from many threads."""

    def __init__(self, folder: Path, count: int) -> None:
        self._blobs = BlobStore(folder, "ids", count)
        self._hashes = open_array(folder / "ids.hashes", np.uint64, (count,))
        self._order = open_array(folder / "ids.order", np.int32, (count,))

    def ids(self, docs: Any) -> list[str]:
        """Return the ids of ``docs`` (int ``(n,)``). Raises IndexError for an ordinal that does not exist."""
        return self._blobs.texts(docs)

    def touch(self, docs: Any) -> int:
        """Read the ids of ``docs`` ahead: :meth:`searchpipe.catalog.storage.BlobStore.touch`."""
        return self._blobs.touch(docs)

    def ordinal(self, product_id: str) -> int | None:
        """Return the ordinal of ``product_id``, or None."""
        encoded = product_id.encode("utf-8", "replace")
        value = np.uint64(_hash(encoded))
        place = int(np.searchsorted(self._hashes, value))
        while place < len(self._hashes) and self._hashes[place] == value:
            doc = int(self._order[place])
            if self._blobs[doc] == encoded:
                return doc
            place += 1
        return None


def _hash(encoded: bytes) -> int:
    return int.from_bytes(blake2b(encoded, digest_size=8).digest(), "little")
