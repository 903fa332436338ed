"""The search for the capacity: what counts as held, and what a busy machine does to it."""

from __future__ import annotations

import math
import random

import pytest

from benchmarks.overload_capacity import described, p99_of_all_ms, search, settings_of, trial
from searchpipe.replay.capacity import Probe, Run
from searchpipe.replay.entry import Entry
from searchpipe.replay.outcome import Answer, Outcome

_ENTRY = Entry(ts=0.0, query="shoes")


def answered(ms: float) -> Outcome:
    return Outcome(_ENTRY, "answered", 0.0, 0.0, ms / 1e3, Answer((), ms, 50.0, ()))


REFUSED = Outcome(_ENTRY, "shed", 0.0, 0.0, 0.001, code="overloaded")


def server(capacity: float, *, stalled: float = 0.0, seed: int = 0) -> Probe:
    """Trials of a server that holds up to ``capacity``; of those, a share is spoilt by others."""
    dice = random.Random(seed)

    def probe(rate: float, number: int) -> Run:
        del number
        late = 2 if rate > capacity or dice.random() < stalled else 1
        return trial(rate, 1.0, [answered(20.0)] * (100 - late) + [answered(60.0)] * late, 50.0)

    return probe


@pytest.mark.parametrize("bad", [answered(51.0), REFUSED])
def test_a_rate_holds_if_99_of_100_that_were_asked_are_answered_in_time(bad: Outcome) -> None:
    settings = settings_of(50.0, 10.0, 3)
    for bad_ones, holds in ((0, True), (10, True), (11, False), (1000, False)):
        outcomes = [answered(49.0)] * (1000 - bad_ones) + [bad] * bad_ones
        assert (p99_of_all_ms(outcomes) <= 50.0) is holds
        run = trial(1000.0, 1.0, outcomes, 50.0)
        assert run.good_per_s == 1000 - bad_ones
        assert (run.p99_ms is not None and run.p99_ms <= settings.p99_ms) is holds
    assert p99_of_all_ms([]) == math.inf
    assert trial(1.0, 1.0, [], 50.0).p99_ms is None


@pytest.mark.parametrize("capacity", [3.0, 77.0, 940.0])
def test_a_quiet_machines_capacity_is_found(capacity: float) -> None:
    probe = server(capacity)
    found = search(probe, settings_of(50.0, 50.0, 3))
    assert found.rate is not None
    assert capacity / 1.06 <= found.rate <= capacity
    assert any("holds" in line for line in described(found))
    assert any("fails" in line for line in described(found))


def test_a_stall_on_the_way_up_does_not_end_it() -> None:
    """Both trials that end the first search fail for another reason than the rate."""
    trials = 0

    def probe(rate: float, number: int) -> Run:
        nonlocal trials
        del number
        trials += 1
        late = 2 if rate > 800.0 or 5 <= trials <= 12 else 1
        return trial(rate, 1.0, [answered(20.0)] * (100 - late) + [answered(60.0)] * late, 50.0)

    found = search(probe, settings_of(50.0, 50.0, 3))
    assert found.rate is not None
    assert 800 / 1.06 <= found.rate <= 800


def test_single_trials_that_others_spoil_are_outvoted() -> None:
    near = 0
    for seed in range(40):
        probe = server(500.0, stalled=0.1, seed=seed)
        found = search(probe, settings_of(50.0, 50.0, 3))
        near += found.rate is not None and 500 / 1.2 <= found.rate <= 500
    assert near >= 30
