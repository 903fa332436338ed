"""Runs the stages of one query in order, inside its deadline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress

from searchpipe import _core
from searchpipe.cost_model import CostModel
from searchpipe.deadline import ANSWERING, QueryCancelled
from searchpipe.device import nvtx
from searchpipe.errors import PipelineError
from searchpipe.page import Page, Span, Trace
from searchpipe.stage_breakers import StageBreakers
from searchpipe.stages.base import EarlyStage, PreparingStage, Stage, Work


class StageRunner:
    """Policy around the stages: time kept for later ones, failures turned into degradations, a trace.

    ``run`` may be called from many threads, each with its own :class:`Work`.

    Args:
        stages: in the order they run.
        shares: stage -> the most of the budget (0 to 1) that earlier stages keep free for it.
        costs: what steps have cost so far.
        breakers: of the stages that are not essential, and of what stages can do without themselves.

    Raises:
        PipelineError: the stages do not fit together.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        shares: Mapping[str, float],
        costs: CostModel,
        breakers: StageBreakers | None = None,
    ) -> None:
        self.stages = tuple(stages)
        self.costs = costs
        self.breakers = breakers or StageBreakers(shares=shares)
        check_stages(self.stages)
        self._early = [stage for stage in self.stages if isinstance(stage, EarlyStage)]
        self._later = [
            tuple(s for s in self.stages[place + 1 :] if isinstance(s, PreparingStage) and s.prepares)
            for place in range(len(self.stages))
        ]
        self._ranges = [f"stage:{stage.name}" for stage in self.stages]
        self._breakers = [None if s.essential else self.breakers.of(s.name) for s in self.stages]
        # From the last stage to the second: another one takes what is left.
        self._reserving = [
            (place - 1, stage.name, shares.get(stage.name), self._ranges[place])
            for place, stage in enumerate(self.stages)
            if place
        ][::-1]

    def run(self, work: Work, *, snapshot: str = "", engine: str = "") -> Page:
        """Answer one query; ``snapshot`` and ``engine`` are the versions that the page names.

        Raises:
            QueryCancelled: the caller has left.
        """
        work.breakers = self.breakers
        answering = ANSWERING.set(work.deadline)
        try:
            return self._run(work, snapshot, engine)
        finally:
            ANSWERING.reset(answering)

    def _run(self, work: Work, snapshot: str, engine: str) -> Page:
        for early in self._early:
            # A failure is the stage's own, when its turn comes: it will try again then.
            with suppress(Exception):
                early.start_early(work)
        deadline = work.deadline
        reserves = self._reserves(work)
        spans: list[tuple[str, float, float, int, int, str, int]] = []
        end, n_out = deadline.elapsed(), _size(work)
        for place, stage in enumerate(self.stages):
            if deadline.cancelled:
                raise QueryCancelled
            begin, n_in = end, n_out
            work.reserve_s, work.later = reserves[place], self._later[place]
            end = self._run_stage(place, stage, work, begin)
            work.mark()
            n_out = _size(work)
            spans.append(
                (stage.name, begin * 1e3, (end - begin) * 1e3, n_in, n_out, work.decision, work.units)
            )
        total = deadline.elapsed()
        work.mark()
        timeline = tuple(_core.slotted(Span, spans))
        trace = Trace(total * 1e3, deadline.budget_s * 1e3, work.longest_step_s * 1e3, timeline)
        hits, given_up = tuple(work.hits or ()), tuple(work.degradations)
        return Page(work.query.text, hits, given_up, trace, snapshot, work.extras, engine)

    def _run_stage(self, place: int, stage: Stage, work: Work, begin: float) -> float:
        """Run a stage that begins now; returns when it ended, both in seconds since the query began."""
        work.stage, work.decision, work.essential, work.units = stage.name, "", stage.essential, 0
        deadline, without = work.deadline, work.query.without
        if without and stage.name in without:
            work.decision = "switched off"
            return deadline.elapsed()
        missing = [slot for slot in stage.reads if not work.holds(slot)] if stage.reads else None
        if missing:
            # An earlier stage that gave up has said why, or was not wanted; this one only follows.
            if not without and not any(d.stage != stage.name for d in work.degradations):
                work.degrade("missing_input", f"{stage.name} (no {', '.join(missing)})")
            work.decision = f"skipped: no {', '.join(missing)}"
            return deadline.elapsed()
        allowance = math.inf if deadline.unlimited else work.allowance()
        if not stage.essential and allowance <= 0:
            work.degrade("deadline", stage.name)
            work.decision = "skipped: no time left"
            return deadline.elapsed()
        breaker = self._breakers[place]
        given = 0 if breaker is None else breaker.admit()
        if breaker is not None and not given:
            work.degrade("circuit_open", f"{stage.name} ({breaker.reason})")
            work.decision = f"left out: {breaker.reason}"
            return deadline.elapsed()
        before = len(work.degradations)
        try:
            if nvtx.enabled():
                with nvtx.range(self._ranges[place]):
                    stage.run(work)
            else:
                stage.run(work)
        except BaseException as error:
            if breaker is not None:
                breaker.raised(given, error)
            if isinstance(error, QueryCancelled) or not isinstance(error, Exception):
                raise
            work.degrade("stage_failed", f"{stage.name} ({type(error).__name__}: {error})")
            work.decision = f"failed: {error}"
            return deadline.elapsed()
        end = deadline.elapsed()
        seconds = end - begin
        # `stage:` keeps whole stages apart from the steps inside them.
        self.costs.observe(self._ranges[place], 1, seconds)
        if breaker is not None and not (
            seconds <= allowance and len(work.degradations) == before and breaker.breaker.spotless
        ):
            breaker.returned(given, seconds, allowance, work.degradations[before:])
        return end

    def _reserves(self, work: Work) -> list[float]:
        """For each stage, seconds to keep for those after it: what they cost lately, within their shares."""
        reserves = [0.0] * len(self.stages)
        if work.deadline.unlimited:
            return reserves
        budget, total, without = work.deadline.budget_s, 0.0, work.query.without
        predict = self.costs.predict
        for place, name, share, kind in self._reserving:
            if share is not None and name not in without:
                limit, expected = share * budget, predict(kind, 1)
                total += limit if expected is None or expected > limit else expected
            reserves[place] = total
        return reserves


def check_stages(stages: Sequence[Stage]) -> None:
    """Refuse stages that cannot run in this order.

    Raises:
        PipelineError: no stages, two of one name, not a stage, a slot that is read
            before any stage has written it, or no ``hits`` at the end.
    """
    names: set[str] = set()
    filled: set[str] = set()
    for stage in stages:
        if not isinstance(stage, Stage):
            raise PipelineError(
                f"{stage!r} is not a stage.",
                cure="It needs name, reads, writes, essential, run() and describe().",
            )
        if stage.name in names:
            raise PipelineError(f"Two stages are named {stage.name!r}.", cure="Rename one.")
        names.add(stage.name)
        for slot in stage.reads:
            if slot not in filled:
                raise PipelineError(
                    f"Stage {stage.name!r} reads {slot!r}, which no stage before it writes.",
                    cure=f"Written so far: {', '.join(sorted(filled)) or 'nothing'}.",
                )
        filled.update(stage.writes)
    if "hits" not in filled:
        raise PipelineError("No stage writes 'hits'.", cure="End with the stage 'page' or one of your own.")


def _size(work: Work) -> int:
    if work.hits is not None:
        return len(work.hits)
    return len(work.candidates.docs) if work.candidates is not None else 0
