"""What came of one query: an answer, or why there is none, and when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from searchpipe.page import Page
from searchpipe.replay.entry import Entry

Kind = Literal["answered", "shed", "error", "timeout", "dropped"]
"""answered; shed: refused at once because of the load; error: failed; timeout: no answer within the
patience; dropped: it could not even be started within it."""

KINDS: tuple[Kind, ...] = ("answered", "shed", "error", "timeout", "dropped")


@dataclass(frozen=True, slots=True)
class Item:
    """One place of a result page."""

    id: str
    score: float
    title: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A result page, as far as replay looks at it. Immutable.

    Attributes:
        items: best first.
        total_ms: by the pipeline's own trace.
        budget_ms: that the pipeline worked with; infinite without a limit.
        degradations: stage, reason and share given up.
        spans: stage, start and duration in milliseconds.
        snapshot: version that answered.
        cached: it was made for an earlier query.
    """

    items: tuple[Item, ...]
    total_ms: float
    budget_ms: float
    degradations: tuple[tuple[str, str, float], ...] = ()
    spans: tuple[tuple[str, float, float], ...] = ()
    snapshot: str = ""
    cached: bool = False

    @property
    def ids(self) -> tuple[str, ...]:
        """Product ids, best first."""
        return tuple(item.id for item in self.items)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One query of a replay. Immutable. Times are seconds from the start of the replay.

    Attributes:
        entry: the query.
        kind: see :data:`Kind`.
        at: intended start; latency counts from here, so that a late start is not forgiven.
        started: when it was sent; for a dropped one, when it was given up.
        done: when it was over; for a dropped one at least its patience after ``at``.
        answer: of an answered one.
        code: of an error or a refusal.
    """

    entry: Entry
    kind: Kind
    at: float
    started: float
    done: float
    answer: Answer | None = None
    code: str = ""

    @property
    def latency_ms(self) -> float:
        """From the intended start, in milliseconds."""
        return max(0.0, self.done - self.at) * 1e3


def answer_of(page: Page) -> Answer:
    """Of a page from a pipeline in this process."""
    return Answer(
        tuple(Item(hit.id, hit.score, _title(hit.fields, hit.id)) for hit in page.hits),
        page.trace.total_ms,
        page.trace.budget_ms,
        tuple((d.stage, d.reason, d.amount) for d in page.degradations),
        tuple((span.stage, span.start_ms, span.ms) for span in page.trace.spans),
        page.snapshot,
        page.cached,
    )


def _title(fields: Mapping[str, Any], otherwise: str) -> str:
    return str(fields.get("title") or otherwise)[:200]
