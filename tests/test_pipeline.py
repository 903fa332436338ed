"""The pipeline with stages of the tests' own: order, budget, failures, threads."""

from __future__ import annotations

import asyncio
import math
import threading
import time

import numpy as np
import pytest

from searchpipe.candidates import Candidates
from searchpipe.config import Config, load_config
from searchpipe.cost_model import CostModel
from searchpipe.deadline import REASONS, Deadline
from searchpipe.errors import ClosedError, OverloadedError, PipelineError, QueryError
from searchpipe.page import Hit
from searchpipe.pipeline import Pipeline
from searchpipe.query import Query
from searchpipe.runner import StageRunner
from searchpipe.stages.base import Work


class Fake:
    essential = False

    def __init__(self, name, reads=(), writes=(), *, essential=False, action=None):
        self.name, self.reads, self.writes, self.essential = name, reads, writes, essential
        self.action = action
        self.runs = 0

    def run(self, work):
        self.runs += 1
        if self.action is not None:
            self.action(work)

    def describe(self):
        return f"fake {self.name}"


def recall(docs=5, seconds=0.0):
    def run(work):
        time.sleep(seconds)
        work.candidates = Candidates.of(np.arange(docs, dtype=np.int32), {"fused": np.ones(docs, np.float32)})

    return Fake("recall", (), ("candidates",), essential=True, action=run)


def page():
    def run(work):
        top = work.candidates.docs[: work.query.k]
        work.hits = [Hit(n + 1, str(d), 1.0, {}, {}, ()) for n, d in enumerate(top)]

    return Fake("page", ("candidates",), ("hits",), essential=True, action=run)


def middle(action=None):
    return Fake("middle", ("candidates",), ("candidates",), action=action)


def test_the_page_comes_from_the_stages():
    with Pipeline([recall(), middle(), page()]) as pipeline:
        answer = pipeline.search("red shoes", k=3)
    assert [h.id for h in answer] == ["0", "1", "2"]
    assert not answer.degraded
    assert [s.stage for s in answer.trace.spans] == ["recall", "middle", "page"]
    assert answer.trace.spans[0].n_out == 5
    assert answer.trace.total_ms >= sum(s.ms for s in answer.trace.spans)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], "No stage writes 'hits'"),
        ([recall(), recall(), page()], "Two stages are named 'recall'"),
        ([page()], "'page' reads 'candidates', which no stage before it writes"),
        ([recall(), object(), page()], "is not a stage"),
        ([recall()], "No stage writes 'hits'"),
    ],
)
def test_stages_that_do_not_fit_are_refused(stages, message):
    with pytest.raises(PipelineError, match=message):
        Pipeline(stages)


def test_slots_of_ones_own_are_checked_too():
    def give(work):
        work.extras["intent"] = "shoes"

    def use(work):
        assert work.extras["intent"] == "shoes"
        work.candidates.scores["mine"] = np.zeros(len(work.candidates), np.float32)

    own = Fake("intent", (), ("intent",), action=give)
    user = Fake("user", ("intent", "candidates"), ("candidates",), action=use)
    with pytest.raises(PipelineError, match="reads 'intent'"):
        Pipeline([recall(), user, page()])
    with Pipeline([own, recall(), user, page()]) as pipeline:
        answer = pipeline.search("x")
    assert not answer.degraded
    assert answer.extras == {"intent": "shoes"}


def test_a_failing_stage_is_given_up_and_said():
    def fail(work):
        raise RuntimeError("CUDA error 700")

    with Pipeline([recall(), middle(fail), page()]) as pipeline:
        answer = pipeline.search("x")
    assert len(answer) == 5
    [degradation] = answer.degradations
    assert (degradation.stage, degradation.reason) == ("middle", "stage_failed")
    assert "CUDA error 700" in degradation.given_up


def test_dead_recall_still_gives_an_answer():
    def fail(work):
        raise OSError("index gone")

    dead = Fake("recall", (), ("candidates",), essential=True, action=fail)
    with Pipeline([dead, middle(), page()]) as pipeline:
        answer = pipeline.search("x")
    assert len(answer) == 0
    assert [d.reason for d in answer.degradations] == ["stage_failed"]
    assert all(d.reason in REASONS for d in answer.degradations)


def test_no_time_left_runs_only_what_is_essential():
    skipped = middle()
    with Pipeline([recall(seconds=0.02), skipped, page()]) as pipeline:
        answer = pipeline.search("x", budget_ms=5)
    assert len(answer) == 5
    assert skipped.runs == 0
    assert [(d.stage, d.reason) for d in answer.degradations] == [("middle", "deadline")]
    assert answer.trace.longest_step_ms >= 20


