"""Ranking quality of a variant against fp32, with intervals and by stratum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searchpipe.arrays import Float32
from searchpipe.engine.gates.evaluation import EvalQuery, relevance
from searchpipe.engine.gates.labels import metric_settings
from searchpipe.engine.gates.ranking import auc, kendall_tau, top
from searchpipe.engine.gates.result import GateResult, evaluated, not_evaluated
from searchpipe.engine.recipe import GateSettings
from searchpipe.evaluate.metrics import per_query
from searchpipe.evaluate.significance import bootstrap_interval

Values = NDArray[np.float64]

NAMES = ("auc_loss", "ndcg_loss", "kendall_tau", "worst_stratum_auc_loss")

MIN_QUERIES = 20
"""Fewer say nothing about a difference of a few thousandths."""

MIN_STRATUM = 8
"""Queries of a stratum that is judged by itself."""

_TAU_DEPTH = 50


@dataclass(frozen=True, slots=True)
class StratumLoss:
    """One stratum's mean with its interval; ``n`` queries."""

    name: str
    n: int
    mean: float
    low: float
    high: float


def quality_gates(
    queries: Sequence[EvalQuery],
    reference: Sequence[Float32],
    scores: Sequence[Float32],
    settings: GateSettings,
    seed: int,
) -> list[GateResult]:
    """AUC loss, nDCG@10 loss, rank correlation, and the AUC loss of the worst stratum.

    Args:
        queries: see :func:`searchpipe.engine.gates.evaluation.draw_queries`.
        reference: fp32's scores of each query's candidates.
        scores: the variant's.
        settings: limits and intervals.
        seed: of the bootstrap over queries.
    """
    if len(queries) < MIN_QUERIES:
        why = f"there are {len(queries)} queries with candidates, and {MIN_QUERIES} are needed"
        return [not_evaluated(name, why) for name in NAMES]
    for whose, lists in (("fp32", reference), ("the variant", scores)):
        if not all(np.isfinite(row).all() for row in lists):
            return [not_evaluated(name, f"scores of {whose} hold NaN or infinity") for name in NAMES]
    labelled = sum(query.grades is not None for query in queries)
    note = f"{labelled} labelled queries, {len(queries) - labelled} replayed"
    if labelled < len(queries):
        note += ", where fp32's own top decile counts as relevant"
    judge = _Judge(queries, settings, seed, note)
    try:
        losses = _auc_losses(queries, reference, scores)
    except Exception as error:  # labels of a scale that cannot be read, for example
        return [not_evaluated(name, f"{type(error).__name__}: {error}") for name in NAMES]
    return [
        evaluated(NAMES[0], lambda: judge.loss(NAMES[0], losses, settings.auc_loss, "mean loss of AUC")),
        evaluated(NAMES[1], lambda: _ndcg_gate(judge, queries, reference, scores, settings.ndcg_loss)),
        evaluated(NAMES[2], lambda: judge.tau(_taus(reference, scores), settings.min_tau)),
        evaluated(NAMES[3], lambda: judge.worst_stratum(losses, settings.worst_stratum_auc_loss)),
    ]


def strata_of(
    queries: Sequence[EvalQuery], values: Values, settings: GateSettings, seed: int
) -> list[StratumLoss]:
    """The mean of ``values`` in every stratum of at least :data:`MIN_STRATUM` queries that have one."""
    places: dict[str, list[int]] = {}
    for place, query in enumerate(queries):
        if not np.isnan(values[place]):
            for name, value in query.strata.items():
                places.setdefault(f"{name}={value}", []).append(place)
    found = []
    for name, members in sorted(places.items()):
        if len(members) >= MIN_STRATUM:
            low, high = _interval(values[members], settings, seed)
            found.append(StratumLoss(name, len(members), float(values[members].mean()), low, high))
    return found


