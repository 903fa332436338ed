"""The capacity benchmark's search: bisection in short runs, confirmation and refinement in longer ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.capacity_policy import COARSE, TOLERANCE, Held, Needs, Tally, Timing, search
from searchpipe.replay.capacity import Run

GOAL_MS = 30.0
CONFIRM_S = 9.0


def a_run(rate: float, p99_ms: float, *, failed: float = 0.0, degraded: float = 0.0) -> Run:
    return Run(rate, 100, rate, rate, p99_ms / 2, p99_ms, failed, degraded, 0.1)


class Ideal:
    """Holds up to ``capacity`` queries a second in short runs, up to ``longer`` in longer ones.

    The P99 grows to the target as the rate does; ``flat``, it is at the target for all that holds.
    """

    def __init__(
        self, capacity: float, longer: float | None = None, *, step_s: float = 0.0, flat: bool = False
    ) -> None:
        self.capacity, self.longer = capacity, longer if longer is not None else capacity
        self.seen: list[tuple[float, float, int]] = []
        self.begun: list[float] = []
        self.clock = 0.0
        self._step_s, self._flat = step_s, flat

    def __call__(self, rate: float, seconds: float, seed: int) -> Run:
        self.seen.append((rate, seconds, seed))
        self.begun.append(self.clock)
        self.clock += self._step_s
        limit = self.longer if seed else self.capacity
        if rate > limit:
            return a_run(rate, 2 * GOAL_MS)
        return a_run(rate, GOAL_MS * (1.0 if self._flat else (rate / limit) ** 3))

    @property
    def longer_rates(self) -> list[float]:
        return [rate for rate, _, seed in self.seen if seed]


def searched(system: Ideal, guess: float, *, limit_s: float = 1e9, needs: Needs | None = None) -> Held:
    found = Held()
    search(
        found,
        system,
        needs=needs or Needs(GOAL_MS),
        full_rate=guess,
        seed=0,
        timing=Timing(run_s=1.0, confirm_s=CONFIRM_S, limit_s=limit_s),
        now=lambda: system.clock,
    )
    return found


@given(capacity=st.floats(20.0, 2000.0), guess=st.floats(0.8, 3.0), flat=st.booleans())
def test_the_search_finds_the_capacity(capacity: float, guess: float, flat: bool) -> None:
    found = searched(Ideal(capacity, flat=flat), guess * capacity)
    assert found.rate <= capacity <= found.rate * (1 + TOLERANCE) * 1.001
    assert found.fails_at is not None
    assert capacity < found.fails_at <= found.rate * (1 + TOLERANCE) * 1.001
    assert found.confirmed is not None
    assert found.confirmed.holds
    assert not found.why


@given(short=st.floats(60.0, 100.0), longer=st.floats(60.0, 100.0), flat=st.booleans())
def test_the_longer_runs_decide(short: float, longer: float, flat: bool) -> None:
    system = Ideal(short, longer, flat=flat)
    found = searched(system, 110.0)
    assert found.rate <= longer
    assert all(seconds == CONFIRM_S for _, seconds, seed in system.seen if seed)
    assert all(seconds < CONFIRM_S for _, seconds, seed in system.seen if not seed)
    assert len(set(system.longer_rates)) == len(system.longer_rates)
    # Without room in the P99 there is no reason to doubt what failed in a short run.
    if longer <= short or not flat:
        assert longer <= found.rate * (1 + TOLERANCE) * 1.001


def test_a_rate_that_fails_the_longer_run_is_lowered() -> None:
    system = Ideal(100.0, longer=80.0, flat=True)
    found = searched(system, 110.0)
    assert 80.0 / (1 + TOLERANCE) / 1.001 <= found.rate <= 80.0
    assert len(system.longer_rates) > 2


def test_a_rate_that_failed_by_bad_luck_is_tried_again() -> None:
    system = Ideal(100.0, longer=150.0)
    found = searched(system, 100.0)
    first, second = system.longer_rates[:2]
    assert first <= 100.0 < second <= first * (1 + COARSE) * 1.001
    assert second in [rate for rate, _, seed in system.seen if not seed]
    assert found.rate <= 150.0 <= found.rate * (1 + TOLERANCE) * 1.001


def test_there_is_no_end_to_luck_but_the_rate() -> None:
    found = searched(Ideal(100.0, longer=1e6), 100.0)
    assert found.rate <= 160.0
    assert found.fails_at is None
    assert "twice the first guess" in found.why


def test_a_system_that_never_holds_has_no_capacity() -> None:
    found = searched(Ideal(0.0), 100.0)
    assert found.rate == 0.0
    assert found.confirmed is None
    assert "hold" in found.why


def test_a_capacity_over_the_search_is_told() -> None:
    found = searched(Ideal(1e6), 100.0)
    assert found.rate == pytest.approx(160.0)
    assert "still held" in found.why


def test_what_fails_only_in_longer_runs_is_a_bracket_too() -> None:
    found = searched(Ideal(1e6, longer=120.0), 100.0)
    assert found.fails_at is not None
    assert found.rate <= 120.0 < found.fails_at <= found.rate * (1 + TOLERANCE) * 1.001
    assert not found.why


def test_the_search_ends_when_its_time_is_over() -> None:
    system = Ideal(100.0, step_s=10.0)
    found = searched(system, 200.0, limit_s=25.0)
    assert len(found.runs) < 6
    assert len(system.longer_rates) == 1
    assert "over" in found.why


@given(limit_s=st.floats(0.0, 200.0), longer=st.floats(70.0, 140.0))
def test_no_refinement_begins_that_would_end_too_late(limit_s: float, longer: float) -> None:
    system = Ideal(100.0, longer, step_s=CONFIRM_S)
    found = searched(system, 110.0, limit_s=limit_s)
    assert found.rate <= longer
    begun = [time for time, (_, _, seed) in zip(system.begun, system.seen, strict=True) if seed]
    holding = [run.holds for run in found.runs[-len(begun) :]]
    refining = begun[holding.index(True) + 1 :] if True in holding else []
    assert all(time + CONFIRM_S <= limit_s for time in refining)


@pytest.mark.parametrize(("share", "expected"), [(1.0, 50.0), (0.9, 100.0)])
def test_a_share_of_the_candidates_may_be_enough(share: float, expected: float) -> None:
    class Shortening(Ideal):
        def __call__(self, rate: float, seconds: float, seed: int) -> Run:
            super().__call__(rate, seconds, seed)
            return a_run(rate, GOAL_MS, degraded=min(1.0, max(0.0, (rate - 50.0) / 500.0)))

    found = searched(Shortening(1e6), 100.0, needs=Needs(GOAL_MS, scored_share=share))
    assert found.rate <= expected * 1.0001
    assert expected <= found.rate * (1 + TOLERANCE) * 1.001


@pytest.mark.parametrize(("allowed", "holds"), [(0.0, False), (0.001, True)])
def test_failed_queries_count(allowed: float, holds: bool) -> None:
    class Failing(Ideal):
        def __call__(self, rate: float, seconds: float, seed: int) -> Run:
            return a_run(rate, 1.0, failed=0.0005)

    found = searched(Failing(1.0), 100.0, needs=Needs(GOAL_MS, failed_share=allowed))
    assert bool(found.rate) is holds


def test_a_tally_of_nothing() -> None:
    assert Tally().pairs_per_query == Tally().shortened_share == 0.0
    assert Tally(4, 10, 1).pairs_per_query == 2.5
    assert Tally(4, 10, 1).shortened_share == 0.25
