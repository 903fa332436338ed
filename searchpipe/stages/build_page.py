"""page: the best k candidates become hits with fields, scores and reasons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from searchpipe import _core
from searchpipe.arrays import Int32
from searchpipe.page import Hit
from searchpipe.stages.base import Work


class Display(Protocol):
    """What a page shows of a document."""

    def id_of(self, docs: Int32) -> list[str]:
        """The catalog's ids."""
        ...

    def fields(self, docs: Int32) -> list[dict[str, Any]]:
        """The display fields."""
        ...


_SOURCES = ("lexical", "dense")
_RANKED = (*_SOURCES, "fused", "prerank", "score", "diversify")
_FINAL = ("blend", "prerank", "fused")
"""The last order that there is decides on a hit's score."""


class BuildPage:
    """Fills ``hits``. Essential: without it there is no answer."""

    name = "page"
    reads: tuple[str, ...] = ("candidates",)
    writes: tuple[str, ...] = ("hits",)
    essential = True

    def __init__(self, display: Display) -> None:
        self._display = display

    def run(self, work: Work) -> None:
        """Build the hits."""
        candidates = work.candidates
        assert candidates is not None
        n = min(work.query.k, len(candidates))
        if not n:
            work.hits = []
            return
        docs = candidates.docs[:n]
        with work.step(self.name, n):
            ids = self._display.id_of(docs)
            fields = self._display.fields(docs)
            scores = _core.score_rows(candidates.scores, rows=n)
            reasons = _reasons(work, docs)
            rows = zip(range(1, n + 1), ids, map(_final, scores), scores, fields, reasons, strict=True)
            work.hits = _core.slotted(Hit, rows)

    def describe(self) -> str:
        """One line: what it does with which settings."""
        return "ids, display fields, scores and reasons"


def _final(scores: Mapping[str, float]) -> float:
    for name in _FINAL:
        if name in scores:
            return scores[name]
    return 0.0


def _reasons(work: Work, docs: Int32) -> list[tuple[str, ...]]:
    """For each of ``docs``, where the sources and stages put it, in the order of the stages, and why else."""
    orders = {name: order for name in _RANKED if (order := work.orders.get(name)) is not None and len(order)}
    reasons = _core.place_reasons(docs, orders, sources=_SOURCES, fused="fused")
    if work.moved:
        why = [work.moved.get(doc) for doc in docs.tolist()]
        return [(*known, more) if more else known for known, more in zip(reasons, why, strict=True)]
    return reasons
