"""What stages did of a query before their turn, and for which candidates.

A lone query's device waits from the end of recall's search until it is given the pairs. So what follows is
done the moment that the candidates are known (:mod:`searchpipe.stages.head_plan`), before recall's own books
are closed. A stage, when its turn comes, takes over what was done for it, if it was done for the very
candidates that it is to work on; else that is dropped, and it does everything itself. So nothing depends on a
head start but the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from searchpipe import _core
from searchpipe.arrays import Float32, Int32
from searchpipe.candidates import Candidates
from searchpipe.runtime.begun_scores import Fusion

Found = dict[str, tuple[Int32, Float32]]


class Cancellable(Protocol):
    """Something begun."""

    def cancel(self) -> None:
        """Nobody wants it."""
        ...


@dataclass(slots=True)
class Step:
    """What a stage has done before its turn.

    Attributes:
        given: the candidates that it is for.
        since: when it began, on ``time.perf_counter``.
        made: the candidates that it would leave behind; None if it has only begun something.
        begun: what it has begun.
        details: the stage's own.
    """

    given: Candidates
    since: float
    made: Candidates | None = None
    begun: Cancellable | None = None
    details: Any = None


class HeadStart:
    """What was done of a query before its turn. Belongs to the query's thread.

    Args:
        found: what each source has found, in the order in which it is fused.
        fused: made of that.
    """

    __slots__ = ("_found", "_steps", "fused")

    def __init__(self, found: Found, fused: Candidates) -> None:
        self._found = found
        self._steps: dict[str, Step] = {}
        self.fused = fused

    def follows(self, found: Found) -> bool:
        """Whether it was made of the same arrays."""
        mine = self._found
        return list(mine) == list(found) and all(
            docs is mine[name][0] and scores is mine[name][1] for name, (docs, scores) in found.items()
        )

    def keep(self, stage: str, step: Step) -> None:
        """Remember what ``stage`` has done."""
        self._steps[stage] = step

    def take(self, stage: str, candidates: Candidates) -> Step | None:
        """What ``stage`` has done for ``candidates``, once; what it did for others is dropped."""
        step = self._steps.pop(stage, None)
        if step is None or step.given is candidates:
            return step
        _drop(step)
        return None

    def drop(self) -> None:
        """Cancel what nobody has taken. Idempotent."""
        while self._steps:
            _drop(self._steps.popitem()[1])


def _drop(step: Step) -> None:
    if step.begun is not None:
        step.begun.cancel()


def fused(found: Found, fusion: Fusion) -> Candidates:
    """What sources have found, in this order, as one."""
    docs, scores = _core.fuse_found(found, *fusion, "fused")
    return Candidates(docs, scores) if len(docs) else Candidates.empty()