class _Judge:
    """Turns values per query into results. For one thread."""

    def __init__(self, queries: Sequence[EvalQuery], settings: GateSettings, seed: int, note: str) -> None:
        self._queries = queries
        self._settings = settings
        self._seed = seed
        self._note = note

    def loss(self, name: str, losses: Values, limit: float, what: str) -> GateResult:
        value, interval = self._mean(losses)
        judged = interval[1] if self._settings.use_interval else value
        return self._result(name, judged <= limit, value, limit, interval, losses, what, worst_is_high=True)

    def tau(self, taus: Values, limit: float) -> GateResult:
        value, interval = self._mean(taus)
        judged = interval[0] if self._settings.use_interval else value
        what = f"mean Kendall's tau of fp32's top {_TAU_DEPTH}"
        return self._result(
            NAMES[2], judged >= limit, value, limit, interval, taus, what, worst_is_high=False
        )

    def worst_stratum(self, losses: Values, limit: float) -> GateResult:
        strata = strata_of(self._queries, losses, self._settings, self._seed)
        if not strata:
            return not_evaluated(NAMES[3], f"no stratum has {MIN_STRATUM} queries")
        worst = max(strata, key=lambda s: s.high if self._settings.use_interval else s.mean)
        judged = worst.high if self._settings.use_interval else worst.mean
        reason = f"{worst.name} ({worst.n} queries) loses most AUC, of {len(strata)} strata; {self._note}"
        if judged > limit:
            reason = f"{worst.name} loses more than {limit:g}: {reason}"
        return GateResult(
            NAMES[3],
            judged <= limit,
            worst.mean,
            limit,
            reason,
            (worst.low, worst.high),
            worst.name,
            {"strata": _table(strata)},
        )

    def _mean(self, values: Values) -> tuple[float, tuple[float, float]]:
        known = values[~np.isnan(values)]
        if len(known) < MIN_QUERIES:
            raise ValueError(f"it is defined for {len(known)} queries, and {MIN_QUERIES} are needed")
        return float(known.mean()), _interval(known, self._settings, self._seed)

    def _result(
        self,
        name: str,
        passed: bool,
        value: float,
        limit: float,
        interval: tuple[float, float],
        values: Values,
        what: str,
        *,
        worst_is_high: bool,
    ) -> GateResult:
        strata = strata_of(self._queries, values, self._settings, self._seed)
        sign = 1.0 if worst_is_high else -1.0
        worst = max(strata, key=lambda s: sign * s.mean).name if strata else ""
        reason = f"{what}; {self._note}"
        if not passed:
            end = interval[1] if worst_is_high else interval[0]
            whose = (
                f"the {'upper' if worst_is_high else 'lower'} end of its interval, {end:.4f},"
                if self._settings.use_interval
                else f"{value:.4f}"
            )
            reason = f"{whose} is {'above' if worst_is_high else 'below'} {limit:g}; worst: {worst}; {reason}"
        return GateResult(name, passed, value, limit, reason, interval, worst, {"strata": _table(strata)})


def _auc_losses(
    queries: Sequence[EvalQuery], reference: Sequence[Float32], scores: Sequence[Float32]
) -> Values:
    grades, relevant_grade, _ = _grades(queries, reference)
    return np.array(
        [
            auc(one, row >= relevant_grade) - auc(two, row >= relevant_grade)
            for row, one, two in zip(grades, reference, scores, strict=True)
        ]
    )


def _ndcg_gate(
    judge: _Judge,
    queries: Sequence[EvalQuery],
    reference: Sequence[Float32],
    scores: Sequence[Float32],
    limit: float,
) -> GateResult:
    """The loss of nDCG@10; its details have both means over the labelled queries, where there are such."""
    before, after = _ndcgs(queries, reference, scores)
    gate = judge.loss(NAMES[1], before - after, limit, "mean loss of nDCG@10")
    judged = [place for place, query in enumerate(queries) if query.grades is not None]
    if not judged:
        return gate
    means = {"fp32": float(before[judged].mean()), "variant": float(after[judged].mean())}
    return replace(gate, details={**gate.details, "labelled_ndcg": means})


def _ndcgs(
    queries: Sequence[EvalQuery], reference: Sequence[Float32], scores: Sequence[Float32]
) -> tuple[Values, Values]:
    """nDCG@10 of every query by the reference's scores and by the variant's."""
    grades, _, settings = _grades(queries, reference)
    by_query = {
        str(place): {str(doc): int(grade) for doc, grade in zip(query.docs, row, strict=True)}
        for place, (query, row) in enumerate(zip(queries, grades, strict=True))
    }

    def ndcg(lists: Sequence[Float32]) -> Values:
        rankings = {
            str(place): [str(doc) for doc in query.docs[top(row, settings.depth)]]
            for place, (query, row) in enumerate(zip(queries, lists, strict=True))
        }
        return per_query(rankings, by_query, settings)[settings.names[0]]

    return ndcg(reference), ndcg(scores)


def _taus(reference: Sequence[Float32], scores: Sequence[Float32]) -> Values:
    taus = []
    for one, two in zip(reference, scores, strict=True):
        best = top(one, _TAU_DEPTH)
        tau = kendall_tau(one[best], two[best])
        # A variant that gives all the same score has no order, where fp32 has one.
        lost = np.isnan(tau) and np.ptp(one[best]) > 0
        taus.append(0.0 if lost else tau)
    return np.array(taus)


def _grades(queries: Sequence[EvalQuery], reference: Sequence[Float32]) -> tuple[list[Any], int, Any]:
    seen = {int(grade) for query in queries if query.grades is not None for grade in np.unique(query.grades)}
    settings = metric_settings(seen)
    best = max(settings.gains, key=lambda grade: settings.gains[grade])
    rows = [relevance(query, row, best) for query, row in zip(queries, reference, strict=True)]
    return rows, settings.relevant_grade, settings


def _interval(values: Values, settings: GateSettings, seed: int) -> tuple[float, float]:
    return bootstrap_interval(values, level=settings.confidence, resamples=settings.bootstrap, seed=seed)


def _table(strata: Sequence[StratumLoss]) -> list[Mapping[str, Any]]:
    return [{"stratum": s.name, "queries": s.n, "mean": s.mean, "low": s.low, "high": s.high} for s in strata]
