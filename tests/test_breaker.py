"""The circuit breaker: against a plain reference, and by what it may never do."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from searchpipe.breaker import BreakerPolicy, CircuitBreaker
from searchpipe.config import load_config
from searchpipe.errors import ConfigError
from searchpipe.settings import convert


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock, **changes: Any) -> CircuitBreaker:
    breaker = CircuitBreaker(BreakerPolicy(failures=1, cool_down_s=4.0, **changes), clock=clock)
    breaker.failed(breaker.admit(), "broken")
    assert breaker.state == "open"
    return breaker


def test_failures_in_a_row_open_it_and_probes_close_it() -> None:
    clock = Clock()
    breaker = CircuitBreaker(BreakerPolicy(failures=3, cool_down_s=4.0, probes=2), clock=clock)
    for worked in (False, False, True, False, False, False):
        given = breaker.admit()
        assert given
        if worked:
            breaker.succeeded(given)
        else:
            breaker.failed(given, "broken")
    assert (breaker.state, breaker.reason, breaker.trips) == ("open", "broken", 1)
    assert breaker.due_s() == 4.0
    clock.now += 3.9
    assert not breaker.admit()
    clock.now += 0.2
    first = breaker.admit()
    assert breaker.state == "half_open"
    assert first
    assert not breaker.admit()  # one at a time
    breaker.succeeded(first)
    second = breaker.admit()
    breaker.succeeded(second)
    assert (breaker.state, breaker.reason) == ("closed", "")


def test_the_share_of_errors_opens_it_only_with_enough_outcomes() -> None:
    breaker = CircuitBreaker(BreakerPolicy(failures=99, error_share=0.4, min_outcomes=10), clock=Clock())
    for turn in range(9):
        if turn % 2:
            breaker.failed(breaker.admit(), "now and then")
        else:
            breaker.succeeded(breaker.admit())
    assert breaker.state == "closed"
    breaker.succeeded(breaker.admit())
    assert breaker.state == "open"
    assert breaker.reason == "4 of 10 failed, last: now and then"


def test_shares_are_of_the_last_outcomes_also_after_many_successes() -> None:
    clock = Clock()
    policy = BreakerPolicy(failures=99, error_share=0.5, min_outcomes=5, window=10, window_s=10.0)
    breaker = CircuitBreaker(policy, clock=clock)
    for _ in range(100):
        breaker.succeeded(breaker.admit())
    for _ in range(4):
        breaker.failed(breaker.admit(), "broken")
    assert breaker.state == "closed"
    breaker.failed(breaker.admit(), "broken")
    assert breaker.reason == "5 of 10 failed, last: broken"
    breaker = CircuitBreaker(policy, clock=clock)
    for _ in range(9):
        breaker.succeeded(breaker.admit())
    clock.now += 11.0  # what came before is forgotten, although no success has looked
    for _ in range(4):
        breaker.failed(breaker.admit(), "broken")
    assert breaker.state == "closed"
    breaker.failed(breaker.admit(), "broken")
    assert breaker.reason == "5 of 5 failed, last: broken"


def test_slow_outcomes_open_it_and_old_ones_are_forgotten() -> None:
    clock = Clock()
    policy = BreakerPolicy(slow_share=1.0, min_outcomes=4, window_s=10.0)
    breaker = CircuitBreaker(policy, clock=clock)
    for _ in range(3):
        breaker.succeeded(breaker.admit(), slow=True)
    clock.now += 11.0
    breaker.succeeded(breaker.admit(), slow=True)
    assert breaker.state == "closed"
    for _ in range(3):
        breaker.succeeded(breaker.admit(), slow=True)
    assert (breaker.state, breaker.reason) == ("open", "4 of 4 were too slow")


def test_a_success_counts_from_when_its_caller_looked_at_the_clock() -> None:
    clock = Clock()
    policy = BreakerPolicy(failures=9, error_share=0.5, min_outcomes=2, window_s=10.0)
    breaker = CircuitBreaker(policy, clock=clock)
    breaker.succeeded(breaker.admit(), now=clock.now)
    breaker.succeeded(breaker.admit(), now=clock.now - 8.0)
    breaker.succeeded(breaker.admit(), now=clock.now)
    clock.now += 9.0
    breaker.failed(breaker.admit(), "broken")  # one of four, the second of which is too old once it is first
    assert breaker.state == "closed"
    clock.now += 2.0
    breaker.failed(breaker.admit(), "broken")  # the first three are forgotten
    assert (breaker.state, breaker.reason) == ("open", "2 of 2 failed, last: broken")


def test_a_slow_or_failed_probe_doubles_the_rest_up_to_a_limit() -> None:
    clock = Clock()
    breaker = opened(clock, max_cool_down_s=10.0)
    for expected in (8.0, 10.0, 10.0):
        clock.now += breaker.due_s()
        breaker.succeeded(breaker.admit(), slow=True)
        assert breaker.due_s() == expected


def test_one_that_opens_again_soon_rests_longer_and_a_calm_time_forgives() -> None:
    clock = Clock()
    breaker = opened(clock, probes=1)
    for wait, expected in ((1.0, 8.0), (100.0, 4.0)):
        clock.now += breaker.due_s()
        breaker.succeeded(breaker.admit())
        assert breaker.state == "closed"
        clock.now += wait
        breaker.failed(breaker.admit(), "again")
        assert breaker.due_s() == expected


def test_what_began_before_a_change_is_not_counted() -> None:
    clock = Clock()
    breaker = CircuitBreaker(BreakerPolicy(failures=1, cool_down_s=4.0, probes=1), clock=clock)
    old, older = breaker.admit(), breaker.admit()
    breaker.failed(breaker.admit(), "broken")
    clock.now += 4.0
    probe = breaker.admit()
    breaker.succeeded(old)
    breaker.failed(older, "late news")
    assert (breaker.state, breaker.reason) == ("half_open", "broken")
    breaker.succeeded(probe)
    assert breaker.state == "closed"


def test_a_probe_that_says_nothing_gives_its_place_up() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 4.0
    first = breaker.admit()
    breaker.abandoned(first)
    second = breaker.admit()
    assert second
    assert not breaker.admit()
    clock.now += 4.0  # it never tells
    assert breaker.admit()


@pytest.mark.parametrize(
    "table",
    [{"failures": 0}, {"error_share": 1.5}, {"window_s": 0.0}, {"cool_down_s": 9.0, "max_cool_down_s": 8.0}],
)
def test_impossible_policies_are_refused(table: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        convert(table, BreakerPolicy, where="breaker")
    with pytest.raises(ConfigError):
        BreakerPolicy(**table)
    with pytest.raises(ConfigError):
        load_config({"breaker": table})


@settings(max_examples=300, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["good", "bad", "slow"]), st.floats(0.0, 4.0)), min_size=1, max_size=60
    ),
    failures=st.integers(1, 6),
    share=st.sampled_from([0.2, 0.5, 1.0]),
    window=st.integers(3, 12),
    least=st.integers(1, 8),
)
def test_it_opens_exactly_when_the_reference_says(
    steps: list[tuple[str, float]], failures: int, share: float, window: int, least: int
) -> None:
    clock = Clock()
    policy = BreakerPolicy(
        failures=failures, error_share=share, slow_share=share, window=window, min_outcomes=least
    )
    breaker = CircuitBreaker(policy, clock=clock)
    history: list[tuple[float, str]] = []
    for kind, seconds in steps:
        clock.now += seconds
        given_pass = breaker.admit()
        assert given_pass
        if kind == "bad":
            breaker.failed(given_pass, "bad")
        else:
            breaker.succeeded(given_pass, slow=kind == "slow")
        history.append((clock.now, kind))
        recent = [k for at, k in history[-window:] if clock.now - at <= policy.window_s]
        tail = [k for _, k in history[-failures:]]
        in_a_row = len(tail) == failures and set(tail) == {"bad"}
        enough = len(recent) >= least
        too_many = any(enough and recent.count(k) >= share * len(recent) for k in ("bad", "slow"))
        assert (breaker.state == "open") == (in_a_row or too_many)
        if breaker.state == "open":
            return


class Life(RuleBasedStateMachine):
    """Any sequence of callers, ends and waits."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.policy = BreakerPolicy(failures=2, cool_down_s=2.0, max_cool_down_s=9.0, probes=2)
        self.breaker = CircuitBreaker(self.policy, clock=self.clock)
        self.passes: list[int] = []
        self.opened_at: float | None = None
        self.trips = 0

    def watch(self) -> None:
        if self.breaker.trips > self.trips:
            self.trips = self.breaker.trips
            self.opened_at = self.clock.now

    @rule(seconds=st.floats(0.0, 12.0))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def ask(self) -> None:
        before = self.breaker.state
        given = self.breaker.admit()
        if before == "open" and given:
            assert self.opened_at is not None
            assert self.clock.now - self.opened_at >= self.policy.cool_down_s
            assert self.breaker.state == "half_open"
        if before == "closed":
            assert given
        if given:
            self.passes.append(given)

    @rule(end=st.sampled_from(["good", "slow", "bad", "nothing"]), place=st.integers(0, 50))
    def end(self, end: str, place: int) -> None:
        if not self.passes:
            return
        given = self.passes.pop(place % len(self.passes))
        before = self.breaker.state
        if end == "bad":
            self.breaker.failed(given, "bad")
        elif end == "nothing":
            self.breaker.abandoned(given)
        else:
            self.breaker.succeeded(given, slow=end == "slow")
        if before == "open":
            assert self.breaker.state == "open"
        if before != "closed" and self.breaker.state == "closed":
            assert end == "good"
        self.watch()

    @invariant()
    def rests_within_its_limits(self) -> None:
        assert 0 <= self.breaker.due_s() <= self.policy.max_cool_down_s
        if self.breaker.state != "closed":
            assert self.breaker.reason


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
