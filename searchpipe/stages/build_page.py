"""page: the best k candidates become hits with fields, scores and reasons."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

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


@runtime_checkable
class Touchable(Protocol):
    """A :class:`Display` that can bring documents into memory and caches before they are shown."""

    def touch(self, docs: Int32) -> None:
        """Read ahead within a bound of its own, best first."""
        ...


_SOURCES = ("lexical", "dense")
_RANKED = (*_SOURCES, "fused", "prerank", "score", "diversify")
_FINAL = ("blend", "prerank", "fused")
"""The last order that there is decides on a hit's score."""
_AHEAD = 64
"""Candidates that are read ahead, the likeliest to be shown: each costs the thread about a microsecond."""


class BuildPage:
    """Fills ``hits``. Essential: without it there is no answer."""

    name = "page"
    reads: tuple[str, ...] = ("candidates",)
    writes: tuple[str, ...] = ("hits",)
    essential = True

    def __init__(self, display: Display) -> None:
        self._display = display
        self._touchable = display if isinstance(display, Touchable) else None
        self.prepares = self._touchable is not None
        self._writer = _core.HitWriter(Hit, ranked=_RANKED, sources=_SOURCES, fused="fused", final=_FINAL)

    def prepare(self, work: Work) -> None:
        """Read ahead what the page may show: of a large catalog little is in the processor's caches."""
        if self._touchable is not None and work.candidates is not None:
            self._touchable.touch(work.candidates.docs[:_AHEAD])

    def rehearse(self, work: Work) -> None:
        """Build the page of the present order."""
        self.run(work)

    def run(self, work: Work) -> None:
        """Build the hits."""
        candidates = work.candidates
        assert candidates is not None
        n = min(work.query.k, len(candidates.docs))
        if not n:
            work.hits = []
            return
        docs = candidates.docs[:n]
        with work.step(self.name, n):
            ids, fields = self._display.id_of(docs), self._display.fields(docs)
            work.hits = self._writer.write(docs, ids, fields, candidates.scores, work.orders, work.moved)

    def describe(self) -> str:
        """One line: what it does with which settings."""
        return "ids, display fields, scores and reasons"
