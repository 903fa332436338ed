"""What follows recall's device before its turn: the same answers, and nothing left behind."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from searchpipe import _core
from searchpipe.candidates import Candidates
from searchpipe.page import Page
from searchpipe.pipeline import Pipeline
from searchpipe.recall.ahead import Begun
from searchpipe.runtime.forecast import Forecaster
from searchpipe.stages import device_wait
from searchpipe.stages.base import Work
from searchpipe.stages.head_start import HeadStart
from searchpipe.stages.prerank import Prerank
from searchpipe.stages.rehearsal import Rehearsal
from tests.conftest import World
from tests.fakes.cuda_driver import FakeDriver
from tests.runtime.gpu_world import Config

WAYS = ["planned", "not at all"]
FAR = 600_000.0  # a budget in milliseconds that no test uses up


class Heads:
    """How queries went."""

    def __init__(self) -> None:
        self.way = "planned"
        self.taken: list[str] = []
        self.dropped: list[str] = []


@pytest.fixture
def heads(monkeypatch: pytest.MonkeyPatch) -> Heads:
    """See what becomes of every query's head start."""
    seen = Heads()
    take, plan = HeadStart.take, device_wait.plan_head

    def taken(head: HeadStart, stage: str, candidates: Candidates) -> Any:
        step = take(head, stage, candidates)
        (seen.taken if step is not None else seen.dropped).append(stage)
        return step

    monkeypatch.setattr(HeadStart, "take", taken)
    monkeypatch.setattr(device_wait, "plan_head", lambda *a: plan(*a) if seen.way == "planned" else None)
    return seen


@pytest.fixture
def pipeline(world: World, gpu_config: Config, heads: Heads) -> Iterator[Pipeline]:
    with Pipeline.open(world.snapshot, gpu_config()) as opened:
        yield opened


def in_flight(pipeline: Pipeline) -> tuple[int, float]:
    """Batches that nobody has seen the end of, and seconds that are thought to be given to the engine."""
    assert pipeline.gpu is not None
    assert pipeline.gpu.scorer is not None
    chain = pipeline.gpu.scorer.chain
    for _ in range(2000):
        if not chain.scorer.stats().batches_in_flight:
            break
        threading.Event().wait(0.005)
    forecaster = chain.forecaster
    assert isinstance(forecaster, Forecaster)
    return chain.scorer.stats().batches_in_flight, forecaster.given_s


def requests(pipeline: Pipeline) -> int:
    assert pipeline.gpu is not None
    assert pipeline.gpu.scorer is not None
    return pipeline.gpu.scorer.chain.scorer.stats().requests


def same(one: Page, other: Page) -> None:
    assert [hit.id for hit in one] == [hit.id for hit in other]
    assert [hit.scores for hit in one] == [hit.scores for hit in other]
    assert [hit.fields for hit in one] == [hit.fields for hit in other]
    assert one.degradations == other.degradations
    for span, its in zip(one.trace.spans, other.trace.spans, strict=True):
        assert (span.stage, span.n_in, span.n_out, span.decision, span.units) == (
            its.stage,
            its.n_in,
            its.n_out,
            its.decision,
            its.units,
        )


@pytest.mark.parametrize("budget_ms", [FAR, math.inf])
@pytest.mark.parametrize("without", [(), ("prerank",), ("score",), ("prerank", "score"), ("lexical",)])
def test_every_way_gives_the_same_page(
    pipeline: Pipeline, heads: Heads, world: World, without: tuple[str, ...], budget_ms: float
) -> None:
    asked: dict[str, Any] = {"budget_ms": budget_ms}
    if without != ("lexical",):
        asked["without"] = without
    for text in world.queries[:6]:
        pages = {}
        for heads.way in WAYS:
            heads.taken.clear()
            before = requests(pipeline)
            pages[heads.way] = pipeline.search(text, **asked)
            assert requests(pipeline) - before == (0 if "score" in without else 1)
            if heads.way == "not at all":
                assert not heads.taken
        assert not pages["planned"].degradations
        same(pages["planned"], pages["not at all"])
    assert not heads.dropped
    assert in_flight(pipeline) == (0, 0.0)


