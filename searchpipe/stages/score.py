"""score: a cross-encoder reads the best candidates, as many as the time allows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import numpy as np

from searchpipe import _core
from searchpipe._core import TokenStore
from searchpipe.arrays import Float32, Int32
from searchpipe.errors import OverloadedError
from searchpipe.gate import ComputeGate
from searchpipe.runtime.begun_scores import Fusion, PlannedScores, Term
from searchpipe.runtime.forecast import Forecast, Outlook
from searchpipe.runtime.pair_scorer import ChainPairScorer
from searchpipe.stages.base import Work
from searchpipe.stages.forecasting import (
    ForecastingScorer,
    OutlookScorer,
    begin_by,
    takes_before_end,
    takes_meanwhile,
)
from searchpipe.stages.head_start import Step
from searchpipe.stages.rehearsal import rehearse

_MARGIN = 1.2
"""Of a predicted request, for what the prediction does not see; less would make whole requests late."""


class PairScorer(Protocol):
    """Scores (query, document) pairs; :class:`searchpipe.backends.cross_encoder.PairScorer` is one.

    Called from many threads.
    """

    def lengths(self, query_ids: Int32, store: TokenStore, docs: Int32) -> Int32:
        """Tokens of each pair's row, int32 ``(n,)``."""
        ...

    def score(self, query_ids: Int32, store: TokenStore, docs: Int32) -> Float32:
        """Logits float32 ``(n,)``, in the order of ``docs``: one uninterruptible step."""
        ...


