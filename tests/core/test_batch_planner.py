"""The batch planner against a plain model, and against what it promises."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_reference import LENGTHS, TICKS, Limits, ReferencePlanner, lengths_of, planner_of

from searchpipe._core import BatchPlanner, PlannedBatch


@given(
    st.lists(st.tuples(LENGTHS, TICKS, st.integers(0, 3)), max_size=12),
    st.sampled_from([1, 8, 16]),
    st.sampled_from([0.0, 0.25]),
)
@settings(max_examples=150, deadline=None)
def test_whoever_asks_when_told_gets_every_row_once_and_within_the_delay(
    arrivals: list[tuple[list[int], float, int]], width_step: int, max_delay_s: float
) -> None:
    """An infinitely fast engine that asks at every add and at the time it was given."""
    limits = Limits(
        width_step=width_step, max_delay_s=max_delay_s, max_queued_rows=1000, max_queued_requests=99
    )
    planner, now, ask_at = planner_of(limits), 0.0, math.inf
    arrived: dict[int, float] = {}
    served: list[tuple[int, int]] = []

    def ask() -> float:
        while isinstance(batch := planner.next_batch(now), PlannedBatch):
            assert batch.width % width_step == 0
            for part in batch.parts:
                assert now - arrived[part.request] <= max_delay_s
                served.extend((part.request, part.first_row + row) for row in range(part.rows))
        return batch

    for request, (lengths, gap, priority) in enumerate(arrivals):
        then = now + gap
        while ask_at <= then:
            now = ask_at
            ask_at = ask()
        now = then
        arrived[request] = now
        assert planner.add(request, lengths_of(*lengths), now=now, priority=priority)
        ask_at = ask()
    while ask_at < math.inf:
        now = ask_at
        ask_at = ask()
    rows = [(request, row) for request, (lengths, *_) in enumerate(arrivals) for row in range(len(lengths))]
    assert sorted(served) == rows
    assert len(planner) == 0


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_nothing_starves(data: st.DataObject) -> None:
    """More urgent requests keep coming: the patient one still starts within the stated bound."""
    limits = Limits(starve_after_s=1.0, max_queued_rows=10_000, max_queued_requests=1000)
    planner, model = planner_of(limits), ReferencePlanner(limits)
    now, ids, batches_since, bound = 0.0, 0, 0, None
    earlier = data.draw(st.integers(0, 5))
    while True:
        for _ in range(data.draw(st.integers(1, 2))):
            lengths = data.draw(LENGTHS)
            priority = 0 if ids == earlier else 1
            planner.add(ids, lengths_of(*lengths), now=now, priority=priority)
            model.add(ids, lengths, now, math.inf, priority)
            ids += 1
        patient = next((one for one in model.queue if one.id == earlier), None)
        if patient is None:
            assert ids <= earlier
        elif bound is None and now - patient.arrival >= limits.starve_after_s:
            ahead = [one for one in model.queue if one.sequence < patient.sequence]
            # A request whose rows get narrower fits better as it goes: the width now bounds all later ones.
            bound = 1 + sum(math.ceil(one.left / model.fit(one)) for one in ahead)
        batch = planner.next_batch(now, flush=True)
        model.next_batch(now, True)
        assert isinstance(batch, PlannedBatch)
        batches_since += bound is not None
        if any(part.request == earlier for part in batch.parts):
            return
        assert bound is None or batches_since < bound
        now += 1 / 8


def test_earliest_deadline_first_inside_a_priority() -> None:
    planner = BatchPlanner(max_rows=1)
    for request, (deadline, priority) in enumerate([(9.0, 0), (5.0, 0), (math.inf, 1), (7.0, 1), (5.0, 0)]):
        planner.add(request, lengths_of(4), now=0.0, deadline=deadline, priority=priority)
    served = []
    while isinstance(batch := planner.next_batch(0.001), PlannedBatch):
        served.append(batch.parts[0].request)
    assert served == [3, 2, 1, 4, 0]


def test_a_large_request_is_split_and_its_rest_filled_up() -> None:
    planner = BatchPlanner(max_rows=4, token_budget=1000)
    planner.add(1, lengths_of(9, 8, 7, 6, 5, 4), now=0.0)
    planner.add(2, lengths_of(9), now=0.0)
    first, second = planner.next_batch(0.0), planner.next_batch(0.006)
    assert isinstance(first, PlannedBatch)
    assert isinstance(second, PlannedBatch)
    assert [(part.request, part.first_row, part.rows) for part in first.parts] == [(1, 0, 4)]
    assert [(part.request, part.first_row, part.rows) for part in second.parts] == [(1, 4, 2), (2, 0, 1)]
    assert (first.trigger, second.trigger) == ("full", "delay")
    assert (second.width, second.tokens, second.padded_tokens) == (9, 18, 27)


def test_a_batch_waits_for_company_but_not_beyond_the_delay() -> None:
    planner = BatchPlanner(max_delay_s=0.005)
    planner.add(1, lengths_of(10), now=1.0)
    assert planner.next_batch(1.0) == 1.005
    planner.add(2, lengths_of(10), now=1.002)
    assert planner.next_batch(1.004) == 1.005
    batch = planner.next_batch(1.005)
    assert isinstance(batch, PlannedBatch)
    assert [part.request for part in batch.parts] == [1, 2]
    assert planner.next_batch(1.005) == math.inf


def test_a_deadline_cuts_the_wait_short() -> None:
    planner = BatchPlanner(max_delay_s=0.005, base_s=0.25, token_s=0.0)
    planner.add(1, lengths_of(10), now=1.0, deadline=1.2510)
    assert planner.next_batch(1.0) == 1.2510 - 0.25
    batch = planner.next_batch(1.002)
    assert isinstance(batch, PlannedBatch)
    assert batch.trigger == "deadline"


def test_flush_does_not_wait() -> None:
    planner = BatchPlanner()
    planner.add(1, lengths_of(10), now=0.0)
    batch = planner.next_batch(0.0, flush=True)
    assert isinstance(batch, PlannedBatch)
    assert batch.trigger == "flush"
    assert planner.next_batch(0.0, flush=True) == math.inf


def test_short_rows_do_not_join_a_wide_batch_when_padding_costs_more() -> None:
    def widths(base_s: float) -> list[int]:
        planner = BatchPlanner(base_s=base_s, token_s=1e-6)
        planner.add(1, lengths_of(*[120] * 20), now=0.0, priority=1)
        planner.add(2, lengths_of(*[20] * 20), now=0.0)
        found = []
        while isinstance(batch := planner.next_batch(0.005), PlannedBatch):
            found.append(batch.width)
        return found

    assert widths(base_s=1e-3) == [120, 20]  # 2,000 tokens of padding against 1,000 tokens' worth of a batch
    assert widths(base_s=3e-3) == [120]


def test_a_joiner_may_not_break_a_deadline_that_is_kept_without_it() -> None:
    planner = BatchPlanner(base_s=0.0, token_s=0.001, token_budget=10_000)
    planner.add(1, lengths_of(10), now=0.0, deadline=0.05)
    planner.add(2, lengths_of(*[10] * 8), now=0.0)
    batch = planner.next_batch(0.0)
    assert isinstance(batch, PlannedBatch)
    assert [(part.request, part.rows) for part in batch.parts] == [(1, 1), (2, 4)]
    assert batch.estimated_s <= 0.05


def test_departed_and_late_requests_are_not_batched() -> None:
    planner = BatchPlanner(max_rows=2)
    planner.add(1, lengths_of(5, 5, 5), now=0.0, priority=1)
    planner.add(2, lengths_of(5), now=0.0, deadline=0.5)
    planner.add(3, lengths_of(5), now=0.0)
    assert isinstance(planner.next_batch(0.0), PlannedBatch)
    assert planner.cancel(1)
    assert not planner.cancel(1)
    late = planner.next_batch(0.5)
    assert isinstance(late, PlannedBatch)
    assert [part.request for part in late.parts] == [3]
    assert planner.expire(0.5) == [2]
    assert (len(planner), planner.queued_rows, planner.queued_tokens) == (0, 0, 0)


def test_new_costs_count_from_the_next_decision() -> None:
    planner = BatchPlanner(max_delay_s=10.0, base_s=0.0, token_s=0.0)
    planner.add(1, lengths_of(4), now=0.0, deadline=8.0)
    assert planner.next_batch(0.0) == 8.0
    planner.set_cost(base_s=1.0, token_s=0.5)
    assert planner.next_batch(0.0) == 5.0


def test_a_clock_that_steps_back_stands_still() -> None:
    planner = BatchPlanner()
    planner.add(1, lengths_of(4), now=100.0)
    planner.add(2, lengths_of(4), now=50.0)
    assert planner.next_batch(0.0) == 100.005
    batch = planner.next_batch(100.005)
    assert isinstance(batch, PlannedBatch)
    assert batch.rows == 2


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ({"max_queued_requests": 1}, "1 requests are queued, the limit is 1"),
        ({"max_queued_rows": 4}, "2 rows are queued and 3 more would exceed the limit of 4"),
        ({"token_budget": 8}, "9 tokens wide, more than the token budget of 8"),
    ],
)
def test_refusals_say_value_and_limit(limits: dict[str, int], text: str) -> None:
    planner = BatchPlanner(**limits)  # type: ignore[arg-type]
    assert planner.add(1, lengths_of(2, 1), now=0.0)
    refused = planner.add(2, lengths_of(9, 1, 1), now=0.0)
    assert not refused
    assert text in refused.reason
    assert len(planner) == 1
    late = planner.add(3, lengths_of(1), now=2.0, deadline=1.5)
    assert (late.code, late.reason) == ("deadline_passed", "the deadline passed 0.5 s ago")


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"lengths": lengths_of()}, ValueError, "no rows"),
        ({"lengths": lengths_of(3, 0)}, ValueError, r"lengths\[1\] is 0"),
        ({"lengths": lengths_of(3, 4)}, ValueError, r"lengths\[1\] is 4, more than the 3.*longest first"),
        ({"lengths": [3]}, TypeError, "type list"),
        ({"now": math.nan}, ValueError, "now is nan"),
        ({"now": math.inf}, ValueError, "now is inf"),
        ({"deadline": math.nan}, ValueError, "deadline is NaN"),
        ({"request": 7}, ValueError, "request 7 is queued already"),
    ],
)
def test_add_refuses_nonsense(changes: dict[str, Any], error: type[Exception], text: str) -> None:
    planner = BatchPlanner()
    planner.add(7, lengths_of(1), now=0.0)
    arguments: dict[str, Any] = {"request": 1, "lengths": lengths_of(3), "now": 0.0}
    with pytest.raises(error, match=text):
        planner.add(**(arguments | changes))
    assert len(planner) == 1


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ({"max_rows": 0}, "max_rows is 0"),
        ({"token_budget": 2**41}, "token_budget is 2199023255552"),
        ({"max_delay_s": math.inf}, "max_delay_s is inf s; it must be at least 0 and finite"),
        ({"starve_after_s": math.nan}, "starve_after_s is nan"),
        ({"base_s": -1.0}, "base_s is -1"),
        ({"token_s": math.nan}, "token_s is nan"),
    ],
)
def test_limits_are_checked(limits: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        BatchPlanner(**limits)


def test_results_describe_themselves() -> None:
    planner = BatchPlanner(max_queued_requests=1)
    assert repr(planner.add(1, lengths_of(4, 2), now=0.0)) == "Admission(accepted)"
    assert repr(planner.add(2, lengths_of(4), now=0.0)).startswith("Admission(queued_requests: 1 requests")
    batch = planner.next_batch(0.0, flush=True)
    assert isinstance(batch, PlannedBatch)
    assert repr(batch) == "PlannedBatch(1 parts, 2 x 4 tokens, flush)"
    assert repr(batch.parts[0]) == "BatchPart(request 1, rows 0..1)"
