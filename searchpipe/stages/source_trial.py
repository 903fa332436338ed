"""One query's use of a recall source, of which its breaker is told."""

from __future__ import annotations

import math
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from searchpipe.stages.base import Work


def resting(source: str, work: Work) -> bool:
    """Whether a source has failed so often that it is not the first to be asked."""
    breaker = work.breakers.of(f"recall.{source}") if work.breakers is not None else None
    return breaker is not None and breaker.breaker.state != "closed"


class SourceTrial:
    """A context in which the source is searched; what happens there is its breaker's business.

    Belongs to the query's thread.

    Args:
        source: its name.
        work: the query.
    """

    __slots__ = ("_allowed_s", "_begin", "_breaker", "_given", "_said", "_work")

    def __init__(self, source: str, work: Work) -> None:
        self._work = work
        self._breaker = work.breakers.of(f"recall.{source}") if work.breakers is not None else None
        self._given = self._breaker.admit() if self._breaker is not None else 0

    @property
    def admitted(self) -> bool:
        """False: it is better left out."""
        return self._breaker is None or self._given > 0

    @property
    def reason(self) -> str:
        """Why it is left out."""
        return self._breaker.reason if self._breaker is not None else ""

    def __enter__(self) -> None:
        deadline = self._work.deadline
        self._allowed_s = math.inf if deadline.unlimited else self._work.allowance()
        self._begin, self._said = deadline.elapsed(), len(self._work.degradations)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._breaker is None:
            return
        if error is not None:
            self._breaker.raised(self._given, error)
            return
        seconds = self._work.deadline.elapsed() - self._begin
        said = self._work.degradations[self._said :]
        self._breaker.returned(self._given, seconds, self._allowed_s, said)
