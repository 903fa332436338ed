"""What a new version must show before it serves."""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from searchpipe.config import load_config
from searchpipe.errors import SwapError
from searchpipe.live.check import check
from searchpipe.live.compare import page_overlap, quantile
from searchpipe.live.settings import CheckSettings, ShadowSettings
from searchpipe.live.shadow import Shadow
from searchpipe.pipeline import Pipeline
from searchpipe.stages.base import Work
from tests.fakes.hashed_stages import Hold, hashed_stages
from tests.fakes.live_versions import QUERIES, config, open_hashed, open_live

CHECK = CheckSettings(latency_slack_ms=60_000.0)
SHADOW = ShadowSettings(share=1.0, seconds=30.0, queries=20, latency_slack_ms=60_000.0)


class Slow(Hold):
    def run(self, work: Work) -> None:
        time.sleep(0.05)


class Broken(Hold):
    def run(self, work: Work) -> None:
        raise RuntimeError("broken")


def with_stage(build: Path, stage: Hold) -> Pipeline:
    from searchpipe.catalog.snapshot import Snapshot

    snapshot = Snapshot.open(build)
    return Pipeline.open(snapshot, None, replace={**hashed_stages(snapshot), "prerank": stage})


def test_equal_versions_overlap_wholly(builds: list[Path]) -> None:
    with open_hashed(builds[0], load_config()) as one, open_hashed(builds[0], load_config()) as other:
        found = check(other, one.search, QUERIES, CHECK)
        assert found.compared == len(QUERIES)
        assert found.overlap == 1.0
        assert found.score_difference == found.emptied == 0.0
        assert page_overlap(one.search("red"), other.search("red")) == 1.0


def test_limits_of_the_check(builds: list[Path]) -> None:
    with open_hashed(builds[0], load_config()) as one, open_hashed(builds[1], load_config()) as other:
        with pytest.raises(SwapError, match=r"min_overlap is 0\.99"):
            check(other, one.search, QUERIES, CheckSettings(min_overlap=0.99, latency_slack_ms=60_000.0))
        with with_stage(builds[0], Slow()) as slow, pytest.raises(SwapError, match="latency_ratio"):
            check(slow, one.search, QUERIES, CheckSettings(latency_slack_ms=1.0, latency_ratio=1.0))
        with with_stage(builds[0], Broken()) as broken, pytest.raises(SwapError, match="stage_failed"):
            check(broken, one.search, QUERIES, CHECK)
        with pytest.raises(SwapError, match="golden query"):
            check(one, None, ["\x00"], CHECK)


def test_golden_queries_are_those_asked_lately(builds: list[Path]) -> None:
    asked: list[str] = []

    class Listening(Hold):
        def run(self, work: Work) -> None:
            asked.append(work.query.text)

    def opener(build: Path, settings: Any) -> Pipeline:
        return open_hashed(build, settings) if build == builds[0] else with_stage(build, Listening())

    settings = config(check={"latency_slack_ms": 60_000.0})
    with open_live(builds[0], settings, opener=opener) as live:
        for text in ("toy car", "red", "toy car"):
            live.search(text)
        live.swap(builds[1])
    assert set(asked) >= {"toy car", "red"}


def shadowed(live: Pipeline, new: Pipeline, settings: ShadowSettings, queries: int = 40) -> Any:
    shadow = Shadow(new, settings)
    over = threading.Event()

    def callers() -> None:
        place = 0
        while not over.is_set():
            text = QUERIES[place % len(QUERIES)]
            shadow.offer(text, {"k": 5, "budget_ms": 60_000}, live.search(text, 5, 60_000))
            place += 1

    calling = threading.Thread(target=callers)
    calling.start()
    try:
        return shadow.run()
    finally:
        over.set()
        calling.join(30)


def test_a_shadow_compares_pages_scores_and_latency(builds: list[Path]) -> None:
    with open_hashed(builds[0], load_config()) as one, open_hashed(builds[1], load_config()) as other:
        found = shadowed(one, other, SHADOW)
        assert found.compared >= 20
        assert found.failed == 0
        assert 0 < found.overlap < 1
        assert found.new_ms > 0
        assert found.live_ms > 0
        with (
            with_stage(builds[0], Broken()) as broken,
            pytest.raises(SwapError, match=r"(\d+) of \1 queries failed"),
        ):
            shadowed(one, broken, SHADOW)
        strict = ShadowSettings(share=1.0, seconds=30.0, queries=20, latency_slack_ms=0.5)
        with (
            with_stage(builds[0], Slow()) as slow,
            pytest.raises(SwapError, match=r"live\.shadow\.latency_ratio"),
        ):
            shadowed(one, slow, strict)


def test_a_full_queue_costs_the_caller_nothing(builds: list[Path]) -> None:
    hold = Hold()
    with open_hashed(builds[0], load_config()) as one, with_stage(builds[1], hold) as stuck:
        page = one.search("red")
        shadow = Shadow(stuck, ShadowSettings(share=1.0, seconds=0.3, queue=2, latency_slack_ms=60_000.0))
        running = threading.Thread(target=shadow.run)
        running.start()
        for _ in range(100):  # would wait for ever if it waited
            shadow.offer("red", {"budget_ms": 60_000}, page)
        hold.go.set()
        running.join(30)
        assert not running.is_alive()
        assert shadow._dropped >= 97


def test_a_swap_with_a_shadow_reports_it(builds: list[Path]) -> None:
    settings = config(shadow={"share": 1.0, "seconds": 20.0, "queries": 10, "latency_slack_ms": 60_000.0})
    over = threading.Event()
    with open_live(builds[0], settings) as live:

        def callers() -> None:
            while not over.is_set():
                live.search("running shoes", budget_ms=60_000)

        calling = threading.Thread(target=callers)
        calling.start()
        report = live.swap(builds[1])
        over.set()
        calling.join(30)
        assert report.shadow is not None
        assert report.shadow.compared >= 10
        assert live.last_swap == report


def test_quantiles() -> None:
    assert math.isnan(quantile([], 0.9))
    assert quantile([4.0], 0.9) == 4.0
    assert quantile([float(n) for n in range(101)], 0.9) == pytest.approx(90.0)
