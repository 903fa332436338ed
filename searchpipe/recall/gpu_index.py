"""A catalog's vectors in a FAISS index on a GPU, with filters and exact scores."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from searchpipe import _core
from searchpipe.arrays import Bool, Float32, Int32, Int64
from searchpipe.catalog.exact import exact_search
from searchpipe.catalog.optional import require
from searchpipe.device import nvtx
from searchpipe.device.plan import MIB
from searchpipe.errors import EngineError, QueryError
from searchpipe.recall.ahead import DevicePending, Landings
from searchpipe.recall.faiss_build import make_index, make_resources, require_gpu_faiss
from searchpipe.recall.faiss_pointers import OneRow, as_half, float_pointer, stacked, void_pointer
from searchpipe.recall.filtering import choose_way, filtered_probes
from searchpipe.recall.lookup import Found, Lookup, host_copy, on_device
from searchpipe.recall.recorded import RecordedSearches, can_record
from searchpipe.recall.rule import MAX_PROBES, IndexPlan

TEMP_BYTES = 256 * MIB
PINNED_BYTES = 32 * MIB

_MAX_SELECTION = 2048  # FAISS's kernels select no more
_MAX_GRAPH_RESULTS = 1024
_ROUNDING_MARGIN = 16  # float16 may swap near ties, so a few more are fetched and scored exactly
_PQ_FACTOR = 4


class ExactSearch(Protocol):
    """Finds the best among allowed documents by comparing all of them; one thread at a time."""

    def search(self, query: Float32, k: int, mask: Bool) -> Int64:
        """Ids int64 ``(m,)`` of at least the ``k`` best allowed, in no particular order."""
        ...


class GpuIndex:
    """Inner products with a catalog's vectors, searched on a GPU.

    ``search_batch``, ``begin``, ``search_many`` and ``close`` are for one thread at a time,
    because FAISS's GPU indexes are not safe for more, even for reading: give
    the index to a :class:`searchpipe.recall.dispatcher.Dispatcher`. ``finish``
    is safe from many threads.

    Answers are the best found by the exact float32 inner product: what an
    index with rounded codes finds is scored again on the host, by the thread
    of the caller. A filter never lets a document through that it does not allow,
    and k come back if k are allowed: an index that gives too few is asked for more, and at
    last all allowed documents are compared.

    Args:
        plan: of :func:`searchpipe.recall.rule.choose_index`.
        vectors: float32 ``(count, dim)``, may be memory-mapped; kept for the exact scores.
        centroids: see :func:`searchpipe.recall.faiss_build.make_index`.
        device: ordinal of the GPU.
        stream: a CUstream as a number, which must outlive the index; 0 for FAISS's own.
        temp_bytes: device memory for FAISS's temporaries.
        use_cuvs: whether lists are searched by cuVS, which can skip what a filter excludes.
        exact: compares all allowed documents on the device; on the host if None. May be set later,
            before the index is shared.
        faiss: the module; the installed one if None.
        record: whether searches that follow the encoder are recorded; None: where that was seen to work
            (:func:`searchpipe.recall.recorded.can_record`).

    Raises:
        MissingDependencyError: no FAISS for GPUs, or no GPU.
        EngineError: FAISS could not make the index.
    """

    def __init__(
        self,
        plan: IndexPlan,
        vectors: Float32,
        *,
        centroids: Float32 | None = None,
        device: int = 0,
        stream: int = 0,
        temp_bytes: int = TEMP_BYTES,
        use_cuvs: bool = False,
        exact: ExactSearch | None = None,
        faiss: Any = None,
        record: bool | None = None,
    ) -> None:
        if vectors.shape != (plan.count, plan.dim):
            raise EngineError(
                f"The plan is for {plan.count} x {plan.dim} and the vectors are {vectors.shape}."
            )
        self._faiss = faiss or require_gpu_faiss()
        self.plan = plan
        self.dim = plan.dim
        self.count = plan.count
        self._vectors = vectors
        self.exact = exact
        self._stream = stream
        # CAGRA, and lists searched by cuVS, may wait for the device on the host: nothing is won there.
        ahead = stream and plan.kind != "cagra" and not use_cuvs
        self._widest = _MAX_GRAPH_RESULTS if plan.kind == "cagra" else _MAX_SELECTION
        records = can_record(self._faiss, plan) if record is None else record
        recorded = RecordedSearches(device, stream) if ahead and records else None
        self._landings = Landings(device, stream, self._widest, recorded=recorded) if ahead else None
        self._selects = plan.kind == "cagra" or (use_cuvs and plan.kind != "flat")
        try:
            with nvtx.range("recall:build"):
                self._resources = make_resources(
                    self._faiss,
                    device=device,
                    stream=stream,
                    temp_bytes=temp_bytes,
                    pinned_bytes=PINNED_BYTES,
                )
                self._index, self._kept = make_index(
                    self._faiss,
                    self._resources,
                    plan,
                    vectors,
                    device=device,
                    centroids=centroids,
                    use_cuvs=use_cuvs,
                )
        except RuntimeError as error:
            raise EngineError(f"FAISS cannot make the index on GPU {device}: {error}") from error

    @property
    def max_k(self) -> int:
        """The most documents that one lookup may want."""
        return self._widest - (0 if self.plan.exact_scores else _ROUNDING_MARGIN)

    @property
    def probes(self) -> int:
        """Lists that a query reads; 0 without lists. Set by the thread that searches."""
        return self._index.nprobe if self.plan.lists else 0

    @probes.setter
    def probes(self, value: int) -> None:
        if not self.plan.lists or not 1 <= value <= min(self.plan.lists, MAX_PROBES):
            raise EngineError(f"{value} lists cannot be read of {self.plan.lists}.")
        self._index.nprobe = value
        if self._landings is not None:
            self._landings.forget()

    def search_many(
        self, queries: Any, k: int, *, mask: Bool | None = None, probes: int = 0
    ) -> tuple[Int64, Float32]:
        """Search as FAISS does, without exact scores.

        Args:
            queries: float32 ``(n, dim)``, C-contiguous: NumPy, or device memory
                (``__cuda_array_interface__``) that is complete or written by the index's own stream.
            k: results of each.
            mask: only honoured by an index that selects, and then only as a hint.
            probes: lists to read, instead of the index's own number; 0 for that.

        Returns:
            ids int64 ``(n, k)``, negative where there are fewer, and scores float32 ``(n, k)``.

        Raises:
            EngineError: FAISS failed.
        """
        n = queries.shape[0]
        ids = np.empty((n, k), np.int64)
        scores = np.empty((n, k), np.float32)
        faiss = self._faiss
        parameters, kept = self._parameters(k, mask, probes)
        try:
            with nvtx.range("recall:search"):
                if self.plan.kind == "cagra" and self.plan.codes == "float16":
                    # A graph of float16 vectors takes queries of the same type.
                    half = as_half(queries)
                    pointer = void_pointer(faiss, half)
                    self._index.search_ex(
                        n, pointer, faiss.Float16, k, faiss.swig_ptr(scores), faiss.swig_ptr(ids), parameters
                    )
                else:
                    pointer = float_pointer(faiss, queries)
                    self._index.search_c(
                        n, pointer, k, faiss.swig_ptr(scores), faiss.swig_ptr(ids), parameters
                    )
        except RuntimeError as error:
            raise EngineError(f"The GPU search of {n} queries failed: {error}") from error
        finally:
            del kept
        return ids, scores

    def check(self, lookup: Lookup) -> None:
        """Refuse a vector that is not float32 ``(dim,)`` and finite, and a mask of another length.

        Vectors on the device are not looked into.

        Raises:
            QueryError: says what is wrong.
        """
        vector, mask = lookup.vector, lookup.mask
        if tuple(vector.shape) != (self.dim,) or np.dtype(vector.dtype) != np.float32:
            raise QueryError(
                f"The query vector is {vector.dtype} {tuple(vector.shape)}; float32 ({self.dim},) is needed.",
                cure="Encode queries with the model that the snapshot was built with.",
            )
        if not on_device(vector) and not _core.all_finite(vector):
            raise QueryError("The query vector holds NaN or infinity.")
        if mask is not None and mask.shape != (self.count,):
            raise QueryError(f"The mask has {mask.size} entries, the index {self.count} documents.")

    def search_batch(self, lookups: list[Lookup]) -> list[Found]:
        """Search for lookups that share a mask, or have none.

        Raises:
            EngineError: FAISS failed.
        """
        if lookups[0].mask is not None:
            return [self._masked(lookup) for lookup in lookups]
        if len(lookups) == 1:  # most often: no widths to tell apart
            [lookup] = lookups
            ids, scores = self.search_many(self._stack([lookup.vector]), self._fetch(lookup.k))
            return [Found(ids[0], scores[0])]
        queries = self._stack([lookup.vector for lookup in lookups])
        width = self._fetch(max(lookup.k for lookup in lookups))
        ids, scores = self.search_many(queries, width)
        # Each keeps what it would have got alone, so that answers do not depend on company.
        widths = [self._fetch(lookup.k) for lookup in lookups]
        return [Found(ids[row, :n], scores[row, :n]) for row, n in enumerate(widths)]

    def begin(self, lookup: Lookup) -> DevicePending | None:
        """Put a search on the index's stream, behind the batch that is writing its vector, without waiting.

        For the thread that has begun that batch, before it waits for it: the device then goes
        from one to the other without the host. None, with nothing begun, if the vector is not
        being written so, with a mask, and for an index that cannot.

        Raises:
            EngineError: FAISS or the driver failed.
        """
        vector, width = lookup.vector, self._fetch(lookup.k)
        if self._landings is None or lookup.mask is not None:
            return None

        def search(ids: int, scores: int) -> None:
            # Results stay in device memory: FAISS would wait to copy them to the host's.
            faiss = self._faiss
            pointers = faiss.cast_integer_to_float_ptr(scores), faiss.cast_integer_to_idx_t_ptr(ids)
            try:
                self._index.search_c(1, float_pointer(faiss, vector), width, *pointers, None)
            except RuntimeError as error:
                raise EngineError(f"The GPU search of a query failed: {error}") from error

        with nvtx.range("recall:begin"):
            return self._landings.begin(vector, width, search)

    def finish(self, lookup: Lookup, found: Found) -> tuple[Int32, Float32]:
        """Give what was found its exact scores and order; any thread."""
        if not found.complete:
            return exact_search(self._vectors, self._on_host(lookup.vector), lookup.k, lookup.mask)
        ids, scores = found.ids, found.scores
        if not self.plan.exact_scores:
            ids = ids[(ids >= 0) & (ids < self.count)]
            scores = self._vectors[ids] @ self._on_host(lookup.vector)
        return _core.ranked(ids, scores, limit=lookup.k, count=self.count)

    def close(self) -> None:
        """Free the device memory. Idempotent; no search may be running."""
        if self._landings is not None:
            self._landings.close()
        self._index = self._resources = self.exact = None
        self._kept = []

    def _masked(self, lookup: Lookup) -> Found:
        mask = lookup.mask
        assert mask is not None
        allowed = int(np.count_nonzero(mask))
        k = min(lookup.k, allowed)
        if not k:
            return Found(np.empty(0, np.int64), np.empty(0, np.float32))
        needed = min(self._fetch(k), allowed)
        way, width = choose_way(
            needed,
            self.count,
            allowed,
            max_k=self._widest,
            selects=self._selects,
            compares=self.exact is not None,
        )
        probes = filtered_probes(self.probes, self.plan.lists, self.count, allowed)
        queries = self._stack([lookup.vector])
        while way != "exact":
            selected = mask if way == "selector" else None
            ids, scores = self.search_many(queries, width, mask=selected, probes=probes)
            row = ids[0]
            # Also after a selector: some indexes accept one and ignore it.
            keep = (row >= 0) & (row < self.count)
            keep[keep] = mask[row[keep]]
            if np.count_nonzero(keep) >= needed:
                return Found(row[keep], scores[0][keep])
            if way == "selector" or width >= min(self._widest, self.count):
                break
            width = min(2 * width, self._widest, self.count)
        if self.exact is None:
            return Found(np.empty(0, np.int64), np.empty(0, np.float32), complete=False)
        query = self._on_host(lookup.vector)
        best = self.exact.search(query, k, mask)
        return Found(best, self._vectors[best] @ query)

    def _fetch(self, k: int) -> int:
        """Results to ask for so that the ``k`` best by the exact scores are among them."""
        if self.plan.codes == "pq":
            k = max(k + _ROUNDING_MARGIN, _PQ_FACTOR * k)
        elif not self.plan.exact_scores:
            k += _ROUNDING_MARGIN
        return min(k, self.count, self._widest)

    def _parameters(self, k: int, mask: Bool | None, probes: int) -> tuple[Any, Any]:
        """Search parameters, and what they point into."""
        wanted: dict[str, Any] = {}
        bits = None
        if mask is not None:
            bits = np.packbits(mask, bitorder="little")
            wanted["sel"] = self._faiss.IDSelectorBitmap(len(mask), self._faiss.swig_ptr(bits))
        if self.plan.kind == "cagra":
            # The internal list must hold k; twice that is where recall was measured.
            wanted["itopk_size"] = max(64, -(-2 * k // 32) * 32)
            return self._faiss.SearchParametersCagra(**wanted), bits
        if self.plan.lists and (wanted or probes):
            return self._faiss.SearchParametersIVF(nprobe=probes or self.probes, **wanted), bits
        return None, bits

    def _stack(self, vectors: list[Any]) -> Any:
        if len(vectors) == 1:
            one = vectors[0]
            return OneRow(one, self.dim) if on_device(one) else self._on_host(one)[None, :]
        # One copy of all is quicker than a kernel for each.
        if all(on_device(vector) and host_copy(vector) is None for vector in vectors):
            return stacked(vectors, self._stream)
        return np.stack([self._on_host(vector) for vector in vectors])

    @staticmethod
    def _on_host(vector: Any) -> Float32:
        known = host_copy(vector)
        if known is not None or not on_device(vector):
            return np.ascontiguousarray(vector if known is None else known, np.float32)
        cupy = require("cupy", "gpu")
        copied: Float32 = cupy.asnumpy(cupy.asarray(vector))
        return copied
