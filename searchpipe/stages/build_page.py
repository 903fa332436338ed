"""page: the best k candidates become hits with fields, scores and reasons."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from searchpipe import _core
from searchpipe.arrays import Int32
from searchpipe.candidates import Candidates
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
            moved = [work.moved.get(doc, "") for doc in docs.tolist()] if work.moved else [""] * n
            rows = zip(ids, fields, _scores(candidates, n), _reasons(work, docs), moved, strict=True)
            work.hits = [
                Hit(rank, id_, _final(scores), scores, shown, (*reasons, why) if why else reasons)
                for rank, (id_, shown, scores, reasons, why) in enumerate(rows, 1)
            ]

    def describe(self) -> str:
        """One line: what it does with which settings."""
        return "ids, display fields, scores and reasons"


def _scores(candidates: Candidates, n: int) -> Iterable[dict[str, float]]:
    """What each stage gave each of the first ``n``, without those it never scored (NaN)."""
    names = tuple(candidates.scores)
    if not names:
        return [{} for _ in range(n)]
    rows = zip(*[column[:n].tolist() for column in candidates.scores.values()], strict=True)
    return [{name: value for name, value in zip(names, row, strict=True) if value == value} for row in rows]


def _final(scores: dict[str, float]) -> float:
    for name in _FINAL:
        if name in scores:
            return scores[name]
    return 0.0


def _reasons(work: Work, docs: Int32) -> list[tuple[str, ...]]:
    """For each of ``docs``, where the sources and stages put it, in the order of the stages."""
    orders = {name: order for name in _RANKED if (order := work.orders.get(name)) is not None and len(order)}
    if not orders:
        return [()] * len(docs)
    names = tuple(orders)
    rows = zip(*_core.places_in(docs, list(orders.values())), strict=True)
    return [_reasons_of(names, places) for places in rows]


def _reasons_of(names: tuple[str, ...], places: tuple[int, ...]) -> tuple[str, ...]:
    """From the places (from 1; 0 for absent) that one document got."""
    reasons: list[str] = []
    before = 0
    for name, place in zip(names, places, strict=True):
        if name in _SOURCES:
            reasons.append(f"{name} rank {place}" if place else f"not found by {name} recall")
            continue
        if name == "fused":
            reasons.append(f"fused rank {place}")
        elif place and before and place != before:
            reasons.append(f"{name} moved it {'up' if place < before else 'down'} {abs(before - place)}")
        before = place or before
    return tuple(reasons)
