"""Exact nearest vectors, by inner product over a matrix that may be memory-mapped."""

from __future__ import annotations

import numpy as np

from searchpipe import _core
from searchpipe.arrays import Bool, Float32, Int32
from searchpipe.catalog.optional import require


def exact_search(vectors: Float32, query: Float32, k: int, mask: Bool | None = None) -> tuple[Int32, Float32]:
    """Return the ``k`` rows of ``vectors`` (float32 ``(n, d)``) with the largest inner product, best first.

    ``mask`` bool ``(n,)`` restricts them; rows that it leaves out are not even
    read. Equal scores are in the order of the rows. Safe from many threads.

    FAISS scans for one query in the calling thread, which keeps its pace when
    many threads search at once; a BLAS product would start threads of its own
    for each of them.
    """
    allowed = len(vectors) if mask is None else int(np.count_nonzero(mask))
    k = min(k, allowed)
    if k <= 0:
        return np.empty(0, np.int32), np.empty(0, np.float32)
    faiss = require("faiss", "cpu")
    selector = None
    if mask is not None:
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
    return _core.ranked(docs, scores, limit=k, count=len(vectors))
