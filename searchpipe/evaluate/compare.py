"""Run variants over labelled queries and compare them with a baseline."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from searchpipe.errors import ConfigError
from searchpipe.evaluate import diversity
from searchpipe.evaluate.labels import LabelledQueries
from searchpipe.evaluate.metrics import MetricSettings, import_ir_measures, per_query
from searchpipe.evaluate.significance import Comparison, Test, bootstrap_interval, check_test, compare

Ranker: TypeAlias = Callable[[str, int], Sequence[tuple[str, float]]]
"""``search(query_text, depth)`` -> up to ``depth`` pairs of product id and score, best first."""

PAGE = 10


class Progress(Protocol):
    """Told about each query that was run."""

    def __call__(self, variant: str, done: int, total: int) -> None:
        """``done`` of ``total`` queries of ``variant`` are through."""


class EvaluationSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How variants are compared.

    Attributes:
        metrics: what is measured.
        test: ``"randomization"`` or ``"t"``, both paired and two-sided.
        level: of the confidence intervals.
        resamples: of the bootstrap and of the randomisation test.
        seed: of both.

    """

    metrics: MetricSettings = msgspec.field(default_factory=MetricSettings)
    test: Test = "randomization"
    level: float = 0.95
    resamples: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that no test can work with."""
        check_test(self.test)
        if not 0 < self.level < 1:
            raise ConfigError(f"level is {self.level}; it must lie between 0 and 1.")
        if self.resamples < 100:
            raise ConfigError(f"resamples is {self.resamples}; at least 100 are needed.")


@dataclass(frozen=True, slots=True)
class Figure:
    """A metric's mean over the queries where it is defined, with its bootstrap interval."""

    mean: float
    low: float
    high: float
    queries: int
    comparison: Comparison | None = None


@dataclass(frozen=True, slots=True)
class VariantResult:
    """One variant: its figures by metric, and diversity figures (means over queries) if asked for.

    ``values`` are the metrics per query, float64 ``(queries,)``, NaN where undefined.
    ``unjudged`` is the mean share of products without a grade among the first :data:`PAGE`.
    """

    name: str
    figures: Mapping[str, Figure]
    values: Mapping[str, NDArray[np.float64]]
    diversity: Mapping[str, float]
    unjudged: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All variants over the same queries. Immutable."""

    variants: tuple[VariantResult, ...]
    baseline: str
    query_ids: tuple[str, ...]
    settings: EvaluationSettings
    notes: Mapping[str, int] = field(default_factory=dict)

    def __getitem__(self, name: str) -> VariantResult:
        """Return the variant called ``name``; KeyError if there is none."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        raise KeyError(name)

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; undefined numbers are None."""
        return {
            "queries": len(self.query_ids),
            "baseline": self.baseline,
            "settings": msgspec.to_builtins(self.settings, str_keys=True),
            "notes": dict(self.notes),
            "variants": {variant.name: _variant_dict(variant) for variant in self.variants},
            "per_query": {
                variant.name: {
                    metric: {
                        query: _number(value) for query, value in zip(self.query_ids, values, strict=True)
                    }
                    for metric, values in variant.values.items()
                }
                for variant in self.variants
            },
        }


def evaluate_variants(
    variants: Mapping[str, Ranker],
    labels: LabelledQueries,
    *,
    settings: EvaluationSettings | None = None,
    baseline: str | None = None,
    facts: diversity.ProductFacts | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Run every variant over every labelled query, one at a time, and compare the results.

    Args:
        variants: name -> ranker, in the order of the table.
        labels: queries and grades.
        settings: see :class:`EvaluationSettings`.
        baseline: the variant that the others are compared with; the first if not named.
        facts: vectors and brands of products; without it no diversity figures are made.
        progress: told after each query.

    Raises:
        ConfigError: no variant, no query, an unknown baseline, or a ranker that returns a product twice.
        MissingDependencyError: ir_measures or scipy is not installed.

    """
    settings = settings or EvaluationSettings()
    if not variants:
        raise ConfigError("There is no variant to evaluate; name at least one.")
    baseline = next(iter(variants)) if baseline is None else baseline
    if baseline not in variants:
        raise ConfigError(f"Baseline {baseline!r} is none of the variants {', '.join(variants)}.")
    if len(labels) == 0:
        raise ConfigError("There is no labelled query to evaluate on.")
    import_ir_measures()  # a missing package is told before minutes of searching, not after

    rankings: dict[str, dict[str, list[str]]] = {}
    for name, ranker in variants.items():
        rankings[name] = _run(name, ranker, labels, max(settings.metrics.depth, PAGE), progress)

    values = {name: per_query(rankings[name], labels.grades, settings.metrics) for name in variants}
    others = [name for name in variants if name != baseline]
    comparisons: dict[tuple[str, str], Comparison] = {}
    for metric in settings.metrics.names:
        results = compare(
            [values[name][metric] for name in others],
            values[baseline][metric],
            test=settings.test,
            resamples=settings.resamples,
            seed=settings.seed,
        )
        comparisons.update({(name, metric): result for name, result in zip(others, results, strict=True)})

    return Evaluation(
        tuple(
            VariantResult(
                name,
                {
                    metric: _figure(values[name][metric], settings, comparisons.get((name, metric)))
                    for metric in settings.metrics.names
                },
                values[name],
                {} if facts is None else _mean_diversity(rankings[name], facts),
                _unjudged(rankings[name], labels),
            )
            for name in variants
        ),
        baseline,
        tuple(labels.grades),
        settings,
        labels.notes,
    )


