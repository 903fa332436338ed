"""What a caller gets back: a page of hits with reasons, degradations and a trace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Hit:
    """One product on the page.

    Attributes:
        rank: 1 for the first.
        id: the catalog's own id.
        score: the value that the final order was made from; only comparable within one page.
        scores: each stage's own score for this product, without those it never got.
        fields: the display fields stored in the snapshot.
        reasons: why it stands here, in the order of the stages (``"lexical rank 3"``,
            ``"moved down 2: at most 2 of brand in 10"``).
    """

    rank: int
    id: str
    score: float
    scores: dict[str, float]
    fields: dict[str, Any]
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Degradation:
    """Something given up to answer in time or in spite of a failure.

    Attributes:
        stage: the stage that gave it up.
        reason: one of :data:`searchpipe.deadline.REASONS`.
        given_up: what was left out, in words (``"scored 12 of 64 candidates"``).
        amount: the share left out, from 0 (nothing) to 1 (the whole stage).
    """

    stage: str
    reason: str
    given_up: str
    amount: float


@dataclass(frozen=True, slots=True)
class Span:
    """One stage's part of a trace; times in milliseconds from the query's start.

    ``units`` counts what the stage did where it counts anything: for ``score``, pairs.
    """

    stage: str
    start_ms: float
    ms: float
    n_in: int
    n_out: int
    decision: str = ""
    units: int = 0


@dataclass(frozen=True, slots=True)
class Trace:
    """What happened to one query, in the order of the stages.

    ``longest_step_ms`` is the longest piece of work that could not be
    interrupted; once the budget is spent, what an answer cannot do without
    (lexical recall, the page) belongs to the step that spent it. An answer is
    late by that much and no more.
    """

    total_ms: float
    budget_ms: float
    longest_step_ms: float
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """The answer to one query: iterable and indexable like a list of :class:`Hit`.

    ``snapshot`` names the version of the data that made it, ``engine`` that of the models and settings.
    ``cached``: it was made for an earlier query; the trace is this query's own.
    """

    query: str
    hits: tuple[Hit, ...]
    degradations: tuple[Degradation, ...]
    trace: Trace
    snapshot: str = ""
    extras: dict[str, Any] = field(default_factory=dict)
    engine: str = ""
    cached: bool = False

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)

    def __getitem__(self, index: int) -> Hit:
        return self.hits[index]

    @property
    def degraded(self) -> bool:
        """Whether anything was given up."""
        return bool(self.degradations)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return asdict(self)
