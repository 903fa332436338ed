"""Who watches a pipeline is told of everything and can break nothing."""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from searchpipe.errors import ClosedError, OverloadedError, QueryError
from searchpipe.metrics.observer import code_of
from searchpipe.page import Page
from searchpipe.pipeline import Pipeline
from tests.fakes.hashed_stages import Hold, hashed_pipeline
from tests.test_pipeline import Fake, page, recall


class Seen:
    def __init__(self) -> None:
        self.pages: list[Page] = []
        self.refusals: list[tuple[object, str]] = []

    def answered(self, page: Page) -> None:
        self.pages.append(page)

    def refused(self, text: object, error: BaseException) -> None:
        self.refusals.append((text, code_of(error)))


class Broken:
    def __init__(self) -> None:
        self.calls = 0

    def answered(self, page: Page) -> None:
        self.calls += 1
        raise OSError("disk full")

    def refused(self, text: object, error: BaseException) -> None:
        self.calls += 1
        raise OSError("disk full")


def test_answers_and_refusals_are_told_and_warming_up_is_not() -> None:
    seen = Seen()
    with Pipeline([recall(), page()]) as pipeline:
        pipeline.observe(seen)
        pipeline.warm_up()
        assert not seen.pages
        answer = pipeline.search("shoes")
        again = asyncio.run(pipeline.asearch("boots"))
        assert seen.pages == [answer, again]
        with pytest.raises(QueryError):
            pipeline.search("")
        with pytest.raises(QueryError):
            asyncio.run(pipeline.asearch("x", k=0))
    with pytest.raises(ClosedError):
        pipeline.search("late")
    assert seen.refusals == [("", "bad_query"), ("x", "bad_query"), ("late", "closed")]


def test_one_that_breaks_is_blamed_once_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    broken, seen = Broken(), Seen()
    with Pipeline([recall(), page()]) as pipeline:
        pipeline.observe(broken)
        pipeline.observe(seen)
        for _ in range(3):
            assert len(pipeline.search("shoes")) == 5
        with pytest.raises(QueryError):
            pipeline.search("")
    assert broken.calls == 4
    assert len(seen.pages) == 3
    assert len([record for record in caplog.records if "Broken" in record.getMessage()]) == 1


def test_what_is_no_observer_is_refused() -> None:
    with Pipeline([recall(), page()]) as pipeline, pytest.raises(TypeError, match="no observer"):
        pipeline.observe(print)  # type: ignore[arg-type]


def test_shed_and_cancelled_queries_are_told(snapshot_folder: Path) -> None:
    seen, hold = Seen(), Hold()
    config = {"pipeline": {"threads": 1, "max_waiting": 1}}

    async def main(pipeline: Pipeline) -> None:
        first = asyncio.create_task(pipeline.asearch("first", budget_ms=60_000))
        await asyncio.to_thread(hold.entered.acquire)
        patient = asyncio.create_task(pipeline.asearch("patient", budget_ms=60_000, priority=-1))
        await asyncio.sleep(0)
        urgent = asyncio.create_task(pipeline.asearch("urgent", budget_ms=60_000, priority=1))
        with pytest.raises(OverloadedError):
            await patient
        with pytest.raises(OverloadedError):
            await pipeline.asearch("too many", budget_ms=60_000, priority=1)
        urgent.cancel()
        with pytest.raises(asyncio.CancelledError):
            await urgent
        assert pipeline.load == (1, 0)
        hold.go.set()
        await first

    with hashed_pipeline(snapshot_folder, config, hold=hold, observers=[seen]) as pipeline:
        asyncio.run(main(pipeline))
    assert [page.query for page in seen.pages] == ["first"]
    assert seen.refusals == [("patient", "overloaded"), ("too many", "overloaded"), ("urgent", "cancelled")]


def test_a_stage_sees_what_the_caller_has_switched_off_and_how_urgent_it_is() -> None:
    found: list[Any] = []
    middle = Fake("middle", ("candidates",), ("candidates",), action=lambda work: found.append(work.query))
    with Pipeline([recall(), middle, page()]) as pipeline:
        pipeline.search("x", priority=7)
        answer = pipeline.search("x", without=["middle"])
        for bad in (["recall"], ["nothing"], "middle"):
            with pytest.raises(QueryError):
                pipeline.search("x", without=bad)
        for bad_priority in (101, 1.5, True):
            with pytest.raises(QueryError):
                pipeline.search("x", priority=bad_priority)  # type: ignore[arg-type]
    assert [query.priority for query in found] == [7]
    assert not answer.degraded
    assert answer.trace.spans[1].decision == "switched off"


def test_the_gate_lets_the_urgent_query_through_first() -> None:
    from searchpipe.cost_model import CostModel
    from searchpipe.deadline import Deadline
    from searchpipe.gate import ComputeGate
    from searchpipe.query import Query
    from searchpipe.stages.base import Work

    gate, passed = ComputeGate(), []

    def work(priority: int) -> Work:
        return Work(Query("q", 1, priority=priority), Deadline(60_000), CostModel())

    def go(name: str, priority: int, kind: int) -> None:
        with gate.enter(work(priority), priority=kind, timeout_s=30):
            passed.append(name)

    threads = []
    with gate.enter(work(0), priority=0, timeout_s=30):
        for place, args in enumerate([("score", 0, 1), ("encode", 0, 0), ("urgent score", 1, 1)]):
            threads.append(threading.Thread(target=go, args=args))
            threads[-1].start()
            while len(gate._waiting) <= place:
                pass
    for thread in threads:
        thread.join()
    assert passed == ["urgent score", "encode", "score"]


def test_codes() -> None:
    assert code_of(QueryError("x")) == "bad_query"
    assert code_of(ValueError("x")) == "internal"


def test_logging_is_quiet_unless_asked(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), Pipeline([recall(), page()]) as pipeline:
        pipeline.search("shoes")
    assert not caplog.records
