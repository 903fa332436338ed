"""Our pipeline as a system of the capacity benchmark: what its pages count for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks import capacity_ours
from benchmarks.capacity_ours import PipelineSystem
from searchpipe.catalog.snapshot import Snapshot
from searchpipe.models.settings import LocalModel
from searchpipe.page import Degradation, Hit, Page, Span, Trace
from searchpipe.pipeline import Pipeline


class Shortening:
    """Scores ``scored`` of 8 candidates; without any, the page is empty."""

    gpu = None

    def __init__(self, scored: int, hits: int) -> None:
        self.scored, self.hits = scored, hits
        self.budgets: list[float] = []
        self.warm = False

    def warm_up(self) -> float:
        self.warm = True
        return 0.0

    def search(self, text: str, budget_ms: float) -> Page:
        self.budgets.append(budget_ms)
        given_up = () if self.scored == 8 else (Degradation("score", "shortened", "some", 0.5),)
        spans = (Span("score", 0.0, 1.0, 8, 8, units=self.scored),)
        hits = tuple(Hit(row + 1, str(row), 1.0 - row / 10, {}, {}, ()) for row in range(self.hits))
        return Page(text, hits, given_up, Trace(1.0, budget_ms, 1.0, spans))

    def close(self) -> None:
        return


class Rows:
    def ordinal_of(self, name: str) -> int:
        return int(name)


def opened(monkeypatch: pytest.MonkeyPatch, pipeline: Shortening, budget_ms: float) -> PipelineSystem:
    def model(kind: str) -> LocalModel:
        return LocalModel(kind, "encoder", Path("m"), Path("t"), "", 128, "mean", True, "", "")

    def open_pipeline(_snapshot: Any, _settings: Any) -> Shortening:
        return pipeline

    monkeypatch.setattr(capacity_ours, "int8_model", model)
    monkeypatch.setattr(Snapshot, "open", lambda *_, **__: Rows())
    monkeypatch.setattr(Pipeline, "open", open_pipeline)
    return PipelineSystem(Path("none"), candidates=8, full=False, gpu=False, budget_ms=budget_ms)


@pytest.mark.parametrize(("scored", "counted"), [(8, 8), (5, 0)])
def test_without_a_budget_all_or_nothing_counts(
    monkeypatch: pytest.MonkeyPatch, scored: int, counted: int
) -> None:
    pipeline = Shortening(scored, hits=3)
    found = opened(monkeypatch, pipeline, math.inf).ask("a")
    assert found.scored == counted
    assert found.documents == (0, 1, 2)
    assert pipeline.budgets == [math.inf]


@pytest.mark.parametrize("scored", [8, 5, 0])
def test_with_a_budget_what_was_scored_counts(monkeypatch: pytest.MonkeyPatch, scored: int) -> None:
    pipeline = Shortening(scored, hits=3)
    system = opened(monkeypatch, pipeline, 25.0)
    assert system.ask("a").scored == scored
    assert pipeline.budgets == [25.0]
    assert pipeline.warm
    assert "budget 25 ms" in system.describe()


def test_an_empty_page_is_a_failed_query(monkeypatch: pytest.MonkeyPatch) -> None:
    system = opened(monkeypatch, Shortening(0, hits=0), 25.0)
    with pytest.raises(RuntimeError, match="No candidates within 25 ms"):
        system.ask("a")
