"""Searches the lexical index: BM25 over analysed terms, in the C++ core."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from searchpipe.arrays import Bool, Float32, Int32
from searchpipe.catalog.analysis import Analyzer
from searchpipe.errors import QueryError, SnapshotCorruptError

if TYPE_CHECKING:
    from searchpipe._core import PostingsSearch, SearchThreads

COMBINED = "all"
COMBINED_PARTS = ("title", "brand", "category", "color", "text")

POSTINGS = "postings.bin"
"""The file of the index, in its folder."""

_MOST_BOOST = 1e6


class LexicalSearch:
    """One search of a :class:`LexicalIndex`. Any thread may call anything."""

    __slots__ = ("_search",)

    def __init__(self, search: PostingsSearch) -> None:
        self._search = search

    @property
    def ended(self) -> bool:
        """Whether :meth:`found` can tell."""
        return self._search.ended

    @property
    def seconds(self) -> float:
        """From when it was first worked on until it ended; 0 before."""
        return self._search.seconds

    def run(self, seconds: float = math.inf) -> None:
        """Work on it until nothing is left that no thread has begun, about ``seconds`` at most; no GIL."""
        self._search.run(seconds)

    def wait(self, seconds: float = math.inf) -> bool:
        """Whether other threads have ended it, after ``seconds`` at most; no GIL."""
        return self._search.wait(seconds)

    def share(self, threads: SearchThreads, wanted: int) -> int:
        """Let idle ones of ``threads`` work on it, at most ``wanted``; how many. Freed, it stops them."""
        return self._search.share(threads, wanted)

    def found(self) -> tuple[Int32, Float32]:
        """As :meth:`LexicalIndex.search`, once it has ended. Raises SnapshotCorruptError."""
        try:
            return self._search.found()
        except RuntimeError as error:
            raise SnapshotCorruptError(
                f"The lexical index is damaged: {error}.", cure="Index the catalog again."
            ) from error


class LexicalIndex:
    """BM25 (k1 = 1.2, b = 0.75) summed over the fields, each times its boost. Safe from many threads.

    The index is memory-mapped and searched in the threads that call, with the GIL released; how rare a
    term is, is counted over the whole catalog.

    Raises:
        ValueError: the file has other documents or fields than the snapshot.
        RuntimeError, OSError: the file is damaged or cannot be read.
    """

    def __init__(
        self, folder: Path, count: int, analyzer: Analyzer, boosts: Mapping[str, float], max_terms: int
    ) -> None:
        from searchpipe._core import PostingsIndex

        # The manifest's hashes cover the file already.
        self._index = PostingsIndex(folder / POSTINGS, verify=False)
        if len(self._index) != count:
            raise ValueError(f"{folder} holds {len(self._index)} documents instead of {count}")
        if self._index.fields != len(boosts):
            raise ValueError(f"{folder} has {self._index.fields} fields instead of {len(boosts)}")
        self._fields = tuple(boosts)
        self._boosts = list(boosts.values())
        self._analyzer = analyzer
        self._max_terms = max_terms
        self._count = count

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
            QueryError: for a mask of another length or a boost of an unknown field or too large.
            SnapshotCorruptError: the file was damaged after it was opened.

        """
        search = self.begin(text, k, mask=mask, boosts=boosts)
        search.run()
        return search.found()

    def begin(
        self, text: str, k: int, *, mask: Bool | None = None, boosts: Mapping[str, float] | None = None
    ) -> LexicalSearch:
        """As :meth:`search`, for several threads to work on; nothing is searched before one of them does.

        Raises:
            QueryError: as :meth:`search`.
        """
        weights = self._boosts if boosts is None else self._weights(boosts)
        if mask is not None and len(mask) != self._count:
            raise QueryError(f"The mask has {len(mask)} entries, the snapshot {self._count} documents.")
        terms = self.terms(text) if k > 0 else ()
        return LexicalSearch(self._index.begin(terms, boosts=weights, k=k, mask=mask))

    def terms(self, text: str) -> list[str]:
        """Return the terms that a query is searched by, for explanations."""
        return self._analyzer.query_terms(text, self._max_terms)

    def _weights(self, boosts: Mapping[str, float]) -> list[float]:
        for field, boost in boosts.items():
            if field not in self._fields:
                raise QueryError(
                    f"There is no lexical field {field!r}.", cure=f"There are: {', '.join(self._fields)}."
                )
            if not boost < _MOST_BOOST:
                raise QueryError(f"The boost of {field!r} is {boost}; it must be below {_MOST_BOOST:g}.")
        return [float(boosts.get(field, 0.0)) for field in self._fields]
