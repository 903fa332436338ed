"""Features of candidates: one float32 column each, named, for the formula and for learned rankers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol, TypeAlias

import numpy as np

from searchpipe import _core
from searchpipe.arrays import Array, Float32, Int32
from searchpipe.candidates import Candidates
from searchpipe.errors import ConfigError
from searchpipe.runtime.begun_scores import Term
from searchpipe.stages.base import Work

_Part: TypeAlias = tuple[Literal["scaled", "by document", "by place"], Array] | None
"""As :func:`searchpipe._core.feature_matrix` takes it."""

_NAMES = ("dense", "fused", "fused_rank", "lexical", "popularity", "rating")


class Columns(Protocol):
    """What features read of a snapshot's columns."""

    @property
    def count(self) -> int:
        """Documents."""
        ...

    @property
    def kinds(self) -> Mapping[str, str]:
        """Kind of each column; ``number`` and ``bool`` hold numbers."""
        ...

    def numbers(self, name: str, docs: Int32) -> Array:
        """Float64 ``(n,)``, NaN where missing or where there is no such column."""
        ...


_MOST_PLACES = 4096
"""Of candidates that a plan expects."""


class Features:
    """Computes named features in ``[0, 1]``; every one of them is 0 where nothing is known.

    * ``fused``, ``lexical``, ``dense``: the recall scores, min-max scaled within the query.
    * ``fused_rank``: reciprocal of the place in the fused order, ``1 / (1 + place / 10)``.
    * ``popularity``: ``log1p(rating_count)`` relative to one million.
    * ``rating``: the mean rating out of 5, drawn towards 4 by 20 pseudo-ratings (a Bayesian
      average, so that one five-star rating does not beat a thousand of 4.7).
    * ``column:NAME``: a numeric column, min-max scaled within the query.

    What does not depend on the query is computed for all documents when it is first asked for, and
    kept: float32, one number a document. Any thread may call anything.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._of_documents: dict[str, Callable[[Int32], Float32]] = {
            "popularity": self._popularity,
            "rating": self._rating,
        }
        self._known: dict[str, Float32] = {}
        self._places = _fused_rank(0)

    def check(self, names: Sequence[str]) -> None:
        """Refuse a name that cannot be computed.

        Raises:
            ConfigError: naming it and those that exist.
        """
        numeric = sorted(
            f"column:{n}" for n, kind in self._columns.kinds.items() if kind in ("number", "bool")
        )
        for name in names:
            if name not in _NAMES and name not in numeric:
                known = ", ".join([*_NAMES, *numeric])
                raise ConfigError(f"There is no feature {name!r}.", cure=f"Known: {known}.")

    def prepare(self, names: Sequence[str]) -> None:
        """Compute now what the first query would have to: about 0.1 microseconds a document and name."""
        for name in names:
            if name in self._of_documents:
                self._of_all(name)

    def matrix(self, names: Sequence[str], work: Work) -> Float32:
        """Float32 ``(n, len(names))`` for the candidates of ``work``."""
        candidates = work.candidates
        assert candidates is not None
        return _core.feature_matrix(candidates.docs, [self._part(name, candidates) for name in names])

    def weighted(self, names: Sequence[str], weights: Float32, work: Work) -> Float32:
        """Float32 ``(n,)``: the sum of ``weights``, float32 ``(len(names),)``, times the features."""
        candidates = work.candidates
        assert candidates is not None
        return _core.weigh_features(
            candidates.docs, [self._part(name, candidates) for name in names], weights
        )

    def terms(self, names: Sequence[str], weights: Float32) -> list[Term] | None:
        """What :meth:`weighted` adds up, for ``_core.HeadPlan``; None if a column is among it."""
        made: list[Term] = []
        for name, weight in zip(names, weights.tolist(), strict=True):
            if name.startswith("column:"):
                return None
            if name in self._of_documents:
                made.append(("by document", self._of_all(name), weight))
            elif name == "fused_rank":
                made.append(("by place", self._ranks(_MOST_PLACES), weight))
            else:
                made.append(("fused", None, weight) if name == "fused" else ("list", name, weight))
        return made

    def _part(self, name: str, candidates: Candidates) -> _Part:
        """What the column of a feature is made of."""
        if name in self._of_documents:
            return "by document", self._of_all(name)
        if name == "fused_rank":
            return "by place", self._ranks(len(candidates.docs))
        if name.startswith("column:"):
            return "scaled", self._columns.numbers(name.removeprefix("column:"), candidates.docs)
        column = candidates.scores.get(name)
        return None if column is None else ("scaled", column)

    def _of_all(self, name: str) -> Float32:
        found = self._known.get(name)
        if found is None:  # two threads may both compute it, and get the same
            everything = np.arange(self._columns.count, dtype=np.int32)
            found = self._known[name] = self._of_documents[name](everything)
        return found

    def _ranks(self, n: int) -> Float32:
        places = self._places
        if len(places) < n:
            places = self._places = _fused_rank(2 * n)
        return places[:n]

    def _popularity(self, docs: Int32) -> Float32:
        counts = np.nan_to_num(self._columns.numbers("rating_count", docs), nan=0.0)
        return _float32(np.clip(np.log1p(np.maximum(counts, 0.0)) / np.log(1e6), 0.0, 1.0))

    def _rating(self, docs: Int32) -> Float32:
        counts = np.maximum(np.nan_to_num(self._columns.numbers("rating_count", docs), nan=0.0), 0.0)
        ratings = self._columns.numbers("rating", docs)
        known = np.isfinite(ratings)
        mean = (20.0 * 4.0 + counts * np.where(known, ratings, 4.0)) / (20.0 + counts)
        return _float32(np.where(known, np.clip(mean / 5.0, 0.0, 1.0), 0.0))


def _fused_rank(n: int) -> Float32:
    return _float32(1.0 / (1.0 + np.arange(n, dtype=np.float32) / 10.0))


def _float32(values: Array) -> Float32:
    return values.astype(np.float32)
