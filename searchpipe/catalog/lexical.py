"""Searches the lexical index: BM25 over analysed terms, by tantivy."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import tantivy

from searchpipe.arrays import Array, Bool, Float32, Int32
from searchpipe.catalog.analysis import Analyzer
from searchpipe.catalog.storage import open_array
from searchpipe.errors import QueryError

COMBINED = "all"
COMBINED_PARTS = ("title", "brand", "category", "color", "text")
ORDINAL = "ordinal"

# Up to so many allowed documents are put into the query as a set of terms, which
# costs about 0.25 microseconds each; above, results are fetched until enough of
# them are allowed.
_SET_LIMIT = 10_000
_Hits = list[tuple[float, Any]]


class LexicalIndex:
    """BM25 (k1 = 1.2, b = 0.75) summed over the fields, each times its boost. Safe from many threads.

    tantivy holds the index memory-mapped and releases the GIL while it searches.
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
        self._searcher, mirror = _open(folder)
        if mirror is not None:
            weakref.finalize(self, shutil.rmtree, mirror, True)
        self._ordinals: Int32 = open_array(folder / "ordinals.i32", np.int32, (count,))
        sizes = [s["max_doc"] for s in msgspec.json.decode((folder / "meta.json").read_bytes())["segments"]]
        self._starts = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
        self._check_order()
        self._in_order = len(sizes) == 1 and bool(np.array_equal(self._ordinals, np.arange(count)))

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
            return self._ranked(*self._fetch(query, k), k)
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

    def _among(self, query: Any, allowed: Array) -> Any:
        chosen = tantivy.Query.term_set_query(self._schema, ORDINAL, allowed.tolist())
        # Constant 0, so that the set restricts the result and leaves the scores alone.
        restricted = tantivy.Query.const_score_query(chosen, 0.0)
        return tantivy.Query.boolean_query([(tantivy.Occur.Must, query), (tantivy.Occur.Must, restricted)])

    def _fetch_allowed(self, query: Any, k: int, mask: Bool, allowed: int) -> tuple[Int32, Float32]:
        # What k costs if the filter is independent of the query, and half as much again.
        wanted = int(1.5 * k * self._count / allowed) + 16
        while True:
            wanted = min(wanted, self._count)
            docs, scores = self._fetch(query, wanted)
            keep = mask[docs]
            if len(docs) < wanted or wanted == self._count or np.count_nonzero(keep) >= k:
                return docs[keep], scores[keep]
            wanted *= 4

    def _fetch(self, query: Any, limit: int) -> tuple[Int32, Float32]:
        hits: _Hits = self._searcher.search(query, limit, count=False).hits
        # Lists first: NumPy takes them in several times faster than generators.
        scores = np.array([score for score, _ in hits], np.float32)
        if self._in_order:
            return np.array([address.doc for _, address in hits], np.int32), scores
        docs = np.array([address.doc for _, address in hits], np.int64)
        segments = np.array([address.segment_ord for _, address in hits], np.int64)
        return self._ordinals[self._starts[segments] + docs], scores

    @staticmethod
    def _ranked(docs: Int32, scores: Float32, k: int) -> tuple[Int32, Float32]:
        order = np.lexsort((docs, -scores))[:k]
        return docs[order], scores[order]

    def _check_order(self) -> None:
        """Check that the first and last document of each segment are where the table of ordinals says."""
        for segment, (start, end) in enumerate(zip(self._starts[:-1], self._starts[1:], strict=True)):
            ends = [tantivy.DocAddress(segment, 0), tantivy.DocAddress(segment, int(end - start) - 1)]
            found = self._searcher.fast_field_values(ORDINAL, ends)
            if found != [int(self._ordinals[start]), int(self._ordinals[end - 1])]:
                raise ValueError(f"segment {segment} has other documents than ordinals.i32 says")


def inner_name(place: int) -> str:
    """Tantivy's name of a field: a catalog's own names may hold characters that it refuses."""
    return f"f{place}"


def lexical_schema(fields: int) -> Any:
    """Term frequencies without positions for each field, and each document's ordinal."""
    builder = tantivy.SchemaBuilder()
    builder.add_unsigned_field(ORDINAL, indexed=True, fast=True)
    for place in range(fields):
        builder.add_text_field(inner_name(place), tokenizer_name="terms", index_option="freq")
    return builder.build()


def register_terms(index: Any) -> None:
    """Terms come analysed, separated by spaces: tantivy must only split them."""
    splitter = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace()).build()
    index.register_tokenizer("terms", splitter)


def _open(folder: Path) -> tuple[Any, Path | None]:
    """Return a searcher, and the folder of links made for it, if any."""
    try:
        return _searcher(folder), None
    except (ValueError, OSError):
        # tantivy takes a lock file even to read; on a read-only volume it gets a
        # folder of links to the real files instead.
        mirror = Path(tempfile.mkdtemp(prefix="searchpipe-lexical-"))
        try:
            for file in folder.iterdir():
                if not file.name.endswith(".lock"):
                    (mirror / file.name).symlink_to(file.resolve())
            return _searcher(mirror), mirror
        except BaseException:
            shutil.rmtree(mirror, ignore_errors=True)
            raise


def _searcher(folder: Path) -> Any:
    index = tantivy.Index.open(str(folder))
    # A published index never changes: no thread that watches it.
    index.config_reader("manual")
    return index.searcher()
