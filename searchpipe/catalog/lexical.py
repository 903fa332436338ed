"""Searches the lexical index: BM25 over analysed terms, by tantivy, in one shard or several."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tantivy

from searchpipe.arrays import Array, Bool, Float32, Int32
from searchpipe.catalog.analysis import Analyzer
from searchpipe.catalog.lexical_shard import ORDINAL, LexicalShard, inner_name, lexical_schema
from searchpipe.errors import QueryError

COMBINED = "all"
COMBINED_PARTS = ("title", "brand", "category", "color", "text")

# Up to so many allowed documents are put into the query as a set of terms, which
# costs about 0.25 microseconds each; above, results are fetched until enough of
# them are allowed.
_SET_LIMIT = 10_000

_MAX_HELPERS = 15
"""Threads that search shards, for all queries together."""

_QueryOf = Callable[[int], Any]
"""Shard -> the query that it is asked."""


class LexicalIndex:
    """BM25 (k1 = 1.2, b = 0.75) summed over the fields, each times its boost. Safe from many threads.

    tantivy holds the index memory-mapped and releases the GIL while it searches. A large
    catalog lies in several shards, product i in shard ``i % shards``, which are searched at the
    same time by threads of the index's own. How rare a term is, each shard counts for
    itself; dealt out like this the counts differ by little.
    """

    def __init__(
        self, folder: Path, count: int, analyzer: Analyzer, boosts: Mapping[str, float], max_terms: int
    ) -> None:
        self._schema = lexical_schema(len(boosts))
        self._places = {field: place for place, field in enumerate(boosts)}
        self._analyzer = analyzer
        self._boosts = dict(boosts)
        self._max_terms = max_terms
        self._count = count
        self._shards = [LexicalShard(part) for part in shard_folders(folder)]
        found = sum(shard.count for shard in self._shards)
        if found != count:
            raise ValueError(f"{folder} holds {found} documents instead of {count}")
        self._helpers: ThreadPoolExecutor | None = None
        threads = min(_MAX_HELPERS, (os.cpu_count() or 1) - 1)  # the caller searches too
        if threads > 0 and len(self._shards) > 1:
            self._helpers = ThreadPoolExecutor(threads, "searchpipe-lexical")
            weakref.finalize(self, self._helpers.shutdown, wait=False)

    def search(
        self, text: str, k: int, *, mask: Bool | None = None, boosts: Mapping[str, float] | None = None
    ) -> tuple[Int32, Float32]:
        """Return the ``k`` best documents that have any term of ``text``, best first.

        Args:
            text: any text; at most ``max_query_terms`` distinct terms of it count.
            k: at most as many; fewer when fewer match.
            mask: bool ``(count,)``; the result is the best ``k`` among the allowed.
            boosts: field -> boost instead of the settings' own; fields not named do not count.

        Returns:
            docs int32 ``(m,)`` and BM25 scores float32 ``(m,)``; equal scores by ordinal.

        Raises:
            QueryError: for a mask of another length or a boost of an unknown field.

        """
        k = min(k, self._count)
        query = self._query(text, boosts if boosts is not None else self._boosts)
        if k <= 0 or query is None:
            return np.empty(0, np.int32), np.empty(0, np.float32)
        if mask is None:
            return self._ranked(*self._fetch(lambda _: query, k), k)
        if len(mask) != self._count:
            raise QueryError(f"The mask has {len(mask)} entries, the snapshot {self._count} documents.")
        allowed = int(np.count_nonzero(mask))
        if allowed == 0:
            return np.empty(0, np.int32), np.empty(0, np.float32)
        if allowed <= _SET_LIMIT:
            return self._ranked(*self._fetch(self._among(query, np.flatnonzero(mask)), min(k, allowed)), k)
        return self._ranked(*self._fetch_allowed(query, k, mask, allowed), k)

    def terms(self, text: str) -> list[str]:
        """Return the terms that a query is searched by, for explanations."""
        return self._analyzer.query_terms(text, self._max_terms)

    def _query(self, text: str, boosts: Mapping[str, float]) -> Any:
        unknown = boosts.keys() - self._places.keys()
        if unknown:
            raise QueryError(
                f"There is no lexical field {min(unknown)!r}.", cure=f"There are: {', '.join(self._places)}."
            )
        parts = []
        for term in self.terms(text):
            for field, boost in boosts.items():
                if boost > 0:
                    query = tantivy.Query.term_query(
                        self._schema, inner_name(self._places[field]), term, "freq"
                    )
                    parts.append((tantivy.Occur.Should, tantivy.Query.boost_query(query, boost)))
        return tantivy.Query.boolean_query(parts) if parts else None

    def _among(self, query: Any, allowed: Array) -> _QueryOf:
        def restricted(shard: int) -> Any:
            mine = allowed[allowed % len(self._shards) == shard]
            chosen = tantivy.Query.term_set_query(self._schema, ORDINAL, mine.tolist())
            # Constant 0, so that the set restricts the result and leaves the scores alone.
            only = tantivy.Query.const_score_query(chosen, 0.0)
            return tantivy.Query.boolean_query([(tantivy.Occur.Must, query), (tantivy.Occur.Must, only)])

        return restricted

    def _fetch_allowed(self, query: Any, k: int, mask: Bool, allowed: int) -> tuple[Int32, Float32]:
        # What k costs if the filter is independent of the query, and half as much again.
        wanted = int(1.5 * k * self._count / allowed) + 16
        while True:
            wanted = min(wanted, self._count)
            docs, scores = self._fetch(lambda _: query, wanted)
            keep = mask[docs]
            if len(docs) < wanted or wanted == self._count or np.count_nonzero(keep) >= k:
                return docs[keep], scores[keep]
            wanted *= 4

    def _fetch(self, query_of: _QueryOf, limit: int) -> tuple[Int32, Float32]:
        """At least the ``limit`` best of all shards, in no order."""
        if len(self._shards) == 1:
            return self._shards[0].fetch(query_of(0), limit)
        # Dealt out evenly, a shard has about its share of the best; twice that is rarely too few.
        first = min(limit, 2 * limit // len(self._shards) + 16)
        everywhere = range(len(self._shards))
        found = self._each(everywhere, query_of, first)
        if first < limit:
            scores = np.concatenate([scores for _, scores in found.values()])
            needed = -np.inf if len(scores) < limit else np.partition(scores, -limit)[-limit]
            # Who gave all that was asked of it, and nothing worse than needed, may have more of it.
            more = [n for n in everywhere if len(found[n][1]) == first and found[n][1].min() >= needed]
            found |= self._each(more, query_of, limit)
        return (
            np.concatenate([docs for docs, _ in found.values()]),
            np.concatenate([scores for _, scores in found.values()]),
        )

    def _each(
        self, shards: Sequence[int], query_of: _QueryOf, limit: int
    ) -> dict[int, tuple[Int32, Float32]]:
        """What these shards give, searched at the same time."""
        if not shards:
            return {}
        mine, *others = shards
        helped = []
        if self._helpers is not None:
            helped = [self._helpers.submit(self._one, number, query_of, limit) for number in others]
            others = []
        found = {number: self._one(number, query_of, limit) for number in (mine, *others)}
        # What no helper has begun yet is done here: nobody waits for the searches of others.
        for number, future in zip(shards[1:], helped, strict=False):
            if future.cancel():
                found[number] = self._one(number, query_of, limit)
        for number, future in zip(shards[1:], helped, strict=False):
            if not future.cancelled():
                found[number] = future.result()
        return found

    def _one(self, number: int, query_of: _QueryOf, limit: int) -> tuple[Int32, Float32]:
        return self._shards[number].fetch(query_of(number), limit)

    @staticmethod
    def _ranked(docs: Int32, scores: Float32, k: int) -> tuple[Int32, Float32]:
        order = np.lexsort((docs, -scores))[:k]
        return docs[order], scores[order]


def shard_folders(folder: Path) -> list[Path]:
    """Where the shards of an index are, in their order: folders named by number, or the index itself."""
    numbered = sorted((int(path.name), path) for path in folder.iterdir() if path.name.isdecimal())
    return [path for _, path in numbered] or [folder]
