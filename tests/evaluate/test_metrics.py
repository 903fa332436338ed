from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchpipe.errors import ConfigError
from searchpipe.evaluate.metrics import ESCI_GAINS, MetricSettings, integer_gains, per_query

PRODUCTS = [f"p{i}" for i in range(12)]


def plain_ndcg(ranking: list[str], grades: dict[str, int], gains: dict[int, float], k: int) -> float:
    def dcg(values: list[float]) -> float:
        return sum(value / math.log2(place + 2) for place, value in enumerate(values[:k]))

    ideal = dcg(sorted((gains[grade] for grade in grades.values()), reverse=True))
    return dcg([gains[grades[p]] if p in grades else 0.0 for p in ranking]) / ideal if ideal else math.nan


def plain_recall(ranking: list[str], grades: dict[str, int], k: int, least: int) -> float:
    relevant = {p for p, grade in grades.items() if grade >= least}
    return len(relevant & set(ranking[:k])) / len(relevant) if relevant else math.nan


def plain_rr(ranking: list[str], grades: dict[str, int], k: int, least: int) -> float:
    if all(grade < least for grade in grades.values()):
        return math.nan
    return next((1 / i for i, p in enumerate(ranking[:k], 1) if grades.get(p, 0) >= least), 0.0)


@given(
    st.lists(st.permutations(PRODUCTS), min_size=1, max_size=3),
    st.lists(
        st.dictionaries(st.sampled_from(PRODUCTS), st.integers(0, 3), min_size=1), min_size=3, max_size=3
    ),
    st.integers(1, 12),
)
def test_metrics_equal_their_definitions(
    rankings: list[list[str]], grades: list[dict[str, int]], k: int
) -> None:
    settings = MetricSettings(ndcg_at=k, recall_at=k, rr_at=k)
    run = {f"q{i}": ranking for i, ranking in enumerate(rankings)}
    labels = {f"q{i}": row for i, row in enumerate(grades[: len(rankings)])}
    found = per_query(run, labels, settings)
    for i, (query, row) in enumerate(labels.items()):
        expected = [
            plain_ndcg(run[query], row, dict(ESCI_GAINS), k),
            plain_recall(run[query], row, k, 2),
            plain_rr(run[query], row, k, 2),
        ]
        np.testing.assert_allclose([found[name][i] for name in settings.names], expected, atol=1e-9)


def test_rank_order_decides_even_where_product_ids_sort_the_other_way() -> None:
    # trec_eval breaks ties of score by id, descending: an order must not depend on that.
    labels = {"q": {"a": 3}}
    first = per_query({"q": ["a", "z"]}, labels, MetricSettings())
    second = per_query({"q": ["z", "a"]}, labels, MetricSettings())
    assert first["mrr@10"][0] == 1.0
    assert second["mrr@10"][0] == 0.5


def test_reciprocal_rank_stops_at_its_cutoff() -> None:
    ranking = {"q": ["x", "y", "a"]}
    assert per_query(ranking, {"q": {"a": 3}}, MetricSettings(rr_at=2))["mrr@2"][0] == 0.0
    assert per_query(ranking, {"q": {"a": 3}}, MetricSettings(rr_at=3))["mrr@3"][0] == pytest.approx(1 / 3)


def test_a_query_without_results_scores_zero_and_one_without_relevant_products_is_undefined() -> None:
    found = per_query(
        {"a": []}, {"a": {"p": 3}, "b": {"p": 3}, "c": {"p": 0}, "d": {"p": 1}}, MetricSettings()
    )
    assert found["ndcg@10"][:2].tolist() == [0.0, 0.0]
    assert math.isnan(found["ndcg@10"][2])
    assert found["ndcg@10"][3] == 0.0  # a gain of 0.01 is a gain
    assert math.isnan(found["recall@100"][3])


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        (dict(ESCI_GAINS), {3: 100, 2: 10, 1: 1, 0: 0}),
        ({0: 0.0, 1: 1.0, 2: 3.0, 3: 7.0}, {0: 0, 1: 1, 2: 3, 3: 7}),
        ({0: 0.0, 1: 0.5}, {0: 0, 1: 1}),
        ({0: 0.0, 1: 1 / 3, 2: 1.0}, {0: 0, 1: 1, 2: 3}),
    ],
)
def test_gains_become_integers_of_the_same_ratio(gains: dict[int, float], expected: dict[int, int]) -> None:
    assert integer_gains(gains) == expected


@pytest.mark.parametrize(
    "settings",
    [
        lambda: MetricSettings(gains={0: 0.0}),
        lambda: MetricSettings(gains={1: math.nan}),
        lambda: MetricSettings(gains={1: -1.0, 2: 1.0}),
        lambda: MetricSettings(ndcg_at=0),
        lambda: integer_gains({1: 1e-9, 2: 1.0}),
        lambda: per_query({}, {"q": {"p": 4}}, MetricSettings()),
    ],
)
def test_settings_that_cannot_be_measured_are_refused(settings: object) -> None:
    with pytest.raises(ConfigError):
        settings()  # type: ignore[operator]
