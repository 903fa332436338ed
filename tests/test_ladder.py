"""Every rung of the ladder, forced: the next rung's order exactly, the reason said, the full answer back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from searchpipe.config import load_config
from searchpipe.page import Page
from searchpipe.pipeline import Pipeline
from tests.conftest import World
from tests.fakes.faults import Clock, Fault, fault_in, stop_time

STAGES = ("tokenize", "encode", "recall", "prerank", "score", "diversify", "page")


def less(*stages: str, **tables: Any) -> dict[str, Any]:
    """The configuration without these stages."""
    return {"pipeline": {"stages": [s for s in STAGES if s not in stages]}, **tables}


DIVERSE = {"diversify": {"quotas": [{"column": "brand", "limit": 1}]}}
"""So that there are pages on which the stage matters."""

LEXICAL_ONLY = less("encode", recall={"sources": ["lexical"]})
DENSE_ONLY = less(recall={"sources": ["dense"]})

# What fails, and the configuration whose page is then expected.
RUNGS = {
    "tokenize": less("tokenize", "encode", "score", recall={"sources": ["lexical"]}),
    "encode": LEXICAL_ONLY,
    "lexical": DENSE_ONLY,
    "dense": LEXICAL_ONLY,
    "prerank": less("prerank"),
    "score": less("score"),
    "diversify": less("diversify"),
}
STAGE_OF = {"lexical": "recall", "dense": "recall"}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return stop_time(monkeypatch)


@pytest.fixture
def pipeline(world: World, clock: Clock) -> Iterator[Pipeline]:
    with Pipeline.open(world.snapshot, {**world.config, **DIVERSE}) as opened:
        yield opened


def order(page: Page) -> list[str]:
    return [hit.id for hit in page]


def telling_query(pipeline: Pipeline, world: World, part: str) -> str:
    """One whose page is another without the part."""
    if part in STAGE_OF or part in ("tokenize", "encode"):
        return world.queries[0]
    asked = {"budget_ms": math.inf}
    return next(
        text
        for text in world.queries
        if order(pipeline.search(text, **asked)) != order(pipeline.search(text, **asked, without=[part]))
    )


def reasons(page: Page) -> list[tuple[str, str]]:
    return [(d.stage, d.reason) for d in page.degradations]


@pytest.fixture
def rung(world: World, clock: Clock) -> Callable[..., list[str]]:
    """The order of a healthy pipeline that is configured to do less."""

    def ask(text: str, config: dict[str, Any], k: int = 10) -> list[str]:
        with Pipeline.open(world.snapshot, {**world.config, **DIVERSE, **config}) as lower:
            page = lower.search(text, k=k, budget_ms=math.inf)
        assert not page.degradations
        return order(page)

    return ask


def some_nan(which: Callable[[np.ndarray], np.ndarray]) -> Callable[..., Any]:
    def change(scores: np.ndarray, *_: Any) -> np.ndarray:
        changed = np.array(scores, np.float32)
        changed[which(np.arange(len(changed)))] = np.nan
        return changed

    return change


def nan_of_a_source(found: Any, *_: Any) -> Any:
    docs, scores = found
    return docs, np.full_like(scores, np.nan)


NAN: dict[str, Callable[..., Any]] = {
    "encode": lambda vectors, *_: np.full_like(vectors, np.nan),
    "lexical": nan_of_a_source,
    "dense": nan_of_a_source,
    "prerank": some_nan(lambda places: places >= 0),
    "score": some_nan(lambda places: places >= 0),
}


@pytest.mark.parametrize(
    ("part", "kind"), [*((part, "raises") for part in RUNGS), *((part, "nan") for part in NAN)]
)
def test_one_fault_costs_one_rung(
    pipeline: Pipeline, world: World, rung: Callable[..., Any], part: str, kind: str
) -> None:
    text = telling_query(pipeline, world, part)
    full = pipeline.search(text, budget_ms=math.inf)
    assert not full.degradations
    fault = fault_in(pipeline, part)
    if kind == "nan":
        fault.change(NAN[part])
    else:
        fault.fail(RuntimeError("CUDA error 2: out of memory"))
    page = pipeline.search(text, budget_ms=math.inf)
    assert order(page) == rung(text, RUNGS[part])
    assert order(page) != order(full)
    reason = "bad_scores" if kind == "nan" else "stage_failed"
    assert reasons(page) == [(STAGE_OF.get(part, part), reason)]
    if kind == "raises":
        assert "out of memory" in page.degradations[0].given_up
    fault.heal()
    again = pipeline.search(text, budget_ms=math.inf)
    assert (order(again), again.degradations) == (order(full), ())


@pytest.mark.parametrize("part", sorted(RUNGS))
def test_what_keeps_failing_is_left_out_and_comes_back(
    pipeline: Pipeline, world: World, clock: Clock, rung: Callable[..., Any], part: str
) -> None:
    text = world.queries[1]
    full = order(pipeline.search(text))
    lower = rung(text, RUNGS[part])
    policy = pipeline.config.breaker
    stage, fault = STAGE_OF.get(part, part), fault_in(pipeline, part)
    fault.fail(RuntimeError("broken"))
    for _ in range(policy.failures):
        page = pipeline.search(text)
        assert (order(page), reasons(page)) == (lower, [(stage, "stage_failed")])
    # Open: nobody asks it, and the page says so.
    calls = fault.calls
    for _ in range(3):
        page = pipeline.search(text)
        assert (order(page), reasons(page)) == (lower, [(stage, "circuit_open")])
        assert "broken" in page.degradations[0].given_up
    assert fault.calls == calls
    name = f"recall.{part}" if stage == "recall" else part
    assert f"{name} is left out, tried again in {policy.cool_down_s:.1f} s" in pipeline.describe()
    # Half open: one query tries it, and it is still broken; then it rests for twice as long.
    clock.advance(policy.cool_down_s)
    assert reasons(pipeline.search(text)) == [(stage, "stage_failed")]
    assert reasons(pipeline.search(text)) == [(stage, "circuit_open")]
    clock.advance(1.5 * policy.cool_down_s)
    assert reasons(pipeline.search(text)) == [(stage, "circuit_open")]
    fault.heal()
    clock.advance(policy.cool_down_s)
    for _ in range(policy.probes):
        page = pipeline.search(text)
        assert (order(page), page.degradations) == (full, ())
    [report] = [one for one in pipeline.breakers.reports() if one.name == name]
    assert (report.state, report.reason, report.trips) == ("closed", "", 2)
    assert "left out, tried" not in pipeline.describe()


def test_both_rankers_dead_leave_the_fused_order(
    pipeline: Pipeline, world: World, rung: Callable[..., Any]
) -> None:
    text = world.queries[2]
    full = order(pipeline.search(text))
    faults = [fault_in(pipeline, part) for part in ("prerank", "score")]
    for fault in faults:
        fault.fail(OSError("gone"))
    page = pipeline.search(text)
    assert order(page) == rung(text, less("prerank", "score"))
    assert reasons(page) == [("prerank", "stage_failed"), ("score", "stage_failed")]
    for fault in faults:
        fault.heal()
    assert order(pipeline.search(text)) == full


def test_every_optional_part_dead_still_gives_what_recall_has(
    pipeline: Pipeline, world: World, rung: Callable[..., Any]
) -> None:
    text = world.queries[3]
    for part in ("encode", "prerank", "score", "diversify"):
        fault_in(pipeline, part).fail(OSError("gone"))
    expected = rung(text, less("encode", "prerank", "score", "diversify", recall={"sources": ["lexical"]}))
    for _ in range(2 * pipeline.config.breaker.failures):
        assert order(pipeline.search(text)) == expected


def dead(pipeline: Pipeline, *parts: str) -> list[Fault]:
    faults = [fault_in(pipeline, part) for part in parts]
    for fault in faults:
        fault.fail(OSError("index gone"))
    return faults


def test_no_recall_at_all_is_an_empty_page_that_says_so_and_returns_at_once(
    pipeline: Pipeline, world: World
) -> None:
    text = world.queries[0]
    full = order(pipeline.search(text))
    faults = dead(pipeline, "lexical", "dense")
    for _ in range(3 * pipeline.config.breaker.failures):
        # Also while both circuits are open: there is nothing else to ask.
        page = pipeline.search(text)
        assert len(page) == 0
        assert reasons(page) == [("recall", "stage_failed")] * 3
        assert "Every recall source failed" in page.degradations[-1].given_up
    faults[0].heal()
    page = pipeline.search(text)
    assert len(page) == 10
    assert ("recall", "circuit_open") in reasons(page)
    faults[1].heal()
    assert len(full) == 10


def test_a_page_that_cannot_be_built_is_empty_and_says_so(pipeline: Pipeline, world: World) -> None:
    text = world.queries[0]
    full = order(pipeline.search(text))
    [fault] = dead(pipeline, "page")
    for _ in range(3 * pipeline.config.breaker.failures):  # essential: no circuit opens
        page = pipeline.search(text)
        assert (len(page), reasons(page)) == (0, [("page", "stage_failed")])
    fault.heal()
    assert order(pipeline.search(text)) == full


def test_some_nan_scores_cost_only_their_candidates(
    pipeline: Pipeline, world: World, rung: Callable[..., Any]
) -> None:
    text, k = world.queries[0], 300
    every = rung(text, less("diversify"), k)
    before = rung(text, less("diversify", "score"), k)
    depth = load_config(world.config).score.depth
    lost = set(before[:depth:3])
    with Pipeline.open(world.snapshot, {**world.config, **less("diversify")}) as opened:
        fault = fault_in(opened, "score")
        fault.change(
            lambda scores, _query, _store, docs: np.where(
                np.isin(opened.snapshot.id_of(docs), list(lost)),
                np.nan,
                scores,  # type: ignore[union-attr]
            )
        )
        for _ in range(3 * opened.config.breaker.failures):  # a third is no reason to do without the others
            page = opened.search(text, k=k, budget_ms=math.inf)
        scored = [id_ for id_ in every if id_ in before[:depth] and id_ not in lost]
        assert order(page) == [*scored, *(id_ for id_ in before if id_ not in scored)]
        [degradation] = page.degradations
        assert (degradation.stage, degradation.reason) == ("score", "bad_scores")
        assert degradation.amount == pytest.approx(len(lost) / min(depth, len(before)))
        fault.heal()
        assert order(opened.search(text, k=k, budget_ms=math.inf)) == every


def test_breakers_can_be_switched_off(world: World, clock: Clock) -> None:
    with Pipeline.open(world.snapshot, {**world.config, "breaker": {"enabled": False}}) as opened:
        fault = fault_in(opened, "score")
        fault.fail(RuntimeError("broken"))
        for _ in range(20):
            assert reasons(opened.search(world.queries[0])) == [("score", "stage_failed")]
        assert fault.calls == 20
        assert opened.breakers.reports() == []
        assert "breakers   off" in opened.describe()
