from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from searchpipe.engine.gates.evaluation import EvalQuery
from searchpipe.engine.gates.numeric import LARGEST_HALF, difference_gate, finite_gate, range_gate
from searchpipe.engine.gates.quality import MIN_QUERIES, NAMES, quality_gates, strata_of
from searchpipe.engine.gates.ranking import auc, kendall_tau, top
from searchpipe.engine.gates.result import GateResult, evaluated
from searchpipe.engine.recipe import GateSettings
from searchpipe.errors import EngineError

few_values = arrays(np.float32, st.integers(2, 30), elements=st.integers(0, 6).map(float))


@settings(deadline=None)
@given(few_values, st.randoms())
def test_auc_is_the_share_of_pairs_in_order(scores, random) -> None:
    relevant = np.array([random.random() < 0.4 for _ in scores])
    good, other = scores[relevant], scores[~relevant]
    if not len(good) or not len(other):
        assert np.isnan(auc(scores, relevant))
        return
    wins = sum((a > b) + 0.5 * (a == b) for a in good for b in other)
    assert auc(scores, relevant) == pytest.approx(wins / (len(good) * len(other)))


@settings(deadline=None)
@given(few_values, st.integers(0, 100))
def test_kendalls_tau_is_that_of_scipy(scores, seed) -> None:
    other = np.random.default_rng(seed).integers(0, 5, len(scores)).astype(np.float32)
    expected = stats.kendalltau(scores, other).statistic
    assert kendall_tau(scores, other) == pytest.approx(expected, nan_ok=True)


def test_equal_scores_keep_their_order() -> None:
    assert top(np.array([1, 3, 3, 2], np.float32), 3).tolist() == [1, 2, 3]


def made(n: int = 80, docs: int = 40, seed: int = 0) -> tuple[list[EvalQuery], list[np.ndarray]]:
    """Queries whose reference scores order documents by relevance, with noise."""
    rng = np.random.default_rng(seed)
    queries, scores = [], []
    for number in range(n):
        grades = rng.choice([0, 0, 0, 1, 2, 3], docs).astype(np.int32)
        grades[:2] = 0, 3
        strata = {"traffic": ("head", "torso", "tail")[number % 3], "length": ("short", "long")[number % 2]}
        queries.append(EvalQuery(f"q{number}", np.arange(docs, dtype=np.int32), strata, grades))
        scores.append((grades + rng.normal(0, 1.0, docs)).astype(np.float32))
    return queries, scores


def gates_of(queries, reference, scores, **changes) -> dict[str, GateResult]:
    found = quality_gates(queries, reference, scores, GateSettings(**changes), seed=1)
    assert tuple(gate.name for gate in found) == NAMES
    return {gate.name: gate for gate in found}


def test_a_variant_that_is_the_reference_loses_nothing() -> None:
    queries, reference = made()
    gates = gates_of(queries, reference, [row.copy() for row in reference])
    assert all(gate.passed for gate in gates.values())
    assert gates["auc_loss"].value == gates["ndcg_loss"].value == 0
    assert gates["kendall_tau"].value == pytest.approx(1)
    assert "80 labelled queries, 0 replayed" in gates["auc_loss"].reason


def test_a_noisy_variant_is_refused_with_value_limit_and_interval() -> None:
    queries, reference = made()
    rng = np.random.default_rng(5)
    gates = gates_of(
        queries, reference, [row + rng.normal(0, 2, row.shape).astype(np.float32) for row in reference]
    )
    for name in NAMES:
        gate = gates[name]
        assert not gate.passed
        assert gate.interval is not None
        assert gate.interval[0] < gate.value < gate.interval[1]
        assert f"{gate.limit:g}" in gate.reason


def test_the_stratum_that_loses_is_named() -> None:
    queries, reference = made(n=120)
    rng = np.random.default_rng(5)
    scores = [
        row + (rng.normal(0, 3, row.shape).astype(np.float32) if query.strata["traffic"] == "tail" else 0)
        for query, row in zip(queries, reference, strict=True)
    ]
    gates = gates_of(queries, reference, scores, auc_loss=1.0, ndcg_loss=1.0, min_tau=0.0)
    assert {name for name, gate in gates.items() if not gate.passed} == {"worst_stratum_auc_loss"}
    worst = gates["worst_stratum_auc_loss"]
    assert worst.worst == "traffic=tail"
    assert worst.reason.startswith("traffic=tail loses more than 0.01")
    assert gates["auc_loss"].worst == gates["kendall_tau"].worst == "traffic=tail"
    strata = {row["stratum"]: row for row in worst.details["strata"]}
    assert strata["traffic=head"]["mean"] == 0
    assert strata["traffic=tail"]["queries"] == 40


