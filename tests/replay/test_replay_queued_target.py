"""A pipeline asked through its own queue: what waits there spends its budget, what has no place is shed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from searchpipe.pipeline import Pipeline
from searchpipe.replay.entry import Entry
from searchpipe.replay.queued_target import QueuedTarget
from searchpipe.replay.targets import PipelineTarget, ShedError, TargetError
from tests.fakes.catalogs import snapshot_of
from tests.fakes.hashed_stages import Hold, hashed_pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("queued")
    snapshot_of(made).close()
    return made / "out"


@pytest.fixture
def held(folder: Path) -> Iterator[tuple[QueuedTarget, Hold]]:
    hold = Hold()
    target = QueuedTarget(
        hashed_pipeline(folder, {"pipeline": {"threads": 1, "max_waiting": 1}}, hold=hold), budget_ms=20_000
    )
    try:
        yield target, hold
    finally:
        hold.go.set()
        target.close()


def until_waiting(pipeline: Pipeline, count: int) -> None:
    end = time.monotonic() + 30
    while pipeline.load[1] != count:
        assert time.monotonic() < end
        time.sleep(0.005)


def test_the_answer_is_that_of_a_direct_search(folder: Path) -> None:
    entry = Entry(0.0, "red running shoes", k=3, budget_ms=5000, filters={"price": {"gte": 1}})
    direct, queued = PipelineTarget(hashed_pipeline(folder)), QueuedTarget(hashed_pipeline(folder))
    try:
        assert queued.search(entry).items == direct.search(entry).items
        with pytest.raises(TargetError) as refused:
            queued.search(Entry(0.0, "shoes", filters={"prize": 1}))
        assert refused.value.code == "bad_filter"
    finally:
        direct.close()
        queued.close()


def test_what_has_no_place_is_shed(held: tuple[QueuedTarget, Hold]) -> None:
    target, hold = held
    with ThreadPoolExecutor(2) as callers:
        running = callers.submit(target.search, Entry(0.0, "shoes"))
        assert hold.entered.acquire(timeout=30)
        waiting = callers.submit(target.search, Entry(0.0, "shoes"))
        until_waiting(target.pipeline, 1)
        with pytest.raises(ShedError):
            target.search(Entry(0.0, "shoes"))
        hold.go.set()
        assert running.result(30).items
        assert waiting.result(30).items


def test_the_wait_for_a_thread_spends_the_budget(held: tuple[QueuedTarget, Hold]) -> None:
    target, hold = held
    with ThreadPoolExecutor(2) as callers:
        running = callers.submit(target.search, Entry(0.0, "shoes"))
        assert hold.entered.acquire(timeout=30)
        waiting = callers.submit(target.search, Entry(0.0, "shoes", budget_ms=50))
        until_waiting(target.pipeline, 1)
        time.sleep(0.06)
        hold.go.set()
        # Somebody waited too long behind it: it may have been asked to do without scores.
        assert {reason for _, reason, _ in running.result(30).degradations} <= {"admission"}
        late = waiting.result(30)
        assert late.items  # recall and the page always run
        assert {reason for _, reason, _ in late.degradations} == {"deadline"}


def test_closing_answers_everybody_and_may_be_repeated(held: tuple[QueuedTarget, Hold]) -> None:
    target, hold = held
    with ThreadPoolExecutor(3) as callers:
        running = callers.submit(target.search, Entry(0.0, "shoes"))
        assert hold.entered.acquire(timeout=30)
        waiting = callers.submit(target.search, Entry(0.0, "shoes"))
        until_waiting(target.pipeline, 1)
        closing = callers.submit(target.close)
        hold.go.set()
        closing.result(30)
        assert running.result(30).items
        failure = waiting.exception(30)  # it began before the end, or hears of it
        assert failure is None or getattr(failure, "code", "") == "closed"
    target.close()
    with pytest.raises(TargetError):
        target.search(Entry(0.0, "shoes"))
    assert "replay-loop" not in {thread.name for thread in threading.enumerate()}
