"""A pipeline with a result cache gives the pages of one without."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from searchpipe.cache import BoundedCache, CacheStats, uncached
from searchpipe.cache.answers import Answers
from searchpipe.cache.settings import CacheSettings
from searchpipe.catalog.snapshot import Snapshot
from searchpipe.cost_model import CostModel
from searchpipe.deadline import Deadline, QueryCancelled
from searchpipe.errors import ClosedError, ConfigError, QueryError
from searchpipe.gate import ComputeGate
from searchpipe.page import Page
from searchpipe.pipeline import Pipeline
from searchpipe.query import Query
from searchpipe.runner import StageRunner
from searchpipe.settings import convert
from searchpipe.stages.base import Work
from searchpipe.stages.encode import Encode
from tests.fakes.hashed_stages import HashedVectors, Hold, hashed_pipeline, hashed_stages
from tests.test_pipeline import page, recall

ON = {"cache": {"results_entries": 100}}
FULL = 60_000.0  # a budget that no query needs, in milliseconds


class Watching:
    def __init__(self) -> None:
        self.pages: list[Page] = []

    def answered(self, page: Page) -> None:
        self.pages.append(page)

    def refused(self, text: object, error: BaseException) -> None: ...


@pytest.fixture(scope="module")
def both(snapshot_folder: Path) -> Iterator[tuple[Pipeline, Pipeline]]:
    """One with small caches, which forget much, and one without."""
    small = {"cache": {"results_entries": 6, "results_mb": 0.01}}
    snapshot = Snapshot.open(snapshot_folder)
    vectors = Encode(HashedVectors(), ComputeGate(), cache=BoundedCache(3))
    stages = {**hashed_stages(snapshot), "encode": vectors}
    with Pipeline.open(snapshot, small, replace=stages) as kept, hashed_pipeline(snapshot_folder) as plain:
        yield kept, plain


def results(pipeline: Pipeline) -> CacheStats:
    return pipeline.caches["results"]


def content(page: Page) -> tuple[Any, ...]:
    return page.query, page.hits, page.degradations, page.snapshot, page.extras


QUERIES = st.fixed_dictionaries(
    {
        "text": st.sampled_from(["red shoes", "Red shoes", "red", "boots", "toy car", "caf\u00e9", "zzz"]),
        "k": st.sampled_from([1, 2, 10]),
        "filters": st.sampled_from(
            [
                None,
                {},
                {"is_sale": False},
                {"is_sale": 0},
                {"is_sale": True},
                {"price": {"lte": 80}},
                {"price": {"lte": 80.0}},
                {"price": {"lt": 80}},
                {"brand": ["Acme", "Zoom"]},
                {"brand": ["Zoom", "Acme"]},
                {"brand": {"ne": "Acme"}},
                {"brand": {"exists": False}},
            ]
        ),
        "context": st.sampled_from([None, {"user": 1}, {"user": True}, {"user": object()}]),
        "without": st.sampled_from([(), ("score",), ("diversify", "score"), ("encode",)]),
    }
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(QUERIES, min_size=6, max_size=12))
def test_the_same_pages_in_any_order_of_queries(
    both: tuple[Pipeline, Pipeline], queries: list[dict[str, Any]]
) -> None:
    kept, plain = both
    for query in (*queries, *reversed(queries)):
        expected, found = plain.search(**query, budget_ms=FULL), kept.search(**query, budget_ms=FULL)
        assert content(found) == content(expected)
        assert found.trace.budget_ms == FULL
    stats = results(kept)
    assert stats.entries <= 6
    assert stats.bytes <= 0.01 * 2**20
    assert kept.caches["embeddings"].entries <= 3


def test_the_property_above_met_the_cache(both: tuple[Pipeline, Pipeline]) -> None:
    for stats in both[0].caches.values():
        assert stats.hits > 5
        assert stats.evictions > 5
    assert results(both[0]).bypassed > 0


def test_a_hit_is_a_page_of_its_own(snapshot_folder: Path) -> None:
    watching = Watching()
    with hashed_pipeline(snapshot_folder, ON, observers=[watching]) as pipeline:
        first = pipeline.search("red shoes", budget_ms=FULL)
        second = pipeline.search("red shoes", budget_ms=500, priority=7)
        assert not first.cached
        assert second.cached
        assert content(second) == content(first)
        assert second.engine == first.engine
        [span] = second.trace.spans
        assert (span.stage, span.decision, span.n_out) == ("cache", "hit", len(first))
        assert second.trace.budget_ms == 500
        assert 0 < span.ms <= second.trace.total_ms < math.inf
        assert watching.pages == [first, second]
        assert second.to_dict()["cached"] is True
        assert "hit rate 50.0%" in pipeline.describe()


def test_nobody_can_change_what_others_get(snapshot_folder: Path) -> None:
    with hashed_pipeline(snapshot_folder, ON) as pipeline, hashed_pipeline(snapshot_folder) as plain:
        expected = plain.search("red shoes", budget_ms=FULL).hits
        for _ in range(3):
            page = pipeline.search("red shoes", budget_ms=FULL)
            assert page.hits == expected
            for hit in page:
                hit.fields["title"] = "spoilt"
                for value in hit.fields.values():
                    if isinstance(value, list):
                        value.append("spoilt")
                hit.scores.clear()
            page.extras["mine"] = 1


def test_it_is_off_by_default_and_says_what_is_wrong(snapshot_folder: Path) -> None:
    with hashed_pipeline(snapshot_folder) as pipeline:
        assert pipeline.caches == {}
        assert not [pipeline.search("red", budget_ms=FULL) for _ in range(2)][1].cached
        assert "cache" not in pipeline.describe()
    for key, value in (
        ("results_entries", -1),
        ("results_entries", 1.5),
        ("results_mb", 0),
        ("results_ttl_s", -1),
        ("embeddings_entries", "many"),
    ):
        with pytest.raises(ConfigError, match=rf"cache\.{key}"):
            convert({key: value}, CacheSettings, where="cache")
    with pytest.raises(ConfigError, match="results_entries"):
        convert({"result_entries": 1}, CacheSettings, where="cache")


def test_pages_grow_old() -> None:
    clock = [0.0]
    runner = StageRunner([recall(), page()], {}, CostModel())
    answers = Answers(runner, CacheSettings(results_entries=5, results_ttl_s=10.0), clock=lambda: clock[0])

    def ask() -> bool:
        return answers.run(Work(Query("x", 3), Deadline(math.inf), runner.costs)).cached

    found = []
    for clock[0] in (0.0, 9.9, 10.0, 19.9, 20.0):
        found.append(ask())
    assert found == [False, True, False, True, False]
    assert answers.stats()["results"].expirations == 2


def test_going_round_the_cache(snapshot_folder: Path) -> None:
    with hashed_pipeline(snapshot_folder, ON) as pipeline:
        with uncached():
            assert not [pipeline.search("red", budget_ms=FULL) for _ in range(2)][1].cached

            async def ask() -> Page:
                return await pipeline.asearch("red", budget_ms=FULL)

            assert not asyncio.run(ask()).cached
        pipeline.warm_up()
        stats = results(pipeline)
        assert (stats.hits, stats.misses, stats.entries, stats.bypassed) == (0, 0, 0, 0)
        assert not pipeline.search("red", budget_ms=FULL).cached
        assert pipeline.search("red", budget_ms=FULL).cached


def test_asearch_answers_a_hit_though_every_thread_is_busy(snapshot_folder: Path) -> None:
    hold = Hold()
    config = {**ON, "pipeline": {"threads": 1, "max_waiting": 1}}
    with hashed_pipeline(snapshot_folder, config, hold=hold) as pipeline:

        async def ask() -> None:
            hold.go.set()
            first = await pipeline.asearch("red", budget_ms=FULL)
            hold.go.clear()
            while hold.entered.acquire(blocking=False):
                pass
            held = asyncio.create_task(pipeline.asearch("boots", budget_ms=FULL))
            assert await asyncio.to_thread(hold.entered.acquire, timeout=30)
            waiting = asyncio.create_task(pipeline.asearch("toy", budget_ms=FULL))
            await asyncio.sleep(0)
            again = await asyncio.wait_for(pipeline.asearch("red", budget_ms=FULL), 30)
            assert again.cached
            assert again.hits == first.hits
            hold.go.set()
            assert not (await held).cached
            assert not (await waiting).cached

        asyncio.run(ask())
        assert (results(pipeline).hits, results(pipeline).misses) == (1, 3)


def test_refusals_come_before_the_cache(snapshot_folder: Path) -> None:
    pipeline = hashed_pipeline(snapshot_folder, ON)
    pipeline.search("red", budget_ms=FULL)
    with pytest.raises(QueryError):
        pipeline.search("red", k=0)
    with pytest.raises(QueryError):
        pipeline.search("red", budget_ms=-1)
    pipeline.close()
    for _ in range(2):
        with pytest.raises(ClosedError):
            pipeline.search("red")
    assert results(pipeline).entries == 0


def test_a_caller_who_left_gets_nothing() -> None:
    runner = StageRunner([recall(), page()], {}, CostModel())
    answers = Answers(runner, CacheSettings(results_entries=5))
    answers.run(Work(Query("x", 3), Deadline(math.inf), runner.costs))
    work = Work(Query("x", 3), Deadline(math.inf), runner.costs)
    work.deadline.cancel()
    with pytest.raises(QueryCancelled):
        answers.run(work)


def test_many_threads_get_the_right_pages(snapshot_folder: Path) -> None:
    texts = ["red shoes", "boots", "toy car", "garden hose", "red", "blue"]
    tight = {"cache": {"results_entries": 3, "results_ttl_s": 0.005, "embeddings_entries": 2}}
    with hashed_pipeline(snapshot_folder, tight) as pipeline, hashed_pipeline(snapshot_folder) as plain:
        expected = {
            (text, k): plain.search(text, k, budget_ms=FULL).hits for text in texts for k in (1, 2, 5)
        }
        wrong: list[Any] = []
        end = time.monotonic() + 1.5

        def ask(seed: int) -> None:
            dice = np.random.default_rng(seed)
            while time.monotonic() < end and not wrong:
                text, k = texts[int(dice.integers(6))], (1, 2, 5)[int(dice.integers(3))]
                answer = pipeline.search(text, k, budget_ms=FULL)
                if not answer.degraded and answer.hits != expected[text, k]:
                    wrong.append((text, k, answer))

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        stats = results(pipeline)
        assert stats.hits > 0
        assert stats.evictions > 0