class Score:
    """Blends a cross-encoder's opinion into the order of the first ``depth`` candidates.

    Candidates are scored from the best down; those that no time was left for keep
    their order behind the scored ones. A scorer that predicts its own costs gets, in one
    request, as many as it says will be done within what is left of the budget; another one
    gets doubling steps that the cost model says fit. The blended score is
    ``weight * sigmoid(logit / temperature) + (1 - weight) * place``, where place falls linearly
    from 1 at the first candidate to 0 at the ``depth``-th, so that it does not
    depend on how many were scored.

    Raw logits are kept under ``score``, the blended ones under ``blend``.

    Args:
        scorer: the engine; perhaps a :class:`searchpipe.stages.forecasting.ForecastingScorer`.
        store: the documents' token ids.
        gate: shared with the other stages that run models on the same cores; a scorer that predicts
            merges its callers itself and needs none.
        depth: candidates to score at most.
        step_rows: pairs in one step at most, unless the scorer predicts. The answer can be late by one step.
        weight: of the cross-encoder against the order before it, 0 to 1.
        temperature: of the sigmoid, in logits.
        model: its name, for :meth:`describe`.
    """

    margin = _MARGIN
    name = "score"
    reads: tuple[str, ...] = ("pair_tokens", "candidates")
    writes: tuple[str, ...] = ("candidates",)
    essential = False

    def __init__(
        self,
        scorer: PairScorer,
        store: TokenStore,
        gate: ComputeGate,
        *,
        depth: int = 100,
        step_rows: int = 16,
        weight: float = 0.5,
        temperature: float = 3.0,
        model: str = "cross-encoder",
    ) -> None:
        self._scorer = scorer
        self._forecasting = cast(ForecastingScorer, scorer) if hasattr(scorer, "predict") else None
        foresees = self._forecasting is not None and hasattr(scorer, "outlook")
        self._foresees = cast(OutlookScorer, scorer) if foresees else None
        # One whose `score` was written anew is asked by that alone.
        self._plans = scorer if isinstance(scorer, ChainPairScorer) and _scores_as_written(scorer) else None
        self._leaves_time = self._forecasting is not None and takes_meanwhile(self._forecasting)
        self._rehearses = self._forecasting is not None and takes_before_end(self._forecasting)
        self._request = f"{self.name} request"
        self._store = store
        self._gate = gate
        self._depth = depth
        self._step_rows = step_rows
        self._weight = weight
        self._temperature = temperature
        self._model = model
        places: Float32 = np.clip(1.0 - np.arange(depth, dtype=np.float32) / depth, 0.0, 1.0)
        self._prior: Float32 = (1.0 - weight) * places

    def run(self, work: Work) -> None:
        """Score as many candidates as fit, then reorder them."""
        candidates = work.candidates
        assert candidates is not None
        assert work.pair_tokens is not None
        wanted = min(self._depth, len(candidates))
        if not wanted:
            return
        if (head := work.head) is not None and (step := head.take(self.name, candidates)) is not None:
            self._settle(work, *self._finished(work, step, wanted))
            return
        docs = candidates.docs[:wanted]
        if self._foresees is not None:
            outlook = self._foresees.outlook(work.pair_tokens, self._store, docs)
        else:
            lengths = self._scorer.lengths(work.pair_tokens, self._store, docs)
            outlook = Outlook(lengths, int(lengths.sum()), None)
        scored = self._score_at_once(work, docs, outlook)
        if scored is None:
            scored = self._score_steps(work, docs, outlook.lengths)
        self._settle(work, *scored)

    def _settle(self, work: Work, logits: Float32, done: int) -> None:
        """Blend in the logits, of which the first ``done`` were tried."""
        candidates, wanted = work.candidates, len(logits)
        assert candidates is not None
        finite = wanted if _core.all_finite(logits) else int(np.count_nonzero(np.isfinite(logits)))
        bad = done - finite
        if bad:
            work.degrade("bad_scores", f"{bad} of {done} scores", bad / wanted)
        if bad < done:
            work.candidates = candidates.reordered(
                self.name, logits, self._temperature, self._prior, self._weight
            )
            work.orders["score"] = work.candidates.docs
        work.units = done
        work.decision = f"{done} of {wanted} pairs"

    def read_ahead(self, work: Work) -> None:
        """See :class:`searchpipe.stages.recall.ReadingStage`: where the tokens are, and the tokens."""
        assert work.candidates is not None
        assert work.pair_tokens is not None
        if self._foresees is not None:
            self._foresees.outlook(work.pair_tokens, self._store, work.candidates.docs[: self._depth])

    def _score_at_once(self, work: Work, docs: Int32, outlook: Outlook) -> tuple[Float32, int] | None:
        """Logits by one request (NaN: none), and how many pairs were tried; None if nobody can predict."""
        scorer = self._forecasting
        if scorer is None:
            return None
        assert work.pair_tokens is not None
        lengths, tokens, forecast = outlook
        wanted = rows = len(docs)
        deadline = None
        if not work.deadline.unlimited:
            allowance = work.allowance()
            if forecast is None or forecast.wait_s + _MARGIN * forecast.run_s > allowance:
                fitting = _fitting(scorer, lengths, allowance, forecast)
                if fitting is None:
                    return None
                rows, forecast = fitting
                if not rows:
                    reason = "busy" if _MARGIN * forecast.run_s <= allowance else "deadline"
                    self._give_up(work, reason, 0, wanted)
                    return _unscored(wanted), 0
            deadline = begin_by(allowance, forecast)
            if rows < wanted:
                docs, tokens = docs[:rows], int(lengths[:rows].sum())
        asked: dict[str, Any] = {"deadline": deadline, "priority": work.query.priority}
        if self._leaves_time:
            asked["meanwhile"] = work.prepare_later
        if self._rehearses:
            asked["before_end"] = self._rehearsal(work)
        if self._foresees is not None:
            asked["forecast"] = forecast
        try:
            with work.step(self._request, tokens):
                logits = scorer.score(work.pair_tokens, self._store, docs, **asked)
        except OverloadedError:
            self._give_up(work, "busy", 0, wanted)
            return _unscored(wanted), 0
        return self._found(work, logits, rows, wanted, deadline)

    def plan_pairs(
        self,
        work: Work,
        found: dict[str, tuple[Int32, Float32] | None],
        fusion: Fusion,
        terms: Sequence[Term] | None,
    ) -> PlannedScores | None:
        """See :class:`searchpipe.stages.head_plan.PlanningStage`."""
        if self._plans is None or work.pair_tokens is None:
            return None
        return self._plans.plan(
            found,
            fusion,
            terms,
            query_ids=work.pair_tokens,
            store=self._store,
            depth=self._depth,
            priority=work.query.priority,
        )

    def _finished(self, work: Work, step: Step, wanted: int) -> tuple[Float32, int]:
        """As :meth:`_score_at_once`, of pairs that were submitted before the stage's turn."""
        begun, tokens, deadline = step.details
        logits = begun.finish(meanwhile=work.prepare_later, before_end=self._rehearsal(work))
        work.observe(self._request, tokens, work.mark() - step.since)
        return self._found(work, logits, wanted, wanted, deadline)

    def _rehearsal(self, work: Work) -> Callable[[], None]:
        later = work.later  # until they have prepared
        return lambda: rehearse(work, (self, *later))

    def _found(
        self, work: Work, logits: Float32, rows: int, wanted: int, deadline: float | None
    ) -> tuple[Float32, int]:
        """Logits of all ``wanted`` pairs, and how many were tried, from those of the first ``rows``."""
        if rows < wanted or not _is_column(logits, wanted):
            found, logits = logits, _unscored(wanted)
            logits[:rows] = found
        done = rows
        if deadline is not None and time.monotonic() >= deadline:
            done -= int(np.count_nonzero(np.isnan(logits[:rows])))
        if done < wanted:
            self._give_up(work, "shortened" if done else "busy", done, wanted)
        return logits, done

    def _score_steps(self, work: Work, docs: Int32, lengths: Int32) -> tuple[Float32, int]:
        """Logits step by step, NaN for the rest, and how many pairs were tried."""
        logits = _unscored(len(docs))
        wanted, done = len(docs), 0
        assert work.pair_tokens is not None
        # Without a limit every pair will be scored, so the order is free: rows
        # of like length share a step and pad the least.
        order = np.argsort(-lengths, kind="stable") if work.deadline.unlimited else np.arange(wanted)
        while done < wanted:
            ahead = order[done : done + self._step_rows]
            width = int(lengths[ahead].max())
            rows = len(ahead)
            if not work.deadline.unlimited:
                # Steps double: the first is short, teaches what one pair costs
                # now, and is over soon if it costs more than was thought.
                rows = min(rows, max(1, done))
                rows = work.costs.largest_within(self.name, width, rows, work.allowance())
                if not rows:
                    work.costs.relax(self.name, width)
            reason = "shortened" if done else "deadline"
            if rows:
                step = ahead[:rows]
                size = rows * int(lengths[step].max())
                cost = work.costs.predict(self.name, size) or 0.0
                with self._gate.enter(work, priority=1, timeout_s=work.allowance() - cost) as passed:
                    if passed:
                        with work.step(self.name, size):
                            logits[step] = self._scorer.score(work.pair_tokens, self._store, docs[step])
                        done += rows
                        continue
                reason = "busy"
            self._give_up(work, reason, done, wanted)
            break
        return logits, done

    @staticmethod
    def _give_up(work: Work, reason: str, done: int, wanted: int) -> None:
        work.degrade(reason, f"scored {done} of {wanted} candidates", 1 - done / wanted)

    def rehearse(self, work: Work) -> None:
        """Blend in logits that change nothing, by the way that those of the scorer will take."""
        assert work.candidates is not None
        wanted = min(self._depth, len(work.candidates))
        if not wanted:
            return
        with work.step(self._request, wanted):
            logits: Float32 = np.zeros(wanted, np.float32)
        self._settle(work, *self._found(work, logits, wanted, wanted, math.inf))

    def describe(self) -> str:
        """One line: what it does with which settings."""
        steps = "at once" if self._forecasting is not None else f"in steps of {self._step_rows}"
        return f"{self._model}, up to {self._depth} pairs {steps}, weight {self._weight:g}"


