"""What is learnt from predictions that turned out wrong."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchpipe.admission import Admission
from searchpipe.allotment import Allotment, Service
from searchpipe.forecast_errors import ForecastErrors


@settings(max_examples=20, deadline=None)
@given(st.floats(0.35, 0.65), st.integers(0, 10_000))
def test_the_headroom_settles_where_few_are_late(bearable: float, seed: int) -> None:
    """In a world where answers are late whenever more than ``bearable`` of the budget is planned with."""
    errors, dice, late = ForecastErrors(), random.Random(seed), 0
    for turn in range(4000):
        is_late = errors.headroom > bearable * dice.uniform(0.9, 1.1)
        late += is_late and turn >= 2000
        errors.answered(late=is_late)
        assert 0.3 <= errors.headroom <= 0.7
    assert late / 2000 == pytest.approx(0.02, abs=0.01)


def test_it_comes_back_when_nobody_is_late() -> None:
    errors = ForecastErrors()
    for _ in range(100):
        errors.answered(late=True)
    assert errors.headroom == 0.3
    assert errors.late_s(1.0, 0.0, 2.0) == pytest.approx(0.4)
    for _ in range(2000):
        errors.answered(late=False)
    assert errors.headroom == 0.7
    assert errors.late_s(1.0, 0.0, 2.0) == pytest.approx(-0.4)


def test_budgets_too_short_for_anything_teach_nothing() -> None:
    now = [0.0]
    policy = Admission(1, clock=lambda: now[0])
    now[0] = 1.002
    policy.ended(Allotment(Service.LIGHTEST, math.inf, 1.0, 0.0))
    for _ in range(100):
        policy.answered(0.001, -0.001)
    assert policy.errors.headroom == 0.7
    policy.answered(0.05, -0.001)
    assert policy.errors.headroom < 0.7


def test_any_answer_that_was_quicker_than_predicted_takes_an_underestimate_back() -> None:
    errors = ForecastErrors()
    for _ in range(200):
        errors.compare(0.01, 0.05)
    assert errors.underestimate_s > 0.03
    for _ in range(400):
        errors.compare(0.05, 0.02, Service.FULL)
    assert errors.underestimate_s == 0.0
    errors.compare(0.01, 0.05, Service.FULL)
    assert errors.underestimate_s == 0.0
