"""diversify: the head of the order is chosen again so that it does not repeat itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from searchpipe import _core
from searchpipe.arrays import Array, Float32, Int32
from searchpipe.stages.base import Work


class Column(Protocol):
    """What quotas read of one of a snapshot's columns."""

    def groups(self, docs: Int32) -> Int32:
        """Int32 ``(n,)``: equal numbers for equal values, -1 where missing."""
        ...


class Vectors(Protocol):
    """Where the documents' embeddings are."""

    def vectors(self, docs: Int32) -> Float32:
        """Float32 ``(n, d)``."""
        ...


class Matrix(Protocol):
    """All documents' embeddings in one array."""

    @property
    def vectors(self) -> Float32:
        """Float32 ``(count, d)``, C-contiguous."""
        ...


@runtime_checkable
class Indexed(Protocol):
    """:class:`Vectors` that has them in one array, as a snapshot does: read in place, not copied."""

    @property
    def dense(self) -> Matrix:
        """The array's owner."""
        ...


_AHEAD = 64
"""Candidates whose vectors are read ahead, the likeliest to come first: each costs about a microsecond."""


@dataclass(frozen=True, slots=True)
class QuotaRule:
    """At most ``limit`` products of one value of a column in any ``window`` consecutive places."""

    name: str
    column: Column
    limit: int
    window: int


class Diversify:
    """Chooses the first places by MMR or a DPP, under quotas; the rest keeps its order.

    Relevance is the place in the order so far, falling linearly from 1 to 0
    over the candidates considered, because scores of partly scored lists are
    not comparable with each other.

    Args:
        vectors: the documents' embeddings.
        method: ``mmr``, ``dpp`` or ``none`` (quotas alone).
        trade_off: 1 for relevance alone, 0 for diversity alone.
        depth: candidates considered; never fewer than the page needs.
        quotas: rules that hold on the page as far as the candidates allow.
    """

    name = "diversify"
    reads: tuple[str, ...] = ("candidates",)
    writes: tuple[str, ...] = ("candidates",)
    essential = False
    prepares = True

    def __init__(
        self,
        vectors: Vectors,
        *,
        method: str = "mmr",
        trade_off: float = 0.9,
        depth: int = 50,
        quotas: Sequence[QuotaRule] = (),
    ) -> None:
        self._vectors = vectors
        self._indexed: Indexed | None = None
        if isinstance(vectors, Indexed) and hasattr(vectors.dense, "vectors"):
            self._indexed = vectors
        self._method = method
        self._trade_off = trade_off
        self._depth = depth
        self._quotas = {f"{self.name}: quota {place}": rule for place, rule in enumerate(quotas)}
        self._relevance = _falling(depth)

    def prepare(self, work: Work) -> None:
        """Look up what is read whatever the order will be: the groups of all candidates, and the vectors.

        Vectors are not copied or kept, only read: those of a large catalog are in no cache of the processor.
        """
        candidates = work.candidates
        if candidates is None:
            return
        for name, rule in self._quotas.items():
            candidates.carry(name, rule.column.groups(candidates.docs))
        if self._indexed is not None and self._method != "none":
            _core.touch_rows(self._indexed.dense.vectors, candidates.docs[:_AHEAD])

    def rehearse(self, work: Work) -> None:
        """Choose the head of the present order."""
        self.run(work)

    def run(self, work: Work) -> None:
        """Choose the head again."""
        candidates = work.candidates
        assert candidates is not None
        k = work.query.k
        n = min(max(self._depth, k), len(candidates.docs))
        k = min(k, n)
        if n < 2:
            return
        docs = candidates.docs[:n]
        with work.step(self.name, n * k):
            selection = self._select(docs, k, candidates.beside() if self._quotas else {})
        changed, picked = selection.count_changed, selection.order
        if changed:
            candidates = work.candidates = candidates.take(picked, rest=True)
        work.orders["diversify"] = candidates.docs
        work.decision = f"{changed} of {k} places changed"
        if selection.count_relaxed:
            for place in np.flatnonzero(selection.relaxed):
                work.moved[int(docs[picked[place]])] = "a quota was relaxed: no other candidate was left"

    def _select(self, docs: Int32, k: int, prepared: Mapping[str, Array]) -> _core.Selection:
        n = len(docs)
        relevance = self._relevance
        if len(relevance) != n:
            relevance = self._relevance = _falling(n)
        quotas = [_quota(rule, docs, prepared.get(name)) for name, rule in self._quotas.items()]
        if self._method == "none":
            return _core.by_relevance(relevance, k=k, quotas=quotas)
        select = _core.mmr if self._method == "mmr" else _core.dpp
        if self._indexed is None:
            vectors, rows = self._vectors.vectors(docs), None
        else:
            vectors, rows = self._indexed.dense.vectors, docs
        return select(relevance, vectors, k=k, trade_off=self._trade_off, quotas=quotas, rows=rows)

    def describe(self) -> str:
        """One line: what it does with which settings."""
        rules = [f"at most {q.limit} of one {q.name} in {q.window or 'all'}" for q in self._quotas.values()]
        how = (
            "quotas only"
            if self._method == "none"
            else f"{self._method.upper()}, trade-off {self._trade_off:g}"
        )
        return ", ".join([how, f"over {self._depth}", *rules])


def _falling(n: int) -> Float32:
    """From 1 to 0 in ``n`` places."""
    values: Float32 = np.arange(n - 1, -1, -1, dtype=np.float32) / np.float32(max(1, n - 1))
    return values


def _quota(rule: QuotaRule, docs: Int32, prepared: Array | None) -> _core.Quota:
    groups = rule.column.groups(docs) if prepared is None else prepared[: len(docs)]
    return _core.Quota(groups, limit=rule.limit, window=rule.window)
