"""page: the best k candidates become hits with fields, scores and reasons."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

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


_RANKED = ("lexical", "dense", "fused", "prerank", "score", "diversify")


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
        assert work.candidates is not None
        top = work.candidates.take(np.arange(min(work.query.k, len(work.candidates))))
        if not len(top):
            work.hits = []
            return
        with work.step(self.name, len(top)):
            ids = self._display.id_of(top.docs)
            fields = self._display.fields(top.docs)
            columns = {name: column.tolist() for name, column in top.scores.items()}
            places = _places(work, top.docs)
            work.hits = [
                _hit(row, ids[row], fields[row], columns, places, work.moved.get(doc))
                for row, doc in enumerate(top.docs.tolist())
            ]

    def describe(self) -> str:
        """One line: what it does with which settings."""
        return "ids, display fields, scores and reasons"


def _hit(
    row: int,
    id_: str,
    fields: dict[str, Any],
    columns: dict[str, list[float]],
    places: dict[str, list[int]],
    moved: str | None,
) -> Hit:
    scores = {n: v for n, column in columns.items() if (v := column[row]) == v}  # NaN: never scored
    final = next((scores[n] for n in ("blend", "prerank", "fused") if n in scores), 0.0)
    return Hit(row + 1, id_, final, scores, fields, _reasons(places, row, moved))


def _places(work: Work, docs: Int32) -> dict[str, list[int]]:
    """Stage -> place (from 1; 0 for absent) that it gave each of ``docs``."""
    orders = {name: order for name in _RANKED if (order := work.orders.get(name)) is not None and len(order)}
    # One comparison over all orders: a page has few documents, and NumPy's calls cost more than its loops.
    every = np.concatenate(list(orders.values())) if orders else np.empty(0, np.int32)
    rows, found = np.divmod(np.flatnonzero(every == docs[:, None]), max(1, len(every)))
    places = np.zeros((len(orders), len(docs)), np.int64)
    starts = np.cumsum([0, *(len(order) for order in orders.values())])
    which = np.searchsorted(starts, found, side="right") - 1
    places[which, rows] = found - starts[which] + 1
    return dict(zip(orders, places.tolist(), strict=True))


def _reasons(places: dict[str, list[int]], row: int, moved: str | None) -> tuple[str, ...]:
    reasons: list[str] = []
    before = 0
    for name, column in places.items():
        place = column[row]
        if name in ("lexical", "dense"):
            reasons.append(f"{name} rank {place}" if place else f"not found by {name} recall")
            continue
        if name == "fused":
            reasons.append(f"fused rank {place}")
        elif place and before and place != before:
            reasons.append(f"{name} moved it {'up' if place < before else 'down'} {abs(before - place)}")
        before = place or before
    if moved:
        reasons.append(moved)
    return tuple(reasons)
