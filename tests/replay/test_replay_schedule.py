"""Intended starts: recorded, fixed and ramped rates."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchpipe.errors import ConfigError
from searchpipe.replay.entry import Entry
from searchpipe.replay.schedule import Fixed, Ramp, Recorded, cycled
from tests.fakes.replay_targets import entries_of

gaps = st.lists(st.floats(0, 100), min_size=1, max_size=40)
rates = st.floats(0.1, 1000)


def logged(found: list[float]) -> list[Entry]:
    return [Entry(ts, "x") for ts in itertools.accumulate(found, initial=1e9)]


@given(gaps, st.floats(0.1, 100))
def test_recorded_times_are_scaled(found: list[float], speed: float) -> None:
    entries = logged(found)
    arrivals = list(Recorded(speed).arrivals(entries))
    assert [arrival.entry for arrival in arrivals] == entries
    for arrival, entry in zip(arrivals, entries, strict=True):
        assert arrival.at == pytest.approx((entry.ts - entries[0].ts) / speed, abs=1e-3)


@given(gaps, st.floats(0.1, 10))
def test_long_gaps_are_shortened_and_short_ones_kept(found: list[float], most: float) -> None:
    entries = logged(found)
    arrivals = list(Recorded(1.0, most).arrivals(entries))
    for before, after, first, second in zip(arrivals, arrivals[1:], entries, entries[1:], strict=False):
        assert after.at - before.at == pytest.approx(min(second.ts - first.ts, most), abs=1e-6)


@given(rates, st.integers(0, 5), st.booleans())
def test_a_fixed_rate_rises_and_is_the_rate(rate: float, seed: int, poisson: bool) -> None:
    at = [a.at for a in Fixed(rate, poisson=poisson, seed=seed).arrivals(entries_of(2000))]
    assert at == sorted(at)
    assert at[0] >= 0
    # Six standard deviations of a Poisson count.
    assert 2000 / at[-1] == pytest.approx(rate, rel=6 / math.sqrt(2000) if poisson else 1e-6)
    assert at == [a.at for a in Fixed(rate, poisson=poisson, seed=seed).arrivals(entries_of(2000))]


def test_poisson_gaps_are_exponential() -> None:
    at = [a.at for a in Fixed(10.0, seed=3).arrivals(entries_of(20_000))]
    found = [after - before for before, after in itertools.pairwise(at)]
    # P(gap > mean) = 1/e for exponential gaps.
    assert sum(gap > 0.1 for gap in found) / len(found) == pytest.approx(math.exp(-1), abs=0.02)


@given(st.floats(0, 300), st.floats(0, 300), st.integers(0, 5))
def test_a_ramp_holds_the_area_below_it(first: float, last: float, seed: int) -> None:
    if first == last == 0:
        return
    ramp = Ramp(first, last, 40.0, seed)
    at = [a.at for a in ramp.arrivals(cycled(entries_of(3), again=True))]
    expected = (first + last) / 2 * 40
    assert abs(len(at) - expected) <= 6 * math.sqrt(expected) + 6
    assert at == sorted(at)
    assert all(0 <= one < 40 for one in at)
    half = sum(one < 20 for one in at)
    area = (first + ramp.rate_at(20)) / 2 * 20
    assert abs(half - area) <= 6 * math.sqrt(area) + 6


def test_the_duration_ends_every_schedule() -> None:
    entries = entries_of(1000)
    for schedule in (Recorded(1.0, duration_s=5), Fixed(10, 5), Ramp(10, 10, 5)):
        at = [arrival.at for arrival in schedule.arrivals(entries)]
        assert 20 < len(at) < 90
        assert max(at) < 5
        assert schedule.describe()


def test_entries_again_and_again() -> None:
    entries = entries_of(3)
    assert list(cycled(entries, again=False)) == entries
    assert list(itertools.islice(cycled(entries, again=True), 7)) == [*entries, *entries, entries[0]]
    assert list(cycled([], again=True)) == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: Recorded(0),
        lambda: Recorded(math.inf),
        lambda: Recorded(1, max_gap_s=0),
        lambda: Fixed(-1),
        lambda: Fixed(math.nan),
        lambda: Fixed(1, duration_s=0),
        lambda: Ramp(0, 0),
        lambda: Ramp(-1, 5),
        lambda: Ramp(1, math.inf),
        lambda: Ramp(1, 2, math.inf),
    ],
)
def test_values_outside_their_limits(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError):
        make()
