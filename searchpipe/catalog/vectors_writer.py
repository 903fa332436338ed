"""Makes and writes the documents' vectors, with the keys that a later build finds them by."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from searchpipe.arrays import Float32
from searchpipe.catalog.dense import DenseInfo
from searchpipe.catalog.dense_writer import DenseWriter
from searchpipe.catalog.reuse import KnownVectors, TextKeyWriter, text_keys
from searchpipe.catalog.settings import IndexSettings
from searchpipe.errors import CatalogError


class Encoder(Protocol):
    """What a build needs of an encoder; :class:`searchpipe.backends.TextEncoder` has it.

    One that several threads may call at once has an attribute ``texts_in_flight``: how many texts it
    takes in all of their calls together. A build then makes two calls at once where both fit, so that
    a GPU has work while the host tokenizes.
    """

    @property
    def dim(self) -> int: ...

    def encode_texts(self, texts: list[str], *, prefix: str = "") -> Float32: ...


class VectorsWriter:
    """Vectors of texts in the order of their ordinals. For one thread.

    Args:
        folder: made here.
        settings: the index and the chunk size.
        encoder: makes the vectors that ``known`` does not have.
        known: vectors of the build before; None for none.
        owner: stops and closes what an unfinished build leaves.

    """

    def __init__(
        self,
        folder: Path,
        settings: IndexSettings,
        encoder: Encoder,
        known: KnownVectors | None,
        owner: ExitStack,
    ) -> None:
        self.reused = 0
        self._encoder = encoder
        self._known = known
        self._dense = DenseWriter(folder, settings, encoder.dim, owner)
        self._keys = TextKeyWriter(folder, owner)
        self._calls = 2 if getattr(encoder, "texts_in_flight", 0) >= 2 * settings.chunk_rows else 1
        self._begun: deque[_Chunk] = deque()
        self._pool: ThreadPoolExecutor | None = None
        if self._calls > 1:
            self._pool = ThreadPoolExecutor(self._calls, thread_name_prefix="searchpipe-build-encode")
            owner.callback(self._pool.shutdown, wait=True, cancel_futures=True)

    def append(self, texts: list[str]) -> None:
        """Append one chunk. With two calls at once, the vectors are written with the chunk after it.

        Raises:
            CatalogError: for vectors of another size, or NaN or infinity in them.

        """
        keys = text_keys(texts)
        vectors = np.empty((len(texts), self._encoder.dim), np.float32)
        fresh: NDArray[np.intp] = np.arange(len(texts))
        if self._known is not None:
            known, found = self._known.find(keys)
            vectors[known] = found
            fresh = np.flatnonzero(~known)
            self.reused += int(known.sum())
        wanted = [texts[row] for row in fresh]
        if self._pool is None:
            self._write(_Chunk(keys, vectors, fresh, None), self._encode(wanted))
            return
        if len(self._begun) == self._calls:
            self._write_oldest()
        self._begun.append(_Chunk(keys, vectors, fresh, self._pool.submit(self._encode, wanted)))

    def close(self) -> DenseInfo:
        """Finish the files and build the index."""
        while self._begun:
            self._write_oldest()
        self._keys.close()
        return self._dense.close()

    def _encode(self, texts: list[str]) -> Float32:
        if not texts:
            return np.empty((0, self._encoder.dim), np.float32)
        made = self._encoder.encode_texts(texts)
        if made.shape != (len(texts), self._encoder.dim):
            raise CatalogError(
                f"The encoder gave {made.shape} for {len(texts)} texts, its dim is {self._encoder.dim}."
            )
        return made

    def _write_oldest(self) -> None:
        chunk = self._begun.popleft()
        assert chunk.made is not None
        self._write(chunk, chunk.made.result())

    def _write(self, chunk: _Chunk, made: Float32) -> None:
        chunk.vectors[chunk.fresh] = made
        self._dense.append(chunk.vectors)
        self._keys.append(chunk.keys)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Keys uint64 ``(n, 2)``, vectors float32 ``(n, dim)``, and the rows that are being made."""

    keys: NDArray[np.uint64]
    vectors: Float32
    fresh: NDArray[np.intp]
    made: Future[Float32] | None
