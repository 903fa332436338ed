"""Ranking quality on labelled queries: metrics, significance, diversity, a table and JSON."""

from searchpipe.evaluate.compare import (
    Evaluation,
    EvaluationSettings,
    Figure,
    Ranker,
    VariantResult,
    evaluate_variants,
)
from searchpipe.evaluate.diversity import ProductFacts
from searchpipe.evaluate.labels import LabelledQueries, load_labelled_queries
from searchpipe.evaluate.metrics import ESCI_GAINS, MetricSettings, per_query

__all__ = [
    "ESCI_GAINS",
    "Evaluation",
    "EvaluationSettings",
    "Figure",
    "LabelledQueries",
    "MetricSettings",
    "ProductFacts",
    "Ranker",
    "VariantResult",
    "evaluate_variants",
    "load_labelled_queries",
    "per_query",
]
