from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from searchpipe.errors import ConfigError
from searchpipe.evaluate.significance import bootstrap_interval, compare, holm, paired_p


def exact_p(differences: list[float]) -> float:
    """Every assignment of signs, counted."""
    observed = abs(sum(differences))
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    return sum(value >= observed - 1e-9 for value in sums) / len(sums)


@pytest.mark.parametrize(
    "differences", [[0.1, 0.2, 0.3, -0.05, 0.4], [0.5, -0.5, 0.25, -0.3, 0.0, 0.125, 0.75, 0.25]]
)
def test_randomisation_of_few_queries_is_exact(differences: list[float]) -> None:
    assert paired_p(np.array(differences)) == pytest.approx(exact_p(differences))


def test_randomisation_agrees_with_the_t_test_on_normal_differences() -> None:
    differences = np.random.default_rng(3).normal(0.02, 0.1, 84)
    assert paired_p(differences) == pytest.approx(paired_p(differences, test="t"), abs=0.02)
    assert paired_p(differences, test="t") == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)


def test_randomisation_is_the_same_for_the_same_seed() -> None:
    differences = np.random.default_rng(3).normal(0.02, 0.1, 84)
    assert paired_p(differences, seed=5) == paired_p(differences, seed=5)


@pytest.mark.parametrize("test", ["randomization", "t"])
def test_equal_variants_differ_by_chance_only(test: str) -> None:
    assert paired_p(np.zeros(20), test=test) == 1.0  # type: ignore[arg-type]
    assert paired_p(np.array([np.nan, 0.3]), test=test) == 1.0  # type: ignore[arg-type]


def test_constant_gain_in_the_t_test_is_certain() -> None:
    assert paired_p(np.full(20, 0.1), test="t") == 0.0


def test_unknown_test_is_refused() -> None:
    with pytest.raises(ConfigError, match="sign"):
        paired_p(np.array([0.1, 0.2]), test="sign")  # type: ignore[arg-type]


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_raw_and_bonferroni_and_keeps_order(p_values: list[float]) -> None:
    corrected = holm(p_values)
    for raw, value in zip(p_values, corrected, strict=True):
        assert raw <= value <= min(1.0, len(p_values) * raw) + 1e-12
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert all(corrected[a] <= corrected[b] for a, b in itertools.pairwise(order))


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        low, high = bootstrap_interval(rng.normal(0.5, 0.2, 60), level=0.9, resamples=400, seed=trial)
        hits += low <= 0.5 <= high
    assert 165 <= hits <= 195  # 180 expected, standard deviation 4


def test_interval_is_seeded_ignores_nan_and_knows_no_values() -> None:
    values = np.array([0.1, 0.5, np.nan, 0.9])
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values[[0, 1, 3]], seed=1)
    assert np.isnan(bootstrap_interval(np.array([np.nan]))).all()
    for bad in ({"level": 1.0}, {"resamples": 0}):
        with pytest.raises(ConfigError):
            bootstrap_interval(values, **bad)  # type: ignore[arg-type]


def test_comparison_counts_queries_and_corrects_for_all_variants() -> None:
    base = np.array([0.1, 0.2, 0.3, 0.4, np.nan, 0.5, 0.6, 0.7])
    better = base + np.array([0.1, 0.1, 0.2, -0.1, 0, 0.3, 0.1, 0])
    results = compare([better, base], base)
    assert (results[0].wins, results[0].losses, results[0].ties) == (5, 1, 1)
    assert results[0].difference == pytest.approx(0.1)
    assert results[0].p_holm == pytest.approx(min(1.0, 2 * results[0].p))
    assert results[1].p_holm == 1.0
