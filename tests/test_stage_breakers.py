"""Which outcomes of a stage count for its breaker, which do not, and what is said of it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchpipe.config import Config, load_config
from searchpipe.deadline import QueryCancelled
from searchpipe.errors import (
    ConfigError,
    EngineError,
    EngineFailedError,
    EngineUnavailableError,
    OverloadedError,
)
from searchpipe.page import Degradation
from searchpipe.pipeline import Pipeline
from searchpipe.stage_breakers import StageBreaker, StageBreakers, StageBreakerSettings
from tests.fakes.faults import Clock
from tests.test_pipeline import Fake, middle, page, recall


def breaker_of(name: str = "score", **settings: float) -> StageBreaker:
    breakers = StageBreakers(
        StageBreakerSettings(**{"failures": 2, "min_outcomes": 4, **settings}),  # type: ignore[arg-type]
        shares={"prerank": 0.1, "recall": 0.2},
        budget_s=0.05,
        clock=Clock(),
    )
    found = breakers.of(name)
    assert found is not None
    return found


def gave_up(reason: str, amount: float = 1.0) -> Degradation:
    return Degradation("score", reason, "something", amount)


def test_a_limit_is_the_share_of_the_default_budget() -> None:
    assert breaker_of("prerank").limit_s == pytest.approx(0.005)
    assert breaker_of("recall.dense").limit_s == pytest.approx(0.01)
    assert breaker_of("score").limit_s == pytest.approx(0.7 * 0.05)  # what the others leave


@pytest.mark.parametrize(
    "error",
    [QueryCancelled(), OverloadedError("full"), EngineUnavailableError("next"), EngineFailedError("x")],
)
def test_what_is_not_the_stages_doing_opens_nothing(error: Exception) -> None:
    one = breaker_of()
    for _ in range(20):
        one.raised(one.admit(), error)
    one.raised(one.admit(), KeyboardInterrupt())
    assert (one.breaker.state, one.breaker.trips) == ("closed", 0)


@pytest.mark.parametrize("reason", ["busy", "deadline"])
def test_what_did_not_try_says_nothing(reason: str) -> None:
    one = breaker_of()
    for _ in range(20):
        one.returned(one.admit(), 1.0, 0.01, [gave_up(reason)])
    assert one.breaker.state == "closed"


@pytest.mark.parametrize(("amount", "state"), [(1.0, "open"), (0.5, "open"), (0.4, "closed")])
def test_scores_that_are_mostly_no_numbers_are_failures(amount: float, state: str) -> None:
    one = breaker_of()
    for _ in range(2):
        one.returned(one.admit(), 0.001, math.inf, [gave_up("bad_scores", amount)])
    assert one.breaker.state == state


def test_raising_opens_and_half_open_lets_one_in() -> None:
    one = breaker_of()
    for _ in range(2):
        one.raised(one.admit(), EngineError("broken"))
    assert one.admit() == 0
    assert one.reason == "EngineError: broken"


@given(st.floats(0.0, 1.0), st.floats(-1.0, 1.0))
def test_slow_is_longer_than_allowed_and_than_its_share(seconds: float, allowed: float) -> None:
    one = breaker_of(slow_share=1.0, min_outcomes=1, failures=1)
    one.returned(one.admit(), seconds, allowed, [])
    assert (one.breaker.state == "open") == (seconds > allowed and seconds > one.limit_s)


def test_a_probe_that_could_not_try_leaves_the_next_one_in() -> None:
    clock = Clock()
    breakers = StageBreakers(StageBreakerSettings(failures=1, probes=1), clock=clock)
    one = breakers.of("score")
    assert one is not None
    one.raised(one.admit(), RuntimeError("broken"))
    assert not one.admit()
    clock.advance(1.0)
    probe = one.admit()
    assert probe
    assert not one.admit()
    one.returned(probe, 0.0, 1.0, [gave_up("busy")])
    probe = one.admit()
    one.returned(probe, 0.0, 1.0, [])
    assert one.breaker.state == "closed"


def test_settings_come_from_the_configuration() -> None:
    settings = load_config({"breaker": {"failures": 7, "enabled": False}}).breaker
    assert (settings.failures, settings.enabled, settings.cool_down_s) == (7, False, 1.0)
    with pytest.raises(ConfigError, match="failure"):
        load_config({"breaker": {"failure": 7}})
    with pytest.raises(ConfigError):
        load_config({"breaker": {"failures": 0}})


def test_reports_and_lines_tell_what_is_left_out() -> None:
    breakers = StageBreakers(StageBreakerSettings(failures=1), clock=Clock())
    score, dense = breakers.of("score"), breakers.of_source("dense")
    assert breakers.of_source("dense") is dense is breakers.of("recall.dense")
    assert score is not None
    assert len(breakers.lines()) == 1
    score.raised(score.admit(), RuntimeError("no device"))
    closed, opened = breakers.reports()
    assert (closed.name, closed.state, closed.trips, closed.due_s) == ("recall.dense", "closed", 0, 0.0)
    assert (opened.name, opened.state, opened.trips, opened.due_s) == ("score", "open", 1, 1.0)
    assert breakers.lines()[1] == "score is left out, tried again in 1.0 s: RuntimeError: no device"


def test_a_pipeline_of_ones_own_stages_has_them_too() -> None:
    def fail(work: object) -> None:
        raise RuntimeError("broken")

    essential = Fake("intent", (), ("intent",), essential=True, action=fail)
    broken = middle(fail)
    with Pipeline([essential, recall(), broken, page()], config=Config()) as pipeline:
        for _ in range(9):
            answer = pipeline.search("x")
        assert len(answer) == 5
        assert [(d.stage, d.reason) for d in answer.degradations] == [
            ("intent", "stage_failed"),
            ("middle", "circuit_open"),
        ]
        assert (essential.runs, broken.runs) == (9, 5)
        assert answer.trace.spans[2].decision == "left out: RuntimeError: broken"
        assert [one.name for one in pipeline.breakers.reports()] == ["middle"]
        assert "middle is left out" in pipeline.describe()


def test_an_interrupt_gives_the_probe_back() -> None:
    error: BaseException = RuntimeError("broken")

    def fail(work: object) -> None:
        raise error

    config = load_config({"breaker": {"failures": 1, "cool_down_s": 1e-6}})
    with Pipeline([recall(), middle(fail), page()], config=config) as pipeline:
        pipeline.search("x")
        error = KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):
            pipeline.search("x")
        error = RuntimeError("again")
        assert [d.reason for d in pipeline.search("x").degradations] == ["stage_failed"]
