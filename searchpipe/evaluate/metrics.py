"""Ranking quality per query, computed by ir_measures (trec_eval underneath)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from searchpipe.errors import ConfigError, MissingDependencyError

Ranking = Sequence[str]
"""Product ids, best first."""

ESCI_GAINS: Mapping[int, float] = {3: 1.0, 2: 0.1, 1: 0.01, 0: 0.0}
"""Gains of the Shopping Queries data set (Reddy et al., arXiv:2206.06588, section 4)."""


class MetricSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is measured, and how grades count.

    Attributes:
        gains: grade -> gain of nDCG. Only ratios matter: nDCG divides by the ideal order's gain.
            A grade that occurs and is not named here is refused.
        ndcg_at, recall_at, rr_at: how many of the first products each metric looks at.
        relevant_grade: the least grade that counts as relevant for recall and reciprocal rank.

    """

    gains: dict[int, float] = msgspec.field(default_factory=lambda: dict(ESCI_GAINS))
    ndcg_at: int = 10
    recall_at: int = 100
    rr_at: int = 10
    relevant_grade: int = 2

    def __post_init__(self) -> None:
        """Refuse cutoffs below 1 and gains that cannot be ranked."""
        for name in ("ndcg_at", "recall_at", "rr_at", "relevant_grade"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        bad = {grade: gain for grade, gain in self.gains.items() if not (math.isfinite(gain) and gain >= 0)}
        if bad or not any(self.gains.values()):
            raise ConfigError(f"gains are {self.gains}; each must be finite and >= 0, and one above 0.")

    @property
    def names(self) -> tuple[str, str, str]:
        """The columns of :func:`per_query`."""
        return f"ndcg@{self.ndcg_at}", f"recall@{self.recall_at}", f"mrr@{self.rr_at}"

    @property
    def depth(self) -> int:
        """How many products a ranking must have for all metrics."""
        return max(self.ndcg_at, self.recall_at, self.rr_at)


def per_query(
    rankings: Mapping[str, Ranking], grades: Mapping[str, Mapping[str, int]], settings: MetricSettings
) -> dict[str, NDArray[np.float64]]:
    """Each metric's value per query, in the order of ``grades``.

    A product without a grade counts as irrelevant, a query without a ranking as an empty one. A
    value is NaN where the metric is undefined: no relevant product for recall and reciprocal
    rank, no product with a gain for nDCG.

    Args:
        rankings: query id -> product ids, best first, each at most once.
        grades: query id -> product id -> grade >= 0.
        settings: see :class:`MetricSettings`.

    Returns:
        Metric name (:attr:`MetricSettings.names`) -> float64 ``(len(grades),)``.

    Raises:
        ConfigError: a grade has no gain.
        MissingDependencyError: ir_measures is not installed.

    """
    measures = import_ir_measures()
    gains = integer_gains(settings.gains)
    seen = {grade for row in grades.values() for grade in row.values()}
    if not seen <= gains.keys():
        raise ConfigError(
            f"Grades {sorted(seen - gains.keys())} have no gain; gains are given for {sorted(gains)}.",
            cure="Name a gain for every grade of the labels.",
        )
    ndcg_name, recall_name, rr_name = settings.names
    # Grades are mapped before, not by nDCG(gains=...): whether a provider honours that parameter
    # depends on which are installed, and an unmapped grade would pass as its own gain.
    by_gain = {query: {d: gains[g] for d, g in row.items()} for query, row in grades.items()}
    by_grade = {query: dict(row) for query, row in grades.items()}
    relevant = settings.relevant_grade
    ndcg = _values(measures.nDCG @ settings.ndcg_at, by_gain, rankings, settings.ndcg_at)
    recall = _values(measures.R(rel=relevant) @ settings.recall_at, by_grade, rankings, settings.recall_at)
    # trec_eval has no cutoff for the reciprocal rank: the ranking is cut instead.
    rr = _values(measures.RR(rel=relevant), by_grade, rankings, settings.rr_at)
    has_gain = [any(row.values()) for row in by_gain.values()]
    has_relevant = [any(grade >= relevant for grade in row.values()) for row in by_grade.values()]
    return {
        ndcg_name: np.where(has_gain, ndcg, np.nan),
        recall_name: np.where(has_relevant, recall, np.nan),
        rr_name: np.where(has_relevant, rr, np.nan),
    }


def integer_gains(gains: Mapping[int, float]) -> dict[int, int]:
    """Scale ``gains`` to the integers that trec_eval takes, keeping their ratios (1, 0.1 -> 10, 1).

    Raises:
        ConfigError: the ratios need integers above 10^8.

    """
    exact = {grade: Fraction(gain).limit_denominator(10**6) for grade, gain in gains.items()}
    scale = math.lcm(*(gain.denominator for gain in exact.values()))
    scaled = {grade: int(gain * scale) for grade, gain in exact.items()}
    divisor = math.gcd(*scaled.values()) or 1
    whole = {grade: value // divisor for grade, value in scaled.items()}
    lost = [grade for grade, gain in gains.items() if gain > 0 and whole[grade] == 0]
    if lost or max(whole.values()) > 10**8:
        raise ConfigError(f"gains {dict(gains)} cannot be scaled to integers up to 10^8.")
    return whole


def import_ir_measures() -> Any:
    """Return the module ir_measures.

    Raises:
        MissingDependencyError: it is not installed.

    """
    try:
        import ir_measures
    except ImportError as error:
        raise MissingDependencyError(
            "Evaluation needs the package ir_measures, which is not installed.",
            cure='Install it with: pip install "searchpipe[evaluate]".',
        ) from error
    return ir_measures


def _values(
    measure: Any, grades: Mapping[str, Mapping[str, int]], rankings: Mapping[str, Ranking], depth: int
) -> NDArray[np.float64]:
    measures = import_ir_measures()
    # trec_eval sorts by score and breaks ties by product id: falling whole numbers keep the order.
    run = {
        query: {product: float(depth - rank) for rank, product in enumerate(rankings.get(query, ())[:depth])}
        for query in grades
    }
    found = {str(row.query_id): float(row.value) for row in measures.iter_calc([measure], grades, run)}
    return np.array([found.get(query, 0.0) for query in grades], np.float64)
