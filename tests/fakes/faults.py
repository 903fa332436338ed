"""Faults on demand: a method of a real stage, engine or source that raises, is slow or gives NaN."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from searchpipe import pipeline as pipeline_module
from searchpipe.cost_model import CostModel
from searchpipe.deadline import Deadline
from searchpipe.pipeline import Pipeline
from searchpipe.stage_breakers import StageBreakers
from searchpipe.stages import base


class Clock:
    """Seconds that pass only when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def stop_time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Give pipelines that are opened from now on a clock that stands still: budgets, costs and breakers."""
    clock = Clock()
    monkeypatch.setattr(pipeline_module, "Deadline", partial(Deadline, clock=clock))
    monkeypatch.setattr(pipeline_module, "CostModel", partial(CostModel, clock=clock))
    monkeypatch.setattr(StageBreakers, "configured", partial(StageBreakers.configured, clock=clock))
    monkeypatch.setattr(base, "time", SimpleNamespace(perf_counter=clock))
    return clock


class Fault:
    """Stands in for one method of an object, and does what that does until it is told otherwise.

    Args:
        owner: of the method; an instance, of which nothing else changes.
        method: its name.
        clock: what a slow call takes its time from.
    """

    def __init__(self, owner: Any, method: str, clock: Clock | None = None) -> None:
        self.real = getattr(owner, method)
        self.calls = 0
        self._clock = clock
        self.heal()
        setattr(owner, method, self)

    def heal(self) -> None:
        """Work as before."""
        self._error: Exception | None = None
        self._left = math.inf
        self._seconds: Callable[..., float] = lambda *_: 0.0
        self._change: Callable[..., Any] | None = None

    def fail(self, error: Exception, times: float = math.inf) -> None:
        """Raise ``error``, the next ``times`` calls."""
        self._error, self._left = error, times

    def slow(self, seconds: float | Callable[..., float]) -> None:
        """Take so long, or as long as the function of the arguments says."""
        self._seconds = seconds if callable(seconds) else lambda *_: seconds

    def change(self, change: Callable[..., Any]) -> None:
        """Return ``change(result, *arguments)``."""
        self._change = change

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.calls += 1
        if self._clock is not None:
            self._clock.advance(self._seconds(*arguments))
        if self._error is not None and self._left > 0:
            self._left -= 1
            raise self._error
        result = self.real(*arguments, **options)
        return result if self._change is None else self._change(result, *arguments)


def stage_of(pipeline: Pipeline, name: str) -> Any:
    """The stage of that name."""
    [found] = [stage for stage in pipeline.stages if stage.name == name]
    return found


def fault_in(pipeline: Pipeline, part: str, clock: Clock | None = None) -> Fault:
    """A fault where ``part`` does its work: a stage, ``lexical`` or ``dense``."""
    if part in ("lexical", "dense"):
        [source] = [one for one in stage_of(pipeline, "recall")._sources if one.name == part]
        return Fault(source, "search", clock)
    stage = stage_of(pipeline, part)
    inside = {
        "score": ("_scorer", "score"),
        "encode": ("_encoder", "encode"),
        "prerank": ("_ranker", "score"),
    }
    if part in inside:
        attribute, method = inside[part]
        return Fault(getattr(stage, attribute), method, clock)
    return Fault(stage, "run", clock)
