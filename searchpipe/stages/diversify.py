"""diversify: the head of the order is chosen again so that it does not repeat itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from searchpipe import _core
from searchpipe.arrays import Float32, Int32
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
        self._method = method
        self._trade_off = trade_off
        self._depth = depth
        self._quotas = tuple(quotas)

    def run(self, work: Work) -> None:
        """Choose the head again."""
        candidates = work.candidates
        assert candidates is not None
        n = min(max(self._depth, work.query.k), len(candidates))
        k = min(work.query.k, n)
        if n < 2:
            return
        docs = candidates.docs[:n]
        with work.step(self.name, n * k):
            picked, relaxed = self._select(docs, k)
        work.candidates = candidates.take(picked, rest=True)
        work.orders["diversify"] = work.candidates.docs
        changed = sum(place != was for place, was in enumerate(picked.tolist()))
        work.decision = f"{changed} of {k} places changed"
        if relaxed.any():
            for place in np.flatnonzero(relaxed):
                work.moved[int(docs[picked[place]])] = "a quota was relaxed: no other candidate was left"

    def _select(self, docs: Int32, k: int) -> tuple[Int32, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
        last = len(docs) - 1
        relevance = np.arange(last, -1, -1, dtype=np.float32) / np.float32(last)
        quotas = [
            _core.Quota(rule.column.groups(docs), limit=rule.limit, window=rule.window)
            for rule in self._quotas
        ]
        if self._method == "none":
            selection = _core.by_relevance(relevance, k=k, quotas=quotas)
        else:
            select = _core.mmr if self._method == "mmr" else _core.dpp
            vectors = self._vectors.vectors(docs)
            selection = select(relevance, vectors, k=k, trade_off=self._trade_off, quotas=quotas)
        return selection.order, selection.relaxed

    def describe(self) -> str:
        """One line: what it does with which settings."""
        rules = [f"at most {q.limit} of one {q.name} in {q.window or 'all'}" for q in self._quotas]
        how = (
            "quotas only"
            if self._method == "none"
            else f"{self._method.upper()}, trade-off {self._trade_off:g}"
        )
        return ", ".join([how, f"over {self._depth}", *rules])
