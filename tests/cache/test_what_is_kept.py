"""Which pages a result cache keeps: whole ones, that come back as they were."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from searchpipe.cache import CacheStats
from searchpipe.cache.answers import Answers
from searchpipe.cache.settings import CacheSettings
from searchpipe.config import load_config
from searchpipe.cost_model import CostModel
from searchpipe.deadline import Deadline
from searchpipe.page import Hit
from searchpipe.pipeline import Pipeline
from searchpipe.query import Query
from searchpipe.runner import StageRunner
from searchpipe.stages.base import Work
from tests.fakes.hashed_stages import hashed_pipeline
from tests.test_pipeline import Fake, middle, page, recall

ON = {"cache": {"results_entries": 100}}
FULL = 60_000.0  # a budget that no query needs, in milliseconds


def results(pipeline: Pipeline) -> CacheStats:
    return pipeline.caches["results"]


def test_what_was_given_up_is_never_kept() -> None:
    broken = threading.Event()

    def fail(work: Work) -> None:
        if broken.is_set():
            raise RuntimeError("device lost")

    stages = [recall(), middle(fail), page()]
    with Pipeline(stages, config=load_config(ON)) as pipeline:
        broken.set()
        assert [pipeline.search("x", budget_ms=FULL).degraded for _ in range(2)] == [True, True]
        assert results(pipeline).entries == 0
        broken.clear()
        whole = pipeline.search("x", budget_ms=FULL)
        assert not whole.degraded
        assert not whole.cached
        broken.set()  # what was answered in full stays the answer
        again = pipeline.search("x", budget_ms=FULL)
        assert again.cached
        assert again.hits == whole.hits
        assert pipeline.search("y", budget_ms=FULL).degraded


def test_a_page_cut_short_is_not_kept_and_a_full_one_serves_any_budget(snapshot_folder: Path) -> None:
    with hashed_pipeline(snapshot_folder, ON) as pipeline:
        assert pipeline.search("red shoes", budget_ms=0.0001).degraded
        assert results(pipeline).entries == 0
        full = pipeline.search("red shoes", budget_ms=FULL)
        hurried = pipeline.search("red shoes", budget_ms=0.0001)
        assert hurried.cached
        assert not hurried.degraded
        assert hurried.hits == full.hits


def _pages_of(hits: list[Hit], extras: dict[str, Any] | None = None) -> Pipeline:
    def run(work: Work) -> None:
        work.hits = hits
        work.extras.update(extras or {})

    stage = Fake("page", ("candidates",), ("hits",), essential=True, action=run)
    return Pipeline([recall(), stage], config=load_config(ON))


@pytest.mark.parametrize(
    "fields",
    [{"t": (1, 2)}, {"t": object()}, {"t": 1 << 80}, {"t": math.nan}, {"t": "\ud800"}, {1: "t"}],
    ids=["tuple", "object", "large", "nan", "surrogate", "key"],
)
def test_what_bytes_do_not_hold_is_not_kept(fields: dict[Any, Any]) -> None:
    with _pages_of([Hit(1, "a", 1.0, {}, fields, ())]) as pipeline:
        for _ in range(2):
            answer = pipeline.search("x", budget_ms=FULL)
            assert not answer.cached
            assert answer[0].fields is fields
        assert (results(pipeline).entries, results(pipeline).bypassed) == (0, 2)


def test_slots_of_ones_own_and_scores_that_are_no_floats_are_not_kept() -> None:
    for hits, extras in (
        ([Hit(1, "a", 1.0, {}, {}, ())], {"intent": "shoes"}),
        ([Hit(1, "a", 1.0, {"s": np.float32(0.5)}, {}, ())], {}),
    ):
        with _pages_of(hits, extras) as pipeline:  # type: ignore[arg-type]
            assert not [pipeline.search("x", budget_ms=FULL) for _ in range(2)][1].cached


def test_fields_come_back_as_they_were() -> None:
    fields = {
        "a": None,
        "b": [1, 2.5, {"c": True}],
        "d": "\u00e9\u65e5",
        "e": -(1 << 63),
        "f": 0.1,
        "g": b"\0",
    }
    with _pages_of([Hit(1, "a", 0.1, {"s": -0.0}, fields, ("r",))]) as pipeline:
        first, second = (pipeline.search("x", budget_ms=FULL) for _ in range(2))
    assert second.cached
    assert repr(second.hits) == repr(first.hits)


def test_a_context_that_a_stage_changes_belongs_to_no_key() -> None:
    def meddle(work: Work) -> None:
        work.query.context["seen"] += 1  # type: ignore[index]

    context = {"seen": 0}
    with Pipeline([recall(), middle(meddle), page()], config=load_config(ON)) as pipeline:
        assert not pipeline.search("x", budget_ms=FULL, context=context).cached
        assert not pipeline.search("x", budget_ms=FULL, context={"seen": 0}).cached
        assert context == {"seen": 1}


def test_what_was_given_up_before_the_first_stage_is_on_the_page() -> None:
    runner = StageRunner([recall(), middle(), page()], {}, CostModel())
    answers = Answers(runner, CacheSettings(results_entries=5))

    def work() -> Work:
        return Work(Query("x", 3, without=frozenset({"middle"})), Deadline(math.inf), runner.costs)

    assert not answers.run(work()).degraded
    lightened = work()
    lightened.degrade("busy", "middle")  # left out for others' sake, not because the caller said so
    found = answers.run(lightened)
    assert found.degraded
    assert not found.cached
    assert answers.run(work()).cached
