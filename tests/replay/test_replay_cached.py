"""A report says how much of its latency is that of a cache."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from searchpipe.cli.compare import print_comparison
from searchpipe.cli.replay import print_report
from searchpipe.pipeline import Pipeline
from searchpipe.replay.compare import ComparePlan, compare_sides
from searchpipe.replay.compare_html import comparison_html
from searchpipe.replay.report_html import report_html
from searchpipe.replay.run import Callers, ReplayPlan, replay
from searchpipe.replay.targets import PipelineTarget, parse_page
from searchpipe.serve.answers import encode
from tests.fakes.hashed_stages import hashed_pipeline
from tests.serve.conftest import snapshot_folder

__all__ = ["snapshot_folder"]

QUERIES = ["red", "boots", "red", "red", "boots"]
FULL = 60_000.0


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(f'{{"ts": {n}, "query": "{text}"}}' for n, text in enumerate(QUERIES)))
    return path


@pytest.fixture
def kept(snapshot_folder: Path) -> Iterator[Pipeline]:
    with hashed_pipeline(snapshot_folder, {"cache": {"results_entries": 10}}) as pipeline:
        yield pipeline


@pytest.fixture
def plain(snapshot_folder: Path) -> Iterator[Pipeline]:
    with hashed_pipeline(snapshot_folder) as pipeline:
        yield pipeline


def test_a_replay_counts_cached_answers(log: Path, kept: Pipeline, plain: Pipeline) -> None:
    said = []
    for pipeline in (kept, plain):
        report = replay(log, PipelineTarget(pipeline, budget_ms=FULL), ReplayPlan(Callers(1)))
        shown = io.StringIO()
        print_report(Console(file=shown, width=200), report)
        said.append((report.whole.cached, shown.getvalue(), report_html(report), report.target))
    assert [cached for cached, *_ in said] == [3, 0]
    for text in said[0][1:3]:
        assert "A result cache gave 3 of 5 answers (60.00%)" in text
    assert "result cache gave" not in said[1][1] + said[1][2]
    assert "results: hit rate 60.0%" in said[0][3]


def test_a_comparison_says_which_side_was_cached(log: Path, kept: Pipeline, plain: Pipeline) -> None:
    targets = (PipelineTarget(plain, budget_ms=FULL), PipelineTarget(kept, budget_ms=FULL))
    report = compare_sides(log, ("plain", "kept"), targets, ComparePlan(warm_up=0))
    assert (report.a.cached, report.b.cached) == (0, 3)
    assert report.whole.overlap.same_pages == 5
    shown = io.StringIO()
    print_comparison(Console(file=shown, width=200), report)
    assert "B: a result cache gave 3 of 5 answers" in shown.getvalue()
    assert "A: a result cache" not in shown.getvalue()
    assert "out of the result cache" in comparison_html(report)


def test_over_http_a_page_says_so_too(kept: Pipeline) -> None:
    answers = [parse_page(encode(kept.search("red", budget_ms=FULL).to_dict())) for _ in range(2)]
    assert [answer.cached for answer in answers] == [False, True]
    assert answers[0].items == answers[1].items
