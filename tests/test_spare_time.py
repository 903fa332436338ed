"""The account of time for richer answers: bounded, halved at congestion, back after a while."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchpipe.spare_time import SpareTime


def test_time_that_is_not_used_is_saved_up_to_a_limit() -> None:
    account = SpareTime(2, 0.0)
    account.spend(0.2)
    assert account.saved_s == pytest.approx(0.0)
    account.earn(0.05, 2)
    assert account.saved_s == pytest.approx(0.05 * 0.8 * 2)
    account.earn(10.0, 2)
    assert account.saved_s == pytest.approx(0.2)
    account.spend(100.0)
    assert account.saved_s == pytest.approx(-0.2)
    account.settle(0.1)
    assert account.saved_s == pytest.approx(-0.1)


def test_a_share_for_each_query() -> None:
    account = SpareTime(4, 0.0)
    assert account.fair_s(4, 0.0) == math.inf
    assert account.fair_s(4, 100.0) == pytest.approx(0.8 * 4 / 100)
    account.congested(0.0)
    assert account.fair_s(4, 100.0) == pytest.approx(0.8 * 4 / 200)


def test_congestion_takes_what_was_saved_and_slows_saving_until_it_is_over() -> None:
    account = SpareTime(1, 0.0)
    account.congested(0.0)
    account.congested(0.01)  # the first one's cure has not taken effect
    assert account.saved_s == 0.0
    account.earn(0.01, 1)
    assert account.saved_s == pytest.approx(0.01 * 0.8 * 0.501)
    account.earn(1.0, 1)
    assert account.saved_s == pytest.approx(0.1 * 0.6)
    account.earn(9.0, 1)
    assert account.saved_s == pytest.approx(0.1)


@given(st.lists(st.tuples(st.sampled_from(["earn", "spend", "congested"]), st.floats(0.0, 3.0))))
def test_it_never_holds_or_owes_more_than_a_burst(steps: list[tuple[str, float]]) -> None:
    account, now = SpareTime(3, 0.0), 0.0
    for what, seconds in steps:
        if what == "earn":
            now += seconds
            account.earn(now, 3)
        elif what == "spend":
            account.spend(seconds)
        else:
            account.congested(now)
        assert -0.3 - 1e-9 <= account.saved_s <= 0.3 + 1e-9
        assert account.fair_s(3, 1.0) <= 2.4 + 1e-9
        assert 0.0 < account.share <= 1.0
