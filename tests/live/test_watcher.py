"""The policy that takes versions back: against a model, and its promises for any run of events."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchpipe.deadline import QueryCancelled
from searchpipe.errors import EngineError, OverloadedError, QueryError
from searchpipe.live.relay import Relay
from searchpipe.live.settings import WatchSettings
from searchpipe.live.watcher import Band, Outcome, Watcher
from searchpipe.metrics.observer import Observers

LIMITS = WatchSettings(
    seconds=100.0,
    window_s=20.0,
    min_samples=10,
    p99_ratio=2.0,
    p99_slack_ms=5.0,
    strikes=2,
    cool_down_s=300.0,
)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def watcher(**changes: Any) -> tuple[Watcher, Clock]:
    import msgspec

    clock = Clock()
    return Watcher(msgspec.structs.replace(LIMITS, **changes), clock), clock


def feed(one: Watcher, version: int, ms: float, *, n: int = 20, outcome: Outcome = "full") -> None:
    for _ in range(n):
        one.record(version, ms, outcome)


def test_a_band_is_nearest_rank_and_shares() -> None:
    samples: list[tuple[float, float, Outcome]] = [(0.0, float(ms), "full") for ms in range(1, 201)]
    band = Band.of([*samples, (0.0, 0.0, "error"), (0.0, 5.0, "degraded")])
    assert band.p99_ms == 198.0
    assert band.errors == band.degraded == pytest.approx(1 / 202)
    assert math.isnan(Band.of([(0.0, 0.0, "error")]).p99_ms)
    assert math.isnan(Band.of([(0.0, math.nan, "degraded")]).p99_ms)  # shed: no answer to time


def test_what_is_shed_counts_as_degraded_and_the_callers_mistakes_not_at_all() -> None:
    one, _ = watcher()
    one.serve(1)
    relay = Relay(1, one, Observers())
    for error in (OverloadedError("full"), QueryError("bad"), EngineError("broken"), QueryCancelled()):
        relay.refused("shoes", error)
    band = one.now()
    assert (band.samples, band.degraded, band.errors) == (2, 0.5, 0.5)
    assert math.isnan(band.p99_ms)


@pytest.mark.parametrize(
    ("ms", "outcome", "metric"),
    [(40.0, "full", "p99"), (10.0, "error", "errors"), (10.0, "degraded", "degraded"), (20.0, "full", "")],
)
def test_a_breach_is_called_by_its_name(ms: float, outcome: Outcome, metric: str) -> None:
    one, clock = watcher()
    one.serve(1)
    feed(one, 1, 10.0)
    assert one.begin(2)
    feed(one, 2, ms, outcome=outcome)
    assert one.decide() is None  # one strike is none
    clock.now += 1
    verdict = one.decide()
    assert (verdict is not None) == bool(metric)
    if verdict is not None:
        assert not verdict.good
        assert verdict.version == 2
        assert verdict.metric == metric
        assert verdict.reason
        assert one.decide() is None


def test_without_a_band_only_errors_count() -> None:
    one, _ = watcher()
    one.serve(1)
    one.begin(2)
    assert one.band is None
    feed(one, 2, 9999.0, outcome="degraded")
    assert one.decide() is one.decide() is None
    feed(one, 2, 0.0, outcome="error", n=5)
    one.decide()
    verdict = one.decide()
    assert verdict is not None
    assert verdict.metric == "errors"


def test_what_the_old_version_still_answers_does_not_count() -> None:
    one, _ = watcher()
    one.serve(1)
    feed(one, 1, 10.0)
    one.begin(2)
    feed(one, 1, 500.0)
    assert one.now().samples == 0


def test_an_unproven_version_leaves_the_band_to_the_one_before() -> None:
    one, _ = watcher()
    one.serve(1)
    feed(one, 1, 10.0)
    assert one.begin(2)
    band = one.band
    feed(one, 2, 9000.0)
    assert not one.begin(3)
    assert one.band == band
    feed(one, 3, 12.0)
    assert one.begin(4)
    assert one.band is not None
    assert one.band.p99_ms == 12.0


def test_a_trial_does_not_end_in_a_breach() -> None:
    one, clock = watcher(strikes=5)
    one.serve(1)
    feed(one, 1, 10.0)
    one.begin(2)
    clock.now += 99.5
    feed(one, 2, 100.0)
    assert one.decide() is None
    clock.now += 1
    assert one.decide() is None
    clock.now += 30  # slow ones leave the window, as far as enough others have come
    feed(one, 2, 10.0)
    verdict = one.decide()
    assert verdict is not None
    assert verdict.good


events = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.floats(0.1, 60.0)),
        st.tuples(
            st.just("feed"),
            st.tuples(
                st.integers(1, 30), st.floats(0.1, 200.0), st.sampled_from(["full", "degraded", "error"])
            ),
        ),
        st.tuples(st.just("swap"), st.none()),
        st.tuples(st.just("look"), st.none()),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(events)
def test_promises_for_any_run(run: list[tuple[str, Any]]) -> None:
    one, clock = watcher()
    one.serve(1)
    newest = serving = 1
    before: int | None = None
    taken_back: set[int] = set()
    rollbacks: list[float] = []
    for name, value in run:
        if name == "wait":
            clock.now += value
        elif name == "feed":
            n, ms, outcome = value
            feed(one, serving, ms, n=n, outcome=outcome)
        elif name == "swap":
            if one.cooling_s > 0:
                continue  # as the follower does
            newest += 1
            if one.begin(newest) or before is None:
                before = serving
            serving = newest
            assert one.on_trial
        else:
            enough = one.now().samples >= LIMITS.min_samples
            verdict = one.decide()
            if verdict is None or verdict.good:
                continue
            assert enough
            assert verdict.version == serving
            assert before is not None
            taken_back.add(serving)
            assert before not in taken_back  # nothing that was taken back serves again
            serving, before = before, None
            one.serve(serving)
            one.cool_down()
            rollbacks.append(clock.now)
            assert one.decide() is None  # what took over is not on trial
        assert one.now().samples <= 8192
    gaps = [later - earlier for earlier, later in pairwise(rollbacks)]
    assert all(gap >= LIMITS.cool_down_s for gap in gaps)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(1.0, 100.0), min_size=10, max_size=100),
    st.lists(st.floats(0.1, 1.0), min_size=1, max_size=50),
)
def test_a_version_that_is_nowhere_slower_is_never_taken_back(old: list[float], factors: list[float]) -> None:
    one, clock = watcher()
    one.serve(1)
    for ms in old:
        one.record(1, ms, "full")
    one.begin(2)
    # The slowest answer of the old one is its P99: there are at most 100.
    for place in range(40):
        one.record(2, max(old) * factors[place % len(factors)], "full")
        clock.now += 3
        verdict = one.decide()
        assert verdict is None or verdict.good
    assert not one.on_trial
