"""What comes after a wait for a device is tried before it ends: code and data are in the caches then."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from searchpipe.stages.base import Work

_LEAST_S = 1e-3
"""Left to a stage that may still rehearse: far more than that and the rest of the wait take."""


class RehearsingStage(Protocol):
    """A stage that can be tried before its turn: the one that waits, or a preparing one behind it.

    One of those (:class:`searchpipe.stages.base.PreparingStage`) that has ``rehearse`` is taken to be one.

    Attributes:
        name: as the stage's.
        reads: as the stage's: without these slots there is nothing to rehearse.
    """

    name: str
    reads: tuple[str, ...]

    def rehearse(self, work: Work) -> None:
        """Do what ``run`` will do once the scores are there, with what is known now.

        Called on the query's own thread, perhaps never and at most once, some 0.3 ms before an earlier
        stage's wait for a GPU ends, if no other query has work there. ``work`` is a copy that is
        thrown away, and the stages between have rehearsed on it: its slots may be written, but not the arrays
        in them, and nothing may be kept. Others wait for the GIL: it may take no longer than ``run``. What
        it raises is ignored.
        """
        ...


class Rehearsal(Work):
    """A copy of a query's state whose changes and observations concern nobody. Owned by one thread."""

    __slots__ = ()

    def __init__(self, work: Work) -> None:
        super().__init__(work.query, work.deadline, work._costs)
        self.tokens, self.pair_tokens, self.vector = work.tokens, work.pair_tokens, work.vector
        if (candidates := work.candidates) is not None:
            carried = candidates.carried
            if carried is not None:
                carried = carried._replace(columns=dict(carried.columns))
            self.candidates = replace(candidates, scores=dict(candidates.scores), carried=carried)
        self.orders, self.moved, self.extras = dict(work.orders), dict(work.moved), dict(work.extras)
        self.reserve_s, self.shared = work.reserve_s, work.shared

    def observe(self, kind: str, size: float, seconds: float) -> None:
        """Nothing: how long a rehearsal takes tells nobody how long a query will."""


def rehearse(work: Work, stages: Sequence[object]) -> None:
    """Let those of ``stages`` that can rehearse do so, in order; ``work`` itself stays as it is.

    What they raise is not an answer's business. Nothing is done if the caller has left or the budget is
    nearly spent.
    """
    if work.deadline.cancelled or work.allowance() < _LEAST_S:
        return
    trial = Rehearsal(work)
    for stage in stages:
        tried: RehearsingStage | None = stage if hasattr(stage, "rehearse") else None  # type: ignore[assignment]
        if tried is None or tried.name in work.query.without:
            continue
        trial.stage = tried.name
        with suppress(Exception):
            if all(trial.holds(slot) for slot in tried.reads):
                tried.rehearse(trial)
