"""Exact nearest vectors, by inner product over a matrix that may be memory-mapped."""

from __future__ import annotations

from typing import Any

import numpy as np

from searchpipe.arrays import Bool, Float32, Int32
from searchpipe.catalog.optional import require

# FAISS's scan skips rows that are not allowed, BLAS cannot, but reads a row about
# twice as fast: below this share of allowed rows the scan wins.
_SPARSE_SHARE = 0.3
_NO_DOCS = np.empty(0, np.int32)
_NO_SCORES = np.empty(0, np.float32)


def exact_search(vectors: Float32, query: Float32, k: int, mask: Bool | None = None) -> tuple[Int32, Float32]:
    """Return the ``k`` rows of ``vectors`` (float32 ``(n, d)``) with the largest inner product, best first.

    ``mask`` bool ``(n,)`` restricts them. Equal scores are in the order of the
    rows. Safe from many threads.
    """
    allowed = len(vectors) if mask is None else int(np.count_nonzero(mask))
    k = min(k, allowed)
    if k <= 0:
        return _NO_DOCS, _NO_SCORES
    if mask is not None and allowed < _SPARSE_SHARE * len(vectors):
        return _scan(vectors, query, k, mask)
    scores: Float32 = vectors @ query
    if mask is not None:
        scores = np.where(mask, scores, np.float32(-np.inf))
    best = np.argpartition(scores, len(scores) - k)[len(scores) - k :] if k < len(scores) else np.arange(k)
    return ranked(best, scores[best])


def ranked(docs: Any, scores: Float32) -> tuple[Int32, Float32]:
    """Best score first, equal scores by ordinal."""
    order = np.lexsort((docs, -scores))
    return docs[order].astype(np.int32), scores[order]


def _scan(vectors: Float32, query: Float32, k: int, mask: Bool) -> tuple[Int32, Float32]:
    faiss = require("faiss", "cpu")
    # The selector reads these bits during the search and does not own them.
    bits = np.packbits(mask, bitorder="little")
    selector = faiss.IDSelectorBitmap(len(mask), faiss.swig_ptr(bits))
    scores = np.empty(k, np.float32)
    docs = np.empty(k, np.int64)
    faiss.knn_inner_product(
        faiss.swig_ptr(query),
        faiss.swig_ptr(vectors),
        vectors.shape[1],
        1,
        len(vectors),
        k,
        faiss.swig_ptr(scores),
        faiss.swig_ptr(docs),
        selector,
    )
    found = docs >= 0
    return ranked(docs[found], scores[found])