def test_the_interval_decides_unless_the_recipe_says_the_mean() -> None:
    queries, reference = made(n=30)
    rng = np.random.default_rng(2)
    scores = [row + rng.normal(0, 0.3, row.shape).astype(np.float32) for row in reference]
    gate = gates_of(queries, reference, scores)["auc_loss"]
    between = (gate.value + gate.interval[1]) / 2
    assert not gates_of(queries, reference, scores, auc_loss=between)["auc_loss"].passed
    assert gates_of(queries, reference, scores, auc_loss=between, use_interval=False)["auc_loss"].passed


def test_intervals_are_seeded_and_narrow_with_confidence() -> None:
    queries, _ = made()
    values = np.random.default_rng(0).normal(size=len(queries))
    one = strata_of(queries, values, GateSettings(), seed=1)
    assert one == strata_of(queries, values, GateSettings(), seed=1)
    narrow = strata_of(queries, values, GateSettings(confidence=0.6), seed=1)
    assert all(b.high - b.low < a.high - a.low for a, b in zip(one, narrow, strict=True))


def test_without_labels_the_references_best_tenth_counts_and_that_is_said() -> None:
    queries, reference = made()
    plain = [EvalQuery(q.text, q.docs, q.strata) for q in queries]
    same = gates_of(plain, reference, reference)
    assert all(gate.passed for gate in same.values())
    assert "0 labelled queries, 80 replayed, where fp32's own top decile" in same["auc_loss"].reason
    reverse = gates_of(plain, reference, [-row for row in reference])
    assert reverse["auc_loss"].value == pytest.approx(1.0)
    assert reverse["ndcg_loss"].value == pytest.approx(1.0)
    assert reverse["kendall_tau"].value == pytest.approx(-1.0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_no_numbers_cannot_be_judged(value: float) -> None:
    queries, reference = made()
    scores = [row.copy() for row in reference]
    scores[3][2] = value
    for gate in gates_of(queries, reference, scores).values():
        assert not gate.passed
        assert gate.value is None
        assert "could not be evaluated: scores of the variant hold NaN or infinity" in gate.reason


def test_too_few_queries_cannot_be_judged() -> None:
    queries, reference = made(n=MIN_QUERIES - 1)
    assert not any(gate.passed for gate in gates_of(queries, reference, reference).values())


def test_a_constant_variant_has_no_order_left() -> None:
    queries, reference = made()
    gates = gates_of(queries, reference, [np.ones_like(row) for row in reference])
    assert gates["kendall_tau"].value == 0
    assert not gates["auc_loss"].passed


def test_labels_of_another_scale_have_their_grades_for_gains() -> None:
    queries, reference = made()
    wide = [EvalQuery(q.text, q.docs, q.strata, q.grades * 2) for q in queries]
    assert all(gate.passed for gate in gates_of(wide, reference, reference).values())


def test_numbers_must_be_finite_and_differ() -> None:
    good = [np.array([1, 2], np.float32), np.array([-3], np.float32)]
    assert finite_gate(good).passed
    bad = [np.array([1, np.nan], np.float32), np.array([np.inf], np.float32)]
    assert (finite_gate(bad).passed, finite_gate(bad).value) == (False, 2)
    assert range_gate(good, None, 0.5).passed
    assert not range_gate([np.full(5, 2.0, np.float32)], None, 0.5).passed
    assert not range_gate([np.array([0, LARGEST_HALF * 2], np.float32)], None, 0.5).passed
    assert range_gate([np.array([0, 3.4], np.float32)], good, 0.5).passed
    assert not range_gate([np.array([0, 3.6], np.float32)], good, 0.5).passed
    assert not range_gate([np.full(2, np.nan, np.float32)], good, 0.5).passed


def test_the_query_that_differs_most_is_named() -> None:
    queries, reference = made(n=9)
    scores = [row.copy() for row in reference]
    scores[4][7] += 0.75
    gate = difference_gate(queries, reference, scores, GateSettings(max_abs_diff=0.5))
    assert not gate.passed
    assert gate.value == pytest.approx(0.75, abs=1e-6)
    assert "'q4'" in gate.reason
    assert gate.worst in ("traffic=torso", "length=short")
    scores[4][7] = np.nan
    assert "could not be evaluated" in difference_gate(queries, reference, scores, GateSettings()).reason


def test_whatever_is_raised_fails_the_gate() -> None:
    def broken() -> GateResult:
        raise EngineError("no memory")

    def odd() -> GateResult:
        raise RuntimeError("odd")

    assert evaluated("x", broken) == GateResult("x", False, reason="could not be evaluated: no memory")
    assert evaluated("x", odd).reason == "could not be evaluated: RuntimeError: odd"


def test_results_are_plain_json() -> None:
    result = GateResult("x", False, float("nan"), 1.0, "r", (0.0, float("inf")), "s", {"a": [float("nan")]})
    assert result.to_json() == {
        "name": "x",
        "passed": False,
        "value": None,
        "limit": 1.0,
        "reason": "r",
        "interval": [0.0, None],
        "worst": "s",
        "details": {"a": [None]},
        "waived": False,
    }
