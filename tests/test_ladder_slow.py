"""Rungs that time forces, on a clock that stands still: depth, then order, then sources; and the way back."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from searchpipe.deadline import QueryCancelled
from searchpipe.errors import OverloadedError
from searchpipe.pipeline import Pipeline
from searchpipe.stages.base import Work
from tests.conftest import World
from tests.fakes.faults import Clock, fault_in, stop_time
from tests.test_ladder import LEXICAL_ONLY, less, order, reasons

BUDGET_MS = 50.0
PLAIN = less("diversify")
"""Without what would change the order once more."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return stop_time(monkeypatch)


@pytest.fixture
def pipeline(world: World, clock: Clock) -> Iterator[Pipeline]:
    with Pipeline.open(world.snapshot, {**world.config, **PLAIN}) as opened:
        yield opened


def ask(pipeline: Pipeline, text: str, **options: Any) -> Any:
    page = pipeline.search(text, budget_ms=BUDGET_MS, **options)
    # Late by the step that spent the budget, and by no more.
    assert page.trace.total_ms <= BUDGET_MS + page.trace.longest_step_ms + 1e-6
    return page


def until_full(pipeline: Pipeline, text: str, clock: Clock) -> Any:
    """What was refused for its cost is tried again after a while; a minute is more than it takes."""
    for _ in range(60):
        page = ask(pipeline, text)
        if not page.degradations:
            return page
        clock.advance(1.1)
    raise AssertionError(page.degradations)


def test_slow_scores_shorten_the_depth(pipeline: Pipeline, world: World, clock: Clock) -> None:
    text, k = world.queries[0], 300
    full = order(ask(pipeline, text, k=k))
    before = order(pipeline.search(text, k=k, without=["score"]))
    fault = fault_in(pipeline, "score", clock)
    fault.slow(lambda _query, _store, docs: 0.002 * len(docs))
    page = ask(pipeline, text, k=k)
    [degradation] = page.degradations
    assert (degradation.stage, degradation.reason) == ("score", "shortened")
    done = sum("score" in hit.scores for hit in page)
    assert degradation.given_up == f"scored {done} of 100 candidates"
    assert degradation.amount == pytest.approx(1 - done / 100)
    assert 1 <= done < 100
    # The best of them by their scores, behind them the others in the order that they had.
    head = [id_ for id_ in full if id_ in before[:done]]
    assert order(page) == head + before[done:]
    fault.heal()
    assert order(until_full(pipeline, text, clock)) == full[:10]


def test_scores_that_take_all_the_time_leave_the_preranked_order(
    pipeline: Pipeline, world: World, clock: Clock
) -> None:
    text = world.queries[0]
    full = order(ask(pipeline, text))
    fault = fault_in(pipeline, "score", clock)
    fault.slow(0.2)
    ask(pipeline, text)  # learns what it costs
    calls = fault.calls
    for _ in range(30):
        page = ask(pipeline, text)
        assert order(page) == order(pipeline.search(text, without=["score"]))
        assert reasons(page) == [("score", "deadline")]
        assert page.trace.total_ms == 0.0
    assert fault.calls == calls  # it cost none of them anything
    assert {one.state for one in pipeline.breakers.reports()} == {"closed"}
    fault.heal()
    assert order(until_full(pipeline, text, clock)) == full


@pytest.mark.parametrize("part", ["encode", "dense"])
def test_what_is_late_for_recall_leaves_lexical_alone(
    pipeline: Pipeline, world: World, clock: Clock, part: str
) -> None:
    text = world.queries[0]
    full = order(ask(pipeline, text))
    fault = fault_in(pipeline, part, clock)
    fault.slow(0.2)
    assert ask(pipeline, text).trace.total_ms == pytest.approx(200)
    page = ask(pipeline, text)
    assert reasons(page) == [("encode" if part == "encode" else "recall", "deadline")]
    assert page.trace.total_ms == 0.0
    lexical = {**LEXICAL_ONLY, **less("encode", "diversify")}
    with Pipeline.open(world.snapshot, {**world.config, **lexical}) as lower:
        assert order(page) == order(ask(lower, text))
    fault.heal()
    assert order(until_full(pipeline, text, clock)) == full


def test_what_is_always_late_is_left_out(pipeline: Pipeline, world: World, clock: Clock) -> None:
    text = world.queries[0]
    full = order(ask(pipeline, text))
    policy = pipeline.config.breaker
    fault = fault_in(pipeline, "prerank", clock)
    fault.slow(0.06)  # the formula does not look at the time
    for _ in range(policy.min_outcomes):
        assert ask(pipeline, text).trace.total_ms > BUDGET_MS
    calls = fault.calls
    page = ask(pipeline, text)
    assert order(page) == order(pipeline.search(text, without=["prerank"]))
    assert reasons(page) == [("prerank", "circuit_open")]
    assert "were too slow" in page.degradations[0].given_up
    assert page.trace.total_ms == 0.0
    assert fault.calls == calls
    clock.advance(policy.cool_down_s)
    ask(pipeline, text)  # a trial that is too slow again
    assert fault.calls == calls + 1
    assert reasons(ask(pipeline, text)) == [("prerank", "circuit_open")]
    fault.heal()
    assert order(until_full(pipeline, text, clock)) == full


