"""Searches the document vectors: exactly, or through a FAISS index where there are many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from searchpipe import _core
from searchpipe.arrays import Bool, Float32, Int32, Int64
from searchpipe.catalog.exact import exact_search
from searchpipe.catalog.optional import require
from searchpipe.catalog.settings import DenseKind
from searchpipe.catalog.storage import open_array
from searchpipe.errors import QueryError

# So few allowed documents are compared exactly (at most about 10 ms): a graph or
# list search that skips most of what it meets would be slower and lose some.
_EXACT_LIMIT = 20_000
# efSearch and probes grow with what a filter removes, up to this much work.
_MOST_EFFORT = 4096


class DenseInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The vector index's part of the manifest."""

    kind: DenseKind
    dim: int
    hnsw_search_effort: int = 0
    ivf_lists: int = 0
    ivf_probes: int = 0


class DenseIndex:
    """Inner products with the documents' vectors. Safe from many threads.

    The float32 matrix is stored once and memory-mapped; it is the whole of a
    flat index. HNSW and IVF hold float16 codes besides, in FAISS's CPU format,
    and what they find is scored again with the matrix, so scores are exact
    whatever the index. One query is searched by one FAISS thread, so FAISS's
    process-wide thread count is left alone: parallelism comes from the callers.
    """

    def __init__(self, folder: Path, info: DenseInfo, count: int) -> None:
        self.info = info
        self.dim = info.dim
        self.count = count
        self.vectors: Float32 = open_array(folder / "vectors.f32", np.float32, (count, info.dim))
        self._index: Any = None
        if info.kind != "flat":
            faiss = require("faiss", "cpu")
            self._index = faiss.read_index(str(folder / "index.faiss"))
            if self._index.ntotal != count or self._index.d != info.dim:
                raise ValueError(
                    f"index.faiss holds {self._index.ntotal} vectors of {self._index.d} numbers "
                    f"instead of {count} of {info.dim}"
                )

    def search(self, vector: Float32, k: int, *, mask: Bool | None = None) -> tuple[Int32, Float32]:
        """Return the ``k`` documents nearest to ``vector``, best first.

        Args:
            vector: float32 ``(dim,)``.
            k: at most as many.
            mask: bool ``(count,)``; the result is the best ``k`` among the allowed.

        Returns:
            docs int32 ``(m,)`` and inner products float32 ``(m,)``; equal scores by ordinal.

        Raises:
            QueryError: for a vector or mask of another shape, or a vector that is not finite.

        """
        query = np.ascontiguousarray(vector, np.float32)
        if query.shape != (self.dim,):
            raise QueryError(
                f"The query vector has the shape {query.shape}, the snapshot's have ({self.dim},).",
                cure="Encode queries with the model that the snapshot was built with.",
            )
        if not np.isfinite(query).all():
            raise QueryError("The query vector holds NaN or infinity.")
        if mask is not None and len(mask) != self.count:
            raise QueryError(f"The mask has {len(mask)} entries, the snapshot {self.count} documents.")
        allowed = self.count if mask is None else int(np.count_nonzero(mask))
        k = min(k, allowed)
        if self._index is None or k <= 0 or (mask is not None and allowed <= _EXACT_LIMIT):
            return exact_search(self.vectors, query, k, mask)
        docs = self._approximate(query, k, mask, self.count / allowed)
        if len(docs) < k:
            # The graph or the lists read did not hold enough allowed documents.
            return exact_search(self.vectors, query, k, mask)
        return _core.ranked(docs, self.vectors[docs] @ query, limit=k, count=self.count)

    def to_faiss(self) -> Any:
        """Return a FAISS CPU index of all vectors, for example to be copied to a GPU.

        A flat index is made anew by each call and holds a copy of the vectors.
        """
        if self._index is not None:
            return self._index
        faiss = require("faiss", "cpu")
        index = faiss.IndexFlatIP(self.dim)
        index.add(self.vectors)
        return index

    def _approximate(self, query: Float32, k: int, mask: Bool | None, scarcity: float) -> Int64:
        faiss = require("faiss", "cpu")
        wanted: dict[str, Any] = {}
        if mask is not None:
            bits = np.packbits(mask, bitorder="little")  # read by the selector, which does not own it
            wanted["sel"] = faiss.IDSelectorBitmap(len(mask), faiss.swig_ptr(bits))
        if self.info.kind == "hnsw":
            effort = max(self.info.hnsw_search_effort, k) * scarcity
            parameters = faiss.SearchParametersHNSW(efSearch=max(k, int(min(effort, _MOST_EFFORT))), **wanted)
        else:
            probes = min(int(self.info.ivf_probes * scarcity), self.info.ivf_lists, _MOST_EFFORT)
            parameters = faiss.SearchParametersIVF(nprobe=max(1, probes), **wanted)
        _, found = self._index.search(query[None, :], k, params=parameters)
        docs: Int64 = found[0][found[0] >= 0]
        return docs