def _scores_as_written(scorer: ChainPairScorer) -> bool:
    return type(scorer).score is ChainPairScorer.score and "score" not in vars(scorer)


def _is_column(scores: object, rows: int) -> bool:
    return isinstance(scores, np.ndarray) and scores.dtype == np.float32 and scores.shape == (rows,)


def _unscored(pairs: int) -> Float32:
    logits: Float32 = np.full(pairs, np.nan, np.float32)
    return logits


def _fitting(
    scorer: ForecastingScorer, lengths: Int32, allowance_s: float, whole: Forecast | None = None
) -> tuple[int, Forecast] | None:
    """The most of the first pairs that will be done in time, and their forecast; that of one if none will.

    ``whole``: the forecast of all of them, if it is known. None if the scorer cannot tell.
    """
    low, high = 0, len(lengths)
    rows, best = high, None
    forecast = whole if whole is not None else scorer.predict(lengths)
    while forecast is not None:
        if forecast.wait_s + _MARGIN * forecast.run_s <= allowance_s:
            low, best = rows, forecast
        else:
            high = rows - 1
        if low >= high:
            break
        rows = (low + high + 1) // 2
        forecast = scorer.predict(lengths[:rows])
    if forecast is None:
        return None
    if best is None:
        best = forecast if rows == 1 else scorer.predict(lengths[:1])
    return None if best is None else (low, best)
