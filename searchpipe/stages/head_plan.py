"""A query's head start: all that is known before the last list comes is told to the core beforehand.

Then one call does what remains: it fuses, orders by the formula, measures and begins the pairs, without
Python in between (``_core.HeadPlan``). It serves a query whose stages after recall are a formula, or none,
and a scorer that can plan; others go from stage to stage.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol, cast

from searchpipe.arrays import Float32, Int32
from searchpipe.candidates import Candidates
from searchpipe.runtime.begun_scores import Fusion, PlannedScores, Term
from searchpipe.stages.base import Work
from searchpipe.stages.head_start import Found, HeadStart, Step


class HeadStage(Protocol):
    """A stage that can be planned: one that has ``head_terms`` or ``plan_pairs``."""

    name: str


class FormulaStage(HeadStage, Protocol):
    """Orders the candidates by a formula; its sums are kept under its name."""

    def head_terms(self) -> Sequence[Term] | None:
        """The formula; None if it is more than terms can say."""
        ...


class PlanningStage(HeadStage, Protocol):
    """Scores the first candidates."""

    margin: float

    def plan_pairs(
        self,
        work: Work,
        found: dict[str, tuple[Int32, Float32] | None],
        fusion: Fusion,
        terms: Sequence[Term] | None,
    ) -> PlannedScores | None:
        """All pairs of a query of which one list is still awaited; None if they cannot be planned."""
        ...


@dataclass(slots=True)
class HeadPlan:
    """A query's way from the one list that is awaited to its pairs. Belongs to the query's thread.

    Attributes:
        found: each source's list; None of the one that is awaited.
        orders: the stage that orders; None if there is none.
        scores: the stage that scores.
        planned: its pairs.
    """

    found: dict[str, tuple[Int32, Float32] | None]
    orders: FormulaStage | None
    scores: PlanningStage
    planned: PlannedScores

    def rehearse(self) -> None:
        """Do everything but the beginning, with a list that is known; nothing without one."""
        known = next((one for one in self.found.values() if one is not None), None)
        if known is not None:
            self.planned.rehearse(*known)

    def go(self, work: Work, docs: Int32, scores: Float32) -> HeadStart | None:
        """The list has come; None if the pairs are not begun.

        Raises:
            EngineError, ValueError: they cannot be.
        """
        deadline, stage = work.deadline, self.scores
        if work.degradations or deadline.cancelled:
            return None
        since = time.perf_counter()
        allowance = math.inf if deadline.unlimited else work.allowance_of(stage.name)
        begun = self.planned.begin(docs, scores, allowance, stage.margin)
        if begun is None:
            return None
        try:  # the device has them
            plan = self.planned.plan
            found: Found = {name: one or (docs, scores) for name, one in self.found.items()}
            last = fused = Candidates(*plan.fused("fused"))
            head = HeadStart(found, fused)
            if self.orders is not None:
                last = Candidates(*plan.ordered("fused", self.orders.name))
                head.keep(self.orders.name, Step(fused, since, last))
            details = begun, plan.tokens, plan.deadline
            head.keep(stage.name, Step(last, since, begun=begun, details=details))
        except BaseException:  # a signal's handler
            begun.cancel()
            raise
        return head


def plannable(stages: Sequence[object]) -> list[HeadStage]:
    """Those of ``stages``, in their order, that can be planned, up to the first that cannot."""
    known = takewhile(lambda stage: hasattr(stage, "head_terms") or hasattr(stage, "plan_pairs"), stages)
    return [cast(HeadStage, stage) for stage in known]


def plan_head(
    work: Work,
    found: dict[str, tuple[Int32, Float32] | None],
    fusion: Fusion,
    stages: Sequence[HeadStage],
) -> HeadPlan | None:
    """Plan the stages after recall, ``stages`` in their order; None if they cannot be planned.

    Raises:
        ModelError, ValueError: likewise.
    """
    orders: FormulaStage | None = None
    for stage in stages:
        if stage.name in work.query.without:
            continue
        breaker = None if work.breakers is None else work.breakers.of(stage.name)
        if breaker is not None and breaker.breaker.state != "closed":
            return None
        if hasattr(stage, "plan_pairs"):
            scores = cast(PlanningStage, stage)
            terms = None if orders is None else orders.head_terms()
            if orders is not None and terms is None:
                return None
            planned = scores.plan_pairs(work, found, fusion, terms)
            return None if planned is None else HeadPlan(found, orders, scores, planned)
        if orders is not None or not hasattr(stage, "head_terms"):
            return None
        orders = cast(FormulaStage, stage)
    return None
