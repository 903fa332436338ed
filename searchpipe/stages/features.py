"""Features of candidates: one float32 column each, named, for the formula and for learned rankers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from searchpipe.arrays import Array, Float32, Int32
from searchpipe.candidates import Candidates
from searchpipe.errors import ConfigError
from searchpipe.stages.base import Work


class Columns(Protocol):
    """What features read of a snapshot's columns."""

    @property
    def kinds(self) -> Mapping[str, str]:
        """Kind of each column; ``number`` and ``bool`` hold numbers."""
        ...

    def numbers(self, name: str, docs: Int32) -> Array:
        """Float64 ``(n,)``, NaN where missing or where there is no such column."""
        ...


class Features:
    """Computes named features in ``[0, 1]``; every one of them is 0 where nothing is known.

    * ``fused``, ``lexical``, ``dense``: the recall scores, min-max scaled within the query.
    * ``fused_rank``: reciprocal of the place in the fused order, ``1 / (1 + place / 10)``.
    * ``popularity``: ``log1p(rating_count)`` relative to one million.
    * ``rating``: the mean rating out of 5, drawn towards 4 by 20 pseudo-ratings (a Bayesian
      average, so that one five-star rating does not beat a thousand of 4.7).
    * ``column:NAME``: a numeric column, min-max scaled within the query.

    Any thread may call anything.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._named: dict[str, Callable[[Candidates], Float32]] = {
            "fused_rank": lambda c: (1.0 / (1.0 + np.arange(len(c), dtype=np.float32) / 10.0)).astype(
                np.float32
            ),
            "popularity": self._popularity,
            "rating": self._rating,
        }
        for name in ("fused", "lexical", "dense"):
            self._named[name] = lambda c, name=name: _scaled(c.scores.get(name), len(c))  # type: ignore[misc]

    def check(self, names: Sequence[str]) -> None:
        """Refuse a name that cannot be computed.

        Raises:
            ConfigError: naming it and those that exist.
        """
        numeric = sorted(
            f"column:{n}" for n, kind in self._columns.kinds.items() if kind in ("number", "bool")
        )
        for name in names:
            if name not in self._named and name not in numeric:
                known = ", ".join([*sorted(self._named), *numeric])
                raise ConfigError(f"There is no feature {name!r}.", cure=f"Known: {known}.")

    def matrix(self, names: Sequence[str], work: Work) -> Float32:
        """Float32 ``(n, len(names))`` for the candidates of ``work``."""
        assert work.candidates is not None
        out = np.empty((len(work.candidates), len(names)), np.float32)
        for place, name in enumerate(names):
            out[:, place] = self._one(name, work.candidates)
        return out

    def _one(self, name: str, candidates: Candidates) -> Float32:
        if name.startswith("column:"):
            return _scaled(
                self._columns.numbers(name.removeprefix("column:"), candidates.docs), len(candidates)
            )
        return self._named[name](candidates)

    def _popularity(self, candidates: Candidates) -> Float32:
        counts = np.nan_to_num(self._columns.numbers("rating_count", candidates.docs), nan=0.0)
        return _float32(np.clip(np.log1p(np.maximum(counts, 0.0)) / np.log(1e6), 0.0, 1.0))

    def _rating(self, candidates: Candidates) -> Float32:
        counts = np.maximum(
            np.nan_to_num(self._columns.numbers("rating_count", candidates.docs), nan=0.0), 0.0
        )
        ratings = self._columns.numbers("rating", candidates.docs)
        known = np.isfinite(ratings)
        mean = (20.0 * 4.0 + counts * np.where(known, ratings, 4.0)) / (20.0 + counts)
        return _float32(np.where(known, np.clip(mean / 5.0, 0.0, 1.0), 0.0))


def _scaled(column: Array | None, n: int) -> Float32:
    """Min-max scaled to [0, 1] over the finite values; 0 for the others and 1 where all are equal."""
    if column is None:
        return np.zeros(n, np.float32)
    known = np.isfinite(column)
    if not known.any():
        return np.zeros(n, np.float32)
    low, high = column[known].min(), column[known].max()
    if high <= low:
        return known.astype(np.float32)
    return _float32(np.where(known, (np.where(known, column, low) - low) / (high - low), 0.0))


def _float32(values: Array) -> Float32:
    return values.astype(np.float32)