def _run(
    name: str, ranker: Ranker, labels: LabelledQueries, depth: int, progress: Progress | None
) -> dict[str, list[str]]:
    ranking: dict[str, list[str]] = {}
    for done, (query, text) in enumerate(labels.texts.items(), start=1):
        ids = [product for product, _ in ranker(text, depth)][:depth]
        if len(set(ids)) != len(ids):
            twice = next(product for product in ids if ids.count(product) > 1)
            raise ConfigError(f"Variant {name!r} returned product {twice!r} twice for query {text[:80]!r}.")
        ranking[query] = ids
        if progress is not None:
            progress(name, done, len(labels))
    return ranking


def _figure(
    values: NDArray[np.float64], settings: EvaluationSettings, comparison: Comparison | None
) -> Figure:
    defined = values[~np.isnan(values)]
    low, high = bootstrap_interval(
        values, level=settings.level, resamples=settings.resamples, seed=settings.seed
    )
    mean = float(defined.mean()) if defined.size else float("nan")
    return Figure(mean, low, high, int(defined.size), comparison)


def _mean_diversity(rankings: Mapping[str, list[str]], facts: diversity.ProductFacts) -> dict[str, float]:
    pages = [diversity.page_diversity(ids[:PAGE], facts) for ids in rankings.values()]
    columns = {
        "distance": [page.distance for page in pages],
        "brands": [page.brands for page in pages],
        "share": [page.top_brand_share for page in pages],
    }
    means = []
    for column in columns.values():
        defined = [value for value in column if not math.isnan(value)]
        means.append(sum(defined) / len(defined) if defined else float("nan"))
    return dict(zip(diversity.names(PAGE), means, strict=True))


def _unjudged(rankings: Mapping[str, list[str]], labels: LabelledQueries) -> float:
    shares = [
        sum(product not in labels.grades[query] for product in ids[:PAGE]) / len(ids[:PAGE])
        for query, ids in rankings.items()
        if ids
    ]
    return sum(shares) / len(shares) if shares else float("nan")


def _variant_dict(variant: VariantResult) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    for metric, figure in variant.figures.items():
        row: dict[str, Any] = {
            "mean": _number(figure.mean),
            "interval": [_number(figure.low), _number(figure.high)],
            "queries": figure.queries,
        }
        if (against := figure.comparison) is not None:
            row["against_baseline"] = {
                "difference": against.difference,
                "p": against.p,
                "p_holm": against.p_holm,
                "wins": against.wins,
                "losses": against.losses,
                "ties": against.ties,
            }
        metrics[metric] = row
    return {
        "metrics": metrics,
        "diversity": {name: _number(value) for name, value in variant.diversity.items()},
        f"unjudged@{PAGE}": _number(variant.unjudged),
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