def test_a_first_source_that_is_always_late_gives_way_to_the_next(
    pipeline: Pipeline, world: World, clock: Clock
) -> None:
    text = world.queries[0]
    full = order(ask(pipeline, text))
    fault = fault_in(pipeline, "lexical", clock)
    fault.slow(0.06)
    for _ in range(pipeline.config.breaker.min_outcomes):
        ask(pipeline, text)  # something must be asked, and that is the first one
    page = ask(pipeline, text)
    assert reasons(page) == [("recall", "circuit_open")]
    assert page.trace.total_ms == 0.0
    dense = {**less("diversify"), "recall": {"sources": ["dense"]}}
    with Pipeline.open(world.snapshot, {**world.config, **dense}) as lower:
        assert order(page) == order(ask(lower, text))
    fault.heal()
    assert order(until_full(pipeline, text, clock)) == full


def test_callers_with_tiny_budgets_take_no_stage_away_from_others(
    pipeline: Pipeline, world: World, clock: Clock
) -> None:
    fault = fault_in(pipeline, "prerank", clock)
    fault.slow(0.004)  # within its share of the default budget
    for _ in range(100):
        pipeline.search(world.queries[0], budget_ms=1.0)
    assert fault.calls == 100
    assert [one.trips for one in pipeline.breakers.reports()] == [0] * len(pipeline.breakers.reports())
    assert not ask(pipeline, world.queries[0]).degradations


class Held:
    """Keeps a query inside a stage until it is let go."""

    def __init__(self) -> None:
        self.inside, self.go = threading.Semaphore(0), threading.Event()

    def __call__(self, result: Any, *_: Any) -> Any:
        self.inside.release()
        assert self.go.wait(30)
        return result


def held(pipeline: Pipeline, part: str) -> tuple[Held, Any]:
    keep, fault = Held(), fault_in(pipeline, part)
    fault.change(keep)
    return keep, fault


def test_a_full_waiting_room_refuses_the_rest_and_empties(world: World) -> None:
    config = {**world.config, "pipeline": {"threads": 1, "max_waiting": 2}}
    text = world.queries[0]

    async def overload(pipeline: Pipeline, keep: Held) -> list[Any]:
        first = asyncio.create_task(pipeline.asearch(text, budget_ms=math.inf))
        await asyncio.to_thread(keep.inside.acquire)
        others = [asyncio.create_task(pipeline.asearch(text, budget_ms=math.inf)) for _ in range(5)]
        while sum(task.done() for task in others) < 3:
            await asyncio.sleep(0)
        assert pipeline.load == (1, 2)
        others[0].cancel()  # gives its place back
        while pipeline.load != (1, 1):
            await asyncio.sleep(0)
        others.append(asyncio.create_task(pipeline.asearch(text, budget_ms=math.inf)))
        await asyncio.sleep(0)
        keep.go.set()
        return await asyncio.gather(first, *others, return_exceptions=True)

    with Pipeline.open(world.snapshot, config) as pipeline:
        full = order(pipeline.search(text, budget_ms=math.inf))
        keep, fault = held(pipeline, "prerank")
        first, cancelled, waited, *refused, last = asyncio.run(overload(pipeline, keep))
        assert [order(page) for page in (first, waited, last)] == [full] * 3
        assert isinstance(cancelled, asyncio.CancelledError)
        assert [type(error) for error in refused] == [OverloadedError] * 3
        assert fault.calls == 3  # neither the refused nor who had left
        fault.heal()
        assert order(asyncio.run(pipeline.asearch(text, budget_ms=math.inf))) == full
        assert {one.state for one in pipeline.breakers.reports()} == {"closed"}


def test_who_leaves_while_waiting_for_the_cores_is_gone_at_once(world: World) -> None:
    text = world.queries[0]

    async def leave(pipeline: Pipeline, keep: Held) -> None:
        first = asyncio.create_task(pipeline.asearch(text, budget_ms=math.inf, without=["encode"]))
        await asyncio.to_thread(keep.inside.acquire)  # at the gate's other side
        second = asyncio.create_task(pipeline.asearch(text, budget_ms=math.inf, without=["encode"]))
        gate: Any = next(stage for stage in pipeline.stages if stage.name == "score")
        while not gate._gate._waiting:
            await asyncio.sleep(0.001)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        while pipeline.load[0] > 1:
            await asyncio.sleep(0.001)
        assert not gate._gate._waiting
        keep.go.set()
        await first

    with Pipeline.open(world.snapshot, world.config) as pipeline:
        keep, fault = held(pipeline, "score")
        asyncio.run(leave(pipeline, keep))
        steps, fault.calls = fault.calls, 0
        pipeline.search(text, budget_ms=math.inf, without=["encode"])
        assert steps == fault.calls  # of one query


def test_a_cancelled_query_says_nothing_about_its_stages(pipeline: Pipeline, world: World) -> None:
    def leave(work: Work) -> None:
        work.deadline.cancel()
        work.deadline.check_cancelled()

    stage: Any = next(one for one in pipeline.stages if one.name == "prerank")
    stage.run = leave

    async def call() -> None:
        for _ in range(10):
            with pytest.raises(QueryCancelled):
                await pipeline.asearch(world.queries[0])

    asyncio.run(call())
    del stage.run
    assert not pipeline.search(world.queries[0]).degradations