def test_a_plan_is_taken_over(pipeline: Pipeline, heads: Heads, world: World) -> None:
    for text in world.queries[:8]:
        pipeline.search(text, budget_ms=FAR)
    assert heads.taken.count("score") >= 1  # not if the lexical search takes longer
    assert heads.taken.count("score") == heads.taken.count("prerank")


def test_a_plan_is_made_though_the_device_is_done_already(
    pipeline: Pipeline, heads: Heads, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Begun, "ended", lambda begun: begun._pending.wait(10.0))
    for text in world.queries[:8]:
        pipeline.search(text, budget_ms=FAR)
    assert heads.taken.count("score") >= 1  # not if a thread's part of the lexical search takes longer


def test_other_candidates_drop_what_was_begun(
    pipeline: Pipeline, heads: Heads, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Prerank.run

    def turned(stage: Prerank, work: Work) -> None:
        run(stage, work)
        if not isinstance(work, Rehearsal) and work.candidates is not None:  # not when it is tried beforehand
            work.candidates = work.candidates.take(
                np.arange(len(work.candidates), dtype=np.int32)[::-1].copy()
            )

    monkeypatch.setattr(Prerank, "run", turned)
    pages = {}
    for heads.way in WAYS:
        pages[heads.way] = [pipeline.search(text, budget_ms=FAR) for text in world.queries[:12]]
    for one, other in zip(*pages.values(), strict=True):
        same(one, other)
    assert not any(page.degradations for page in pages["planned"])
    assert heads.taken.count("prerank") >= 1  # not if the lexical search takes longer
    assert heads.dropped.count("score") >= 1
    assert in_flight(pipeline) == (0, 0.0)


def test_too_little_time_begins_nothing(pipeline: Pipeline, heads: Heads, world: World) -> None:
    assert pipeline.gpu is not None
    assert pipeline.gpu.scorer is not None
    forecaster = pipeline.gpu.scorer.chain.forecaster
    assert forecaster is not None
    forecaster.given_s = 3600.0  # as if others had asked for an hour
    page = pipeline.search(world.queries[0], budget_ms=500.0)
    assert [d.reason for d in page.degradations if d.stage == "score"] == ["busy"]
    assert "score" not in heads.taken
    assert forecaster.given_s == 3600.0


def test_a_failed_launch_is_told_as_ever(
    pipeline: Pipeline, heads: Heads, world: World, fake: FakeDriver
) -> None:
    pipeline.search(world.queries[0], budget_ms=FAR)
    heads.taken.clear()
    plan = _core.HeadPlan.begin
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_core.HeadPlan, "begin", lambda *a: (fake.fail_call("cuGraphLaunch"), plan(*a))[1])
        for text in world.queries[1:]:
            page = pipeline.search(text, budget_ms=FAR)
            assert len(page) > 0
            if "score" in heads.taken:  # not if the lexical search takes longer
                break
    assert "score" in heads.taken
    assert [(d.stage, d.reason) for d in page.degradations] == [("score", "stage_failed")]
    assert in_flight(pipeline)[1] == 0.0


def test_a_stage_that_fails_after_the_launch_drops_it(
    pipeline: Pipeline, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(head: HeadStart, found: Any) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(HeadStart, "follows", interrupted)
    raised = 0
    for text in world.queries[:6]:
        try:
            pipeline.search(text, budget_ms=FAR)
        except KeyboardInterrupt:
            raised += 1
    assert raised >= 1
    assert in_flight(pipeline) == (0, 0.0)
    monkeypatch.undo()
    assert not pipeline.search(world.queries[0], budget_ms=FAR).degradations
