"""One query's use of a recall source, of which its breaker is told."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from searchpipe.stages.base import Work


def resting(source: str, work: Work) -> bool:
    """Whether a source has failed so often that it is not the first to be asked."""
    breaker = work.breakers.of_source(source) if work.breakers is not None else None
    return breaker is not None and breaker.breaker.state != "closed"


class SourceTrial:
    """A context in which the source is searched; what happens there is its breaker's business.

    Belongs to the query's thread.

    Args:
        source: its name.
        work: the query.

    Attributes:
        admitted: false: it is better left out.
    """

    __slots__ = ("_begin", "_breaker", "_given", "_said", "_work", "admitted")

    def __init__(self, source: str, work: Work) -> None:
        self._work = work
        breaker = work.breakers.of_source(source) if work.breakers is not None else None
        self._breaker = breaker
        self._given = 0 if breaker is None else breaker.admit()
        self.admitted = breaker is None or self._given > 0

    @property
    def reason(self) -> str:
        """Why it is left out."""
        return "" if self._breaker is None else self._breaker.reason

    def abandon(self) -> None:
        """It is not to be searched after all."""
        if self._breaker is not None:
            self._breaker.breaker.abandoned(self._given)

    def __enter__(self) -> None:
        self._begin = self._work.deadline.elapsed()
        self._said = len(self._work.degradations)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        breaker, work = self._breaker, self._work
        if breaker is None:
            return
        if error is not None:
            breaker.raised(self._given, error)
            return
        allowed_s = work.deadline.budget_s - self._begin - work.reserve_s
        seconds = work.deadline.elapsed() - self._begin
        if seconds > allowed_s or len(work.degradations) > self._said or not breaker.breaker.spotless:
            breaker.returned(self._given, seconds, allowed_s, work.degradations[self._said :])