def test_time_is_kept_free_for_later_stages():
    now = 0.0

    def takes_10_ms(work):
        nonlocal now
        now += 0.01

    allowances = []
    late = Fake("prerank", ("candidates",), ("candidates",), action=takes_10_ms)
    early = middle(lambda work: allowances.append(work.allowance()))
    runner = StageRunner([recall(), early, late, page()], load_config({}).budget.shares, CostModel())
    for _ in range(5):
        runner.run(Work(Query("x", 10), Deadline(100, clock=lambda: now), runner.costs))
    # Of 100 ms, 10 are the share of `prerank` and 5 the page's, as long as nothing is known of them.
    assert allowances[0] == pytest.approx(0.085)
    # What they cost, then: no more than their shares, and nothing for a page that took no time.
    assert allowances[-1] == pytest.approx(0.09, abs=1e-4)


@pytest.mark.parametrize(
    "kwargs",
    [{"text": ""}, {"k": 0}, {"k": 10**6}, {"budget_ms": -1}, {"budget_ms": math.nan}, {"context": 5}],
)
def test_bad_input_raises_before_any_stage(kwargs):
    first = recall()
    with Pipeline([first, page()]) as pipeline, pytest.raises(QueryError):
        pipeline.search(**{"text": "x", **kwargs})
    assert first.runs == 0


def test_filters_without_a_snapshot_are_refused():
    with Pipeline([recall(), page()]) as pipeline, pytest.raises(PipelineError, match="has none"):
        pipeline.search("x", filters={"price": 3})


def test_many_threads_get_their_own_answers():
    def tag(work):
        work.extras["text"] = work.query.text

    with Pipeline([recall(), middle(tag), page()]) as pipeline:
        wrong = []

        def go(name):
            for n in range(50):
                answer = pipeline.search(f"{name} {n}", k=1 + n % 5)
                if answer.extras["text"] != f"{name} {n}" or len(answer) != 1 + n % 5:
                    wrong.append(answer)

        threads = [threading.Thread(target=go, args=(f"t{i}",)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_asearch_answers_many_at_once():
    async def main(pipeline):
        return await asyncio.gather(*(pipeline.asearch(f"q{n}", k=2, budget_ms=math.inf) for n in range(20)))

    with Pipeline([recall(seconds=0.002), page()]) as pipeline:
        answers = asyncio.run(main(pipeline))
    assert [a.query for a in answers] == [f"q{n}" for n in range(20)]


def test_a_cancelled_caller_frees_the_rest_of_its_work():
    begun, go_on = threading.Event(), threading.Event()

    def wait(work):
        begun.set()
        go_on.wait(10)

    after = Fake("after", ("candidates",), ("candidates",))
    stages = [recall(), middle(wait), after, page()]

    async def main(pipeline):
        task = asyncio.create_task(pipeline.asearch("x", budget_ms=math.inf))
        await asyncio.to_thread(begun.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()

    with Pipeline(stages) as pipeline:
        asyncio.run(main(pipeline))
    assert after.runs == 0


def test_the_queue_of_waiting_callers_is_bounded_and_recovers():
    go_on = threading.Event()
    config = load_config({"pipeline": {"threads": 1, "max_waiting": 2}})

    async def main(pipeline):
        tasks = [asyncio.create_task(pipeline.asearch(f"q{n}", budget_ms=math.inf)) for n in range(6)]
        await asyncio.sleep(0.05)
        go_on.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    with Pipeline([recall(), middle(lambda work: go_on.wait(10)), page()], config=config) as pipeline:
        results = asyncio.run(main(pipeline))
        assert sum(isinstance(r, OverloadedError) for r in results) >= 3
        assert sum(not isinstance(r, Exception) for r in results) >= 2
        assert len(asyncio.run(pipeline.asearch("after"))) == 5
        assert pipeline.load == (0, 0)


def test_close_waits_refuses_and_may_be_repeated():
    begun, go_on = threading.Event(), threading.Event()

    def wait(work):
        begun.set()
        go_on.wait(10)

    pipeline = Pipeline([recall(), middle(wait), page()])
    answers = []
    searching = threading.Thread(target=lambda: answers.append(pipeline.search("x", budget_ms=math.inf)))
    searching.start()
    begun.wait(10)
    closing = threading.Thread(target=pipeline.close)
    closing.start()
    while not pipeline._closed:
        time.sleep(0.001)
    with pytest.raises(ClosedError):
        pipeline.search("y")
    assert closing.is_alive()
    go_on.set()
    searching.join(10)
    closing.join(10)
    assert len(answers[0]) == 5
    pipeline.close()
    with pytest.raises(ClosedError):
        asyncio.run(pipeline.asearch("z"))


def test_describe_names_every_stage_and_its_flow():
    with Pipeline([recall(), middle(), page()], config=Config()) as pipeline:
        text = pipeline.describe()
    assert "budget 50 ms" in text
    for part in ("recall", "middle", "page", "candidates -> hits", "fake middle"):
        assert part in text


def test_keyboard_interrupts_are_not_swallowed():
    def interrupt(work):
        raise KeyboardInterrupt

    with Pipeline([recall(), middle(interrupt), page()]) as pipeline, pytest.raises(KeyboardInterrupt):
        pipeline.search("x")
