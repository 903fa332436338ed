"""Runs the stages of one query in order, inside its deadline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from searchpipe import _core
from searchpipe.cost_model import CostModel
from searchpipe.deadline import ANSWERING, QueryCancelled
from searchpipe.device import nvtx
from searchpipe.errors import PipelineError
from searchpipe.page import Page, Span, Trace
from searchpipe.stage_breakers import StageBreaker, StageBreakers
from searchpipe.stages.base import SLOTS, EarlyStage, PreparingStage, Stage, Work


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
        self._places = {stage.name: place for place, stage in enumerate(self.stages)}
        self._kinds = tuple(f"stage:{stage.name}" for stage in self.stages)
        self._plan = [self._planned(place) for place in range(len(self.stages))]
        self._shares = [shares.get(stage.name) for stage in self.stages]
        self._limits: tuple[float, tuple[float | None, ...]] = (0.0, ())  # of the budget asked for last

    def _planned(self, place: int) -> _Planned:
        stage = self.stages[place]
        later = tuple(s for s in self.stages[place + 1 :] if isinstance(s, PreparingStage) and s.prepares)
        breaker = None if stage.essential else self.breakers.of(stage.name)
        typed = set(SLOTS).issuperset(stage.reads)
        return _Planned(stage, stage.name, stage.essential, typed, later, self._kinds[place], breaker)

    def run(self, work: Work, *, snapshot: str = "", engine: str = "") -> Page:
        """Answer one query; ``snapshot`` and ``engine`` are the versions that the page names.

        Raises:
            QueryCancelled: the caller has left.
        """
        work.breakers = self.breakers
        answering = ANSWERING.set(work.deadline)
        work.gather_costs(True)
        try:
            return self._run(work, snapshot, engine)
        finally:
            if work.head is not None:
                work.head.drop()
            work.gather_costs(False)
            ANSWERING.reset(answering)

    def _run(self, work: Work, snapshot: str, engine: str) -> Page:
        for early in self._early:
            # A failure is the stage's own, when its turn comes: it will try again then.
            try:  # noqa: SIM105  (a context manager costs as much as a stage's own bookkeeping)
                early.start_early(work)
            except Exception:
                pass
        deadline, made = work.deadline, _core.made
        traced = nvtx.enabled()
        reserves = self._reserves(work)
        work.reserves = self._places, reserves
        spans: list[Span] = []
        end, n_out = deadline.elapsed(), _size(work)
        for planned, reserve in zip(self._plan, reserves, strict=True):
            if deadline.cancelled:
                raise QueryCancelled
            begin, n_in = end, n_out
            work.reserve_s, work.later = reserve, planned.later
            end = self._run_stage(planned, work, begin, traced)
            n_out = _size(work)
            start_ms, ms = begin * 1e3, (end - begin) * 1e3
            spans.append(made(Span, planned.name, start_ms, ms, n_in, n_out, work.decision, work.units))
        total_ms, longest_ms = work.lap() * 1e3, work.longest_step_s * 1e3
        trace = made(Trace, total_ms, deadline.budget_s * 1e3, longest_ms, tuple(spans))
        hits, given_up = tuple(work.hits or ()), tuple(work.degradations)
        return made(Page, work.query.text, hits, given_up, trace, snapshot, work.extras, engine, False)

    def _run_stage(self, planned: _Planned, work: Work, begin: float, traced: bool) -> float:
        """Run a stage that begins now; returns when it ended, both in seconds since the query began."""
        stage, name, essential, typed, _, kind, breaker = planned
        work.stage, work.decision, work.essential, work.units = name, "", essential, 0
        deadline, without = work.deadline, work.query.without
        if without and name in without:
            work.decision = "switched off"
            return work.lap()
        for slot in stage.reads:
            if (getattr(work, slot) is None) if typed else not work.holds(slot):
                self._follow(stage, work)
                return work.lap()
        if deadline.unlimited:
            allowance = math.inf
        elif work.shared:
            allowance = work.allowance_at(begin)
        else:  # the same, without the call
            allowance = deadline.budget_s - begin - work.reserve_s
        if allowance <= 0 and not essential:
            work.degrade("deadline", name)
            work.decision = "skipped: no time left"
            return work.lap()
        given = 0
        if breaker is not None and not (given := breaker.admit()):
            work.degrade("circuit_open", f"{name} ({breaker.reason})")
            work.decision = f"left out: {breaker.reason}"
            return work.lap()
        before = len(work.degradations)
        try:
            if traced:
                with nvtx.range(kind):
                    stage.run(work)
            else:
                stage.run(work)
        except BaseException as error:
            if breaker is not None:
                breaker.raised(given, error)
            if isinstance(error, QueryCancelled) or not isinstance(error, Exception):
                raise
            work.degrade("stage_failed", f"{name} ({type(error).__name__}: {error})")
            work.decision = f"failed: {error}"
            return work.lap()
        end = work.lap()
        seconds = end - begin
        # `stage:` keeps whole stages apart from the steps inside them.
        work.observe(kind, 1, seconds)
        if breaker is not None and not (
            seconds <= allowance and len(work.degradations) == before and breaker.breaker.spotless
        ):
            breaker.returned(given, seconds, allowance, work.degradations[before:])
        return end

    @staticmethod
    def _follow(stage: Stage, work: Work) -> None:
        """Skip a stage that lacks a slot; one that gave up before it has said why, or was not wanted."""
        missing = ", ".join(slot for slot in stage.reads if not work.holds(slot))
        if not work.query.without and not any(d.stage != stage.name for d in work.degradations):
            work.degrade("missing_input", f"{stage.name} (no {missing})")
        work.decision = f"skipped: no {missing}"

    def _reserves(self, work: Work) -> list[float]:
        """For each stage, seconds to keep for those after it: what they cost lately, within their shares."""
        deadline, without = work.deadline, work.query.without
        if deadline.unlimited:
            return [0.0] * len(self.stages)
        budget, limits = self._limits  # one tuple, so that threads never mix two
        if without or budget != deadline.budget_s:
            budget = deadline.budget_s
            limits = tuple(
                None if share is None or planned.name in without else share * budget
                for planned, share in zip(self._plan, self._shares, strict=True)
            )
            if not without:
                self._limits = budget, limits
        return self.costs.reserves(self._kinds, limits)


class _Planned(NamedTuple):
    """What the runner needs of a stage for every query."""

    stage: Stage
    name: str
    essential: bool
    typed: bool  # it reads no slot of a user's own
    later: tuple[PreparingStage, ...]
    kind: str
    breaker: StageBreaker | None


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
