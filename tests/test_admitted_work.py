"""What a service does to the stages of a query, and what its page says of it."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from typing import Any

import pytest

from searchpipe.admitted_work import AdmittedWork, Services
from searchpipe.allotment import Allotment, Service
from searchpipe.config import load_config
from searchpipe.cost_model import CostModel
from searchpipe.deadline import REASONS, Deadline
from searchpipe.errors import OverloadedError
from searchpipe.pipeline import Pipeline
from searchpipe.query import Query
from tests.test_pipeline import Fake, page, recall


def stages() -> list[Any]:
    return [
        Fake("tokenize", (), ("tokens",)),
        Fake("encode", ("tokens",), ("vector",)),
        recall(),
        Fake("prerank", ("candidates",), ("candidates",)),
        Fake("score", ("tokens", "candidates"), ("candidates",)),
        page(),
    ]


def allotted(service: Service, limit_s: float = math.inf, *, budget_ms: float = 10_000.0) -> AdmittedWork:
    work = AdmittedWork(Query("shoes", 10), Deadline(budget_ms), CostModel())
    work.allot(Allotment(service, limit_s, 0.0, 0.0), Services(stages()), lambda: False)
    return work


def test_each_service_leaves_out_more_than_the_one_before() -> None:
    services = Services(stages())
    left_out = [services.without(service) for service in Service]
    assert left_out == [set(), set(), {"score"}, {"tokenize", "encode", "prerank", "score"}]


def test_what_recall_cannot_do_without_stays() -> None:
    assert Services(stages(), ("vector",)).without(Service.LIGHTEST) == {"prerank", "score"}
    reads_vector = Fake("recall", ("vector",), ("candidates",), essential=True)
    custom = [*stages()[:2], reads_vector, *stages()[3:]]
    assert Services(custom).without(Service.LIGHTEST) == {"prerank", "score"}
    only_source = Fake("find", (), ("candidates",))
    assert Services([only_source, Fake("score"), page()]).without(Service.LIGHTEST) == {"score"}
    assert Services([recall(), page()]).without(Service.LIGHTEST) == set()


def test_the_limit_shortens_the_allowance_and_names_itself() -> None:
    work = allotted(Service.SHORTENED, 0.5)
    assert 0.0 < work.allowance() <= 0.5
    work.stage = "score"
    work.degrade("shortened", "scored 3 of 100 candidates", 0.97)
    work.degrade("stage_failed", "broken")
    assert [d.reason for d in work.degradations] == ["admission", "stage_failed"]
    own = allotted(Service.SHORTENED, 60.0)
    assert own.allowance() > 1.0
    own.degrade("shortened", "")
    assert own.degradations[0].reason == "shortened"  # the query's own deadline
    assert "admission" in REASONS


def test_scoring_ends_when_others_wait_too_long() -> None:
    work = AdmittedWork(Query("shoes", 10), Deadline(10_000.0), CostModel())
    work.allot(Allotment(Service.FULL, math.inf, 0.0, 0.0), Services(stages()), lambda: True)
    work.stage = "prerank"
    assert work.allowance() > 1.0
    work.stage = "score"
    assert work.allowance() <= 0.0
    work.degrade("deadline", "score")
    assert work.degradations[0].reason == "admission"


def test_without_a_limit_of_its_own_a_query_is_left_alone() -> None:
    assert allotted(Service.FULL, budget_ms=math.inf).allowance() == math.inf


def test_the_page_of_a_lighter_service_says_so() -> None:
    class Lean(AdmittedWork):
        def allot(self, allotment: Allotment, *rest: Any) -> None:
            super().allot(Allotment(Service.LIGHTEST, math.inf, 0.0, 0.0), *rest)

    with Pipeline(stages()) as pipeline:
        begin = pipeline._begin

        def lean(*asked: Any) -> Lean:
            work = begin(*asked)
            return Lean(work.query, work.deadline, work.costs)

        pipeline._begin = lean  # type: ignore[method-assign, assignment]
        answer = asyncio.run(pipeline.asearch("shoes", budget_ms=60_000))
    assert len(answer) == 5
    assert {(d.stage, d.reason) for d in answer.degradations} == {
        (name, "admission") for name in ("tokenize", "encode", "prerank", "score")
    }


@pytest.mark.parametrize("admission", [True, False])
def test_a_flood_is_answered_or_refused_and_leaves_nothing_behind(admission: bool) -> None:
    config = load_config({"pipeline": {"threads": 2, "max_waiting": 16, "admission": admission}})

    async def ask(pipeline: Pipeline) -> list[Any]:
        first: list[Any] = await asyncio.gather(
            *(pipeline.asearch(f"w{n}", budget_ms=60_000) for n in range(10))
        )
        # The first flood teaches what the lightest service costs.
        floods = [[pipeline.asearch(f"q{n}", budget_ms=40) for n in range(200)] for _ in range(2)]
        for flood in floods:
            first.extend(await asyncio.gather(*flood, return_exceptions=True))
        return first

    with Pipeline([recall(seconds=0.005), page()], config=config) as pipeline:
        results = asyncio.run(ask(pipeline))
        shed = [result for result in results if isinstance(result, OverloadedError)]
        assert len(shed) >= 300
        assert all(isinstance(r, OverloadedError) or len(r) == 5 for r in results)
        assert pipeline.load == (0, 0)
        if admission:
            policy = pipeline.admission
            assert policy is not None
            assert policy.running == 0
            assert policy.shed.total() >= 100
            assert policy.admitted.total() == len(results) - len(shed) == policy.forecasts.count
            assert all(
                e.retry_after_s is not None and e.retry_after_s > 0 for e in shed if "Too many" in str(e)
            )
        else:
            assert pipeline.admission is None


def test_queries_of_the_callers_own_threads_count_as_load() -> None:
    go = threading.Event()
    seen: list[int] = []
    with Pipeline(
        [recall(), Fake("hold", ("candidates",), (), action=lambda _: go.wait(10)), page()]
    ) as pipeline:
        asked = threading.Thread(target=lambda: pipeline.search("x", budget_ms=math.inf))
        asked.start()
        while not pipeline.load[0]:
            time.sleep(0.001)

        async def main() -> None:
            task = asyncio.create_task(pipeline.asearch("y", budget_ms=60_000))
            await asyncio.sleep(0)
            assert pipeline.admission is not None
            seen.append(pipeline.admission._outside)
            go.set()
            await task

        asyncio.run(main())
        asked.join(10)
    assert seen == [1]
