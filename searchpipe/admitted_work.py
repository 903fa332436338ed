"""What a service means for one query: stages left out, and a shorter time for those that remain."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from searchpipe.allotment import Allotment, Service
from searchpipe.stages.base import Stage, Work

if TYPE_CHECKING:
    from searchpipe.cost_model import CostModel
    from searchpipe.deadline import Deadline
    from searchpipe.query import Query

_SCORE = "score"
_OF_TIME = frozenset({"deadline", "shortened", "busy"})


class Services:
    """Which stages each service leaves out. Immutable, so any thread may ask.

    Args:
        stages: in the order they run.
        needed: slots that recall cannot do without; tokens and vector where it has no lexical source.
    """

    def __init__(self, stages: Sequence[Stage], needed: Sequence[str] = ()) -> None:
        optional = {stage.name for stage in stages if not stage.essential}
        lightest = frozenset(optional - _kept(stages, needed))
        unscored = frozenset({_SCORE} & optional & lightest)
        self._without = {
            Service.FULL: frozenset[str](),
            Service.SHORTENED: frozenset[str](),
            Service.UNSCORED: unscored,
            Service.LIGHTEST: lightest,
        }

    def without(self, service: Service) -> frozenset[str]:
        """Names of the stages that it leaves out."""
        return self._without[service]


def _kept(stages: Sequence[Stage], needed: Sequence[str]) -> set[str]:
    """Optional stages that fill a slot which an essential one reads and no essential one before it fills."""
    kept: set[str] = set()
    slots = set(needed)
    for place in range(len(stages) - 1, -1, -1):
        stage = stages[place]
        if stage.essential or slots.intersection(stage.writes):
            if not stage.essential:
                if any(s.essential and slots.intersection(s.writes, stage.writes) for s in stages[:place]):
                    continue
                kept.add(stage.name)
            slots.difference_update(stage.writes)
            slots.update(stage.reads)
    return kept


class AdmittedWork(Work):
    """A query whose time is also limited by what others need. Owned as :class:`Work` is."""

    __slots__ = ("_bound", "_end_s", "_pressed", "done_at", "service")

    def __init__(self, query: Query, deadline: Deadline, costs: CostModel) -> None:
        super().__init__(query, deadline, costs)
        self._end_s = math.inf
        self._bound = False
        self.done_at = math.inf
        """When it ended, on the clock of its deadline."""
        self.service = Service.FULL
        """What it was given; see :meth:`allot`."""
        self._pressed: Callable[[], bool] | None = None

    def allot(self, allotment: Allotment, services: Services, pressed: Callable[[], bool]) -> None:
        """Set its service, before the first stage; what it leaves out is said on the page.

        Args:
            allotment: what it may use.
            services: what that means.
            pressed: whether others wait too long for a thread; asked between the steps of the score stage,
                which can end after any of them.
        """
        self.service = allotment.service
        self.shared = True
        self._pressed = pressed
        self._end_s = self.deadline.elapsed() + allotment.limit_s
        left_out = services.without(allotment.service) - self.query.without
        if left_out:
            for name in sorted(left_out):
                self.stage = name
                self.degrade("admission", name)
            self.query = replace(self.query, without=self.query.without | left_out)

    def allowance(self) -> float:
        """See :meth:`searchpipe.stages.base.Work.allowance`; also within what the others leave."""
        return self.allowance_at(self.deadline.elapsed())

    def allowance_at(self, elapsed: float) -> float:
        """See :meth:`searchpipe.stages.base.Work.allowance_at`."""
        own = self.deadline.budget_s - elapsed - self.reserve_s  # as Work's, asked for a dozen times a query
        if self.deadline.unlimited:
            return own
        if self.stage == _SCORE and self._pressed is not None and self._pressed():
            self._bound = own > 0
            return min(own, 0.0)
        if self._end_s == math.inf:
            self._bound = False
            return own
        limit = self._end_s - elapsed - self.reserve_s
        self._bound = limit < own
        return min(own, limit)

    def degrade(self, reason: str, given_up: str, amount: float = 1.0) -> None:
        """See :meth:`searchpipe.stages.base.Work.degrade`; for others' sake: ``admission``."""
        super().degrade("admission" if self._bound and reason in _OF_TIME else reason, given_up, amount)
